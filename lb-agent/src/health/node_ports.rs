//! A server for each Service whose health a load balancer checks (items 51 to 54).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use serde::Serialize;

use super::status::Status;
use crate::{
    desired::LocalReady,
    http::{JSON, ListenError, Reply, Request, Server, Site},
    model::ObjectName,
};

/// The servers of health check node ports.
#[derive(Debug)]
pub struct NodePorts {
    status: Arc<Status>,
    open: BTreeMap<ObjectName, Open>,
}

#[derive(Debug)]
struct Open {
    addrs: Vec<SocketAddr>,
    server: Server,
}

/// A port that cannot be listened to; it is tried again.
#[derive(Debug)]
pub struct ListenFailure {
    /// Whose port it is.
    pub service: ObjectName,
    /// What went wrong.
    pub error: ListenError,
}

impl NodePorts {
    /// No servers. They will answer out of `status`.
    #[must_use]
    pub fn new(status: Arc<Status>) -> Self {
        Self {
            status,
            open: BTreeMap::new(),
        }
    }

    /// Opens, closes and moves servers so that these Services have one each, at `addresses`.
    /// Returns what could not be opened at once.
    pub async fn sync(
        &mut self,
        wanted: &BTreeMap<ObjectName, LocalReady>,
        addresses: &[IpAddr],
    ) -> Vec<ListenFailure> {
        let addrs_of = |service: &ObjectName| {
            let port = wanted.get(service)?.port;
            Some(listen_addrs(port, addresses))
        };
        let stale = self.open.extract_if(.., |service, open| {
            addrs_of(service).as_ref() != Some(&open.addrs)
        });
        // First: one Service may get what was another's port.
        for (_, open) in stale.collect::<Vec<_>>() {
            open.server.close().await;
        }
        let mut failures = Vec::new();
        for (service, ready) in wanted {
            if self.open.contains_key(service) {
                continue;
            }
            let site = Arc::new(ServiceSite {
                service: service.clone(),
                status: Arc::clone(&self.status),
            });
            let addrs = listen_addrs(ready.port, addresses);
            let (server, failed) = Server::start(&addrs, &site);
            self.open.insert(service.clone(), Open { addrs, server });
            failures.extend(failed.into_iter().map(|error| ListenFailure {
                service: service.clone(),
                error,
            }));
        }
        failures
    }
}

fn listen_addrs(port: u16, addresses: &[IpAddr]) -> Vec<SocketAddr> {
    let addrs = addresses.iter().map(|ip| SocketAddr::new(*ip, port));
    addrs.collect()
}

/// What a probe of one Service is told, whatever it asks for.
struct ServiceSite {
    service: ObjectName,
    status: Arc<Status>,
}

impl Site for ServiceSite {
    async fn answer(&self, request: Request) -> Reply {
        let healthy = self.status.report(Instant::now()).healthy;
        let count = self.status.local(&self.service, request.is_v6);
        service_reply(&self.service, count, healthy)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceBody<'a> {
    service: ServiceName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceName<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn service_reply(service: &ObjectName, count: usize, healthy: bool) -> Reply {
    let body = ServiceBody {
        service: ServiceName {
            namespace: &service.namespace,
            name: &service.name,
        },
        local_endpoints: count,
        service_proxy_healthy: healthy,
    };
    let status = if count > 0 && healthy { 200 } else { 503 };
    Reply::new(status, JSON, indented_by_tabs(&body))
        .header("x-content-type-options", "nosniff")
        .header("x-load-balancing-endpoint-weight", count)
}

fn indented_by_tabs(body: &impl Serialize) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match body.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // Neither writing to memory nor these types can fail.
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const EVERYWHERE: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    ];

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    fn local(services: &[(&str, u16, usize)]) -> BTreeMap<ObjectName, LocalReady> {
        let entry = |&(service, port, count): &(&str, u16, usize)| {
            let ready = LocalReady {
                port,
                ipv4: Some(count),
                ipv6: Some(count + 1),
            };
            (name(service), ready)
        };
        services.iter().map(entry).collect()
    }

    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    async fn ask(ip: &str, port: u16) -> Option<String> {
        let addr = SocketAddr::new(ip.parse().unwrap(), port);
        let mut stream = TcpStream::connect(addr).await.ok()?;
        let request = "PUT /what/ever HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    #[test]
    fn s53_the_body_is_indented_by_tabs_and_the_headers_are_three() {
        let reply = service_reply(&name("etl"), 2, true);
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"etl\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        let headers = [
            ("content-type", "application/json"),
            ("x-content-type-options", "nosniff"),
            ("x-load-balancing-endpoint-weight", "2"),
        ];
        let headers = headers.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(reply.headers, headers);
    }

    #[test]
    fn s52_no_endpoint_or_an_unhealthy_proxy_is_503() {
        assert_eq!(service_reply(&name("etl"), 0, true).status, 503);
        assert_eq!(service_reply(&name("etl"), 2, false).status, 503);
    }

    #[tokio::test]
    async fn s52_changes_that_are_late_make_every_service_unhealthy_here() {
        let status = Arc::new(Status::new(false));
        status.set_local(local(&[("a", 1, 3)]));
        let site = ServiceSite {
            service: name("a"),
            status: Arc::clone(&status),
        };
        let status_code = async || site.answer(Request::default()).await.status;
        assert_eq!(
            status_code().await,
            200,
            "whether or not the node is eligible"
        );
        let minute = std::time::Duration::from_secs(60);
        status.queued(Instant::now().checked_sub(minute).unwrap());
        assert_eq!(status_code().await, 503);
        status.updated(Instant::now());
        assert_eq!(status_code().await, 200);
    }

    #[tokio::test]
    async fn s51_servers_come_move_and_go_with_their_services() {
        let status = Arc::new(Status::new(true));
        let mut ports = NodePorts::new(Arc::clone(&status));
        let (first, second) = (free_port(), free_port());
        let wanted = local(&[("a", first, 0), ("b", second, 1)]);
        status.set_local(wanted.clone());
        assert!(ports.sync(&wanted, &EVERYWHERE).await.is_empty());
        let answer = ask("127.0.0.1", first).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let answer = ask("::1", first).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        // They change places.
        let wanted = local(&[("a", second, 7), ("b", first, 8)]);
        status.set_local(wanted.clone());
        assert!(ports.sync(&wanted, &EVERYWHERE).await.is_empty());
        let answer = ask("127.0.0.1", second).await.unwrap();
        assert!(answer.contains("\"localEndpoints\": 7"), "{answer}");

        assert!(ports.sync(&local(&[]), &EVERYWHERE).await.is_empty());
        assert_eq!(ask("127.0.0.1", first).await, None);
        assert_eq!(ask("::1", second).await, None);
    }

    #[tokio::test]
    async fn s51_given_addresses_are_listened_to_instead() {
        let mut ports = NodePorts::new(Arc::new(Status::new(true)));
        let port = free_port();
        let addresses = [IpAddr::from([127, 0, 0, 2])];
        let wanted = local(&[("a", port, 1)]);
        assert!(ports.sync(&wanted, &addresses).await.is_empty());
        assert!(ask("127.0.0.2", port).await.is_some());
        assert!(ask("127.0.0.1", port).await.is_none());
        assert!(ask("::1", port).await.is_none());
    }

    #[tokio::test]
    async fn s54_a_port_that_is_taken_is_told_by_its_service_and_the_others_are_served() {
        let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let (theirs, ours) = (taken.local_addr().unwrap().port(), free_port());
        let mut ports = NodePorts::new(Arc::new(Status::new(true)));
        let wanted = local(&[("a", theirs, 1), ("b", ours, 1)]);
        let failures = ports.sync(&wanted, &EVERYWHERE).await;
        assert_eq!(failures.len(), 1, "only over IPv4: {failures:?}");
        assert_eq!(failures[0].service, name("a"));
        assert!(ask("127.0.0.1", ours).await.is_some());
        assert!(
            ports.sync(&wanted, &EVERYWHERE).await.is_empty(),
            "said once"
        );
    }
}
