//! The way to the API server.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder};

use super::{rotation::Rotation, times::Times};
use crate::{
    harden::Needs,
    model::{Model, ObjectName},
};

/// A connection is probed when it has been idle for so long, …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// … then so often, …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and is dead after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;
/// Or when what was sent is not acknowledged for so long.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Names of the Service `kubernetes` for those that use the cluster's DNS.
const SERVICE_HOST: &str = "kubernetes";

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The kubeconfig; without one we are a pod of the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of API servers (`https://10.0.0.1:6443`), in place of the one that the kubeconfig
    /// or the pod's environment names. Any of them will do: they are tried in turn. If all are
    /// plain `http://` and there is no kubeconfig, no credentials are sent.
    pub servers: Vec<String>,
}

impl Connection {
    /// What it takes to stay connected: credentials are read anew.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        let Some(path) = &self.kubeconfig else {
            return needs;
        };
        needs.reads.push(path.clone());
        // One that cannot be read is told of by whoever connects.
        let Ok(kubeconfig) = Kubeconfig::read_from(path) else {
            return needs;
        };
        for user in kubeconfig
            .auth_infos
            .into_iter()
            .flat_map(|user| user.auth_info)
        {
            needs.runs_commands |= user.exec.is_some() || user.auth_provider.is_some();
            let files = [user.client_certificate, user.client_key, user.token_file];
            needs
                .reads
                .extend(files.into_iter().flatten().map(directory));
        }
        for cluster in kubeconfig.clusters.into_iter().flat_map(|c| c.cluster) {
            needs
                .reads
                .extend(cluster.certificate_authority.map(directory));
        }
        needs
    }
}

/// The directory of a file, which another one may replace.
fn directory(file: String) -> PathBuf {
    let file = PathBuf::from(file);
    file.parent().map(Path::to_owned).unwrap_or(file)
}

/// Why a cluster cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file cannot be used.
    #[error("read kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is no service account, so this is no pod of a cluster.
    #[error("read the service account of the pod (outside a cluster, say --kubeconfig)")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// The address of an API server is none.
    #[error("use `{server}` as the address of an API server: write it like https://10.0.0.1:6443")]
    Server {
        /// The address.
        server: String,
    },
    /// A service account's token would be sent for everyone on the way to read.
    #[error("send the service account's token to {server}: use https, or http for all servers")]
    Plain {
        /// The address.
        server: String,
    },
    /// The API server is behind a proxy.
    #[error("connect through {proxy}: proxies are not supported (unset HTTPS_PROXY)")]
    Proxy {
        /// The proxy.
        proxy: String,
    },
    /// The configuration does not make a client.
    #[error("set up the client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client, and the servers that it talks to.
pub(super) struct Connected {
    /// The client.
    pub(super) client: Client,
    /// The servers; at least one.
    pub(super) servers: Vec<Uri>,
}

/// Sets up a client; does not talk to the API server yet.
pub(super) async fn connect(connection: &Connection, times: &Times) -> Result<Connected, Error> {
    // A second installation fails and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let servers = connection.servers.iter().map(|server| parse(server));
    let mut servers = servers.collect::<Result<Vec<Uri>, Error>>()?;
    let in_cluster = |error| Error::InCluster(Box::new(error));
    let mut config = match (&connection.kubeconfig, servers.first()) {
        (Some(path), _) => load(path).await?,
        (None, None) => Config::incluster().map_err(in_cluster)?,
        (None, Some(server)) if servers.iter().all(is_plain) => Config::new(server.clone()),
        (None, Some(_)) => match servers.iter().find(|server| is_plain(server)) {
            Some(server) => {
                let server = server.to_string();
                return Err(Error::Plain { server });
            }
            // Unlike the other, this one needs no environment.
            None => Config::incluster_dns().map_err(in_cluster)?,
        },
    };
    match servers.first() {
        Some(server) => config.cluster_url = server.clone(),
        None => servers.push(config.cluster_url.clone()),
    }
    if let Some(proxy) = &config.proxy_url {
        let proxy = proxy.to_string();
        return Err(Error::Proxy { proxy });
    }
    let rotation = Rotation::new(servers.clone(), times.response);
    let tcp = connector(times);
    let client = if servers.iter().all(is_plain) {
        client(tcp, &config, rotation)
    } else {
        let tls = config.rustls_https_connector_with_connector(tcp);
        tls.and_then(|tls| client(tls, &config, rotation))
    };
    let client = client.map_err(|error| Error::Client(Box::new(error)))?;
    Ok(Connected { client, servers })
}

async fn load(path: &Path) -> Result<Config, Error> {
    let wrap = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrap)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(wrap)
}

fn parse(server: &str) -> Result<Uri, Error> {
    let uri: Option<Uri> = server.trim().parse().ok();
    let is_usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|h| !h.is_empty())
    };
    uri.filter(is_usable).ok_or_else(|| Error::Server {
        server: server.to_owned(),
    })
}

fn is_plain(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTP)
}

/// kube's own stack, but that dead connections are noticed, and that there are several servers.
///
/// kube's layers keep the token and the certificates of a service account fresh.
fn client<C>(connector: C, config: &Config, rotation: Rotation) -> Result<Client, kube::Error>
where
    C: legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(rotation)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, &config.default_namespace).build())
}

fn connector(times: &Times) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(times.connect));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    connector
}

/// The server that is reached by way of a Service, which this agent itself has to serve: after a
/// restart of the node, neither would come up.
pub(super) fn served_by_us<'a>(servers: &'a [Uri], model: &Model) -> Option<&'a str> {
    let name = ObjectName::new("default", SERVICE_HOST);
    let kubernetes = model.services.get(&name);
    let is_ours = |addr: IpAddr| {
        kubernetes.is_some_and(|service| service.cluster_ips.contains(&addr))
            || model.service_cidrs.iter().any(|net| net.contains(&addr))
    };
    let mut hosts = servers.iter().filter_map(Uri::host);
    hosts.find(|host| {
        let addr = host.trim_start_matches('[').trim_end_matches(']');
        match addr.parse() {
            Ok(addr) => is_ours(addr),
            Err(_) => *host == SERVICE_HOST || host.starts_with("kubernetes.default"),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix::sys::socket::{getsockopt, sockopt};
    use tokio::net::TcpListener;
    use tower::ServiceExt as _;

    use super::*;
    use crate::source::objects::{Fields, Object as _, Service};

    fn model() -> Model {
        let name = ObjectName::new("default", "kubernetes");
        let object = serde_json::json!({"spec": {"clusterIP": "10.96.0.1", "ports": []}});
        let object: Service = serde_json::from_value(object).unwrap();
        let service = object.convert(&mut Fields::new("Service", name.clone()));
        Model {
            services: [(name, Arc::new(service.unwrap()))].into_iter().collect(),
            service_cidrs: ["fd00:10:96::/112".parse().unwrap()].into(),
            ..Model::default()
        }
    }

    #[test]
    fn an_api_server_behind_its_own_service_is_found_out() {
        for (server, expected) in [
            ("https://10.96.0.1", Some("10.96.0.1")),
            ("https://10.96.0.2", None),
            ("https://[fd00:10:96::1]:443", Some("[fd00:10:96::1]")),
            ("https://[fd00:10:97::1]:443", None),
            (
                "https://kubernetes.default.svc",
                Some("kubernetes.default.svc"),
            ),
            ("https://api.example.com:6443", None),
        ] {
            let servers = [
                parse("https://192.0.2.1:6443").unwrap(),
                parse(server).unwrap(),
            ];
            assert_eq!(served_by_us(&servers, &model()), expected, "{server}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused() {
        for server in ["", "10.0.0.1:6443", "ftp://10.0.0.1", "https://", "/api"] {
            let error = parse(server).unwrap_err().to_string();
            assert!(error.contains("https://10.0.0.1:6443"), "{error}");
        }
        assert!(parse(" https://[fd00::1]:6443").is_ok());
    }

    #[tokio::test]
    async fn a_token_goes_to_no_server_that_is_not_encrypted() {
        let servers = ["https://192.0.2.1:6443", "http://192.0.2.2:8080"];
        let connection = Connection {
            kubeconfig: None,
            servers: servers.map(str::to_owned).to_vec(),
        };
        let error = connect(&connection, &Times::default()).await.err().unwrap();
        assert!(matches!(&error, Error::Plain { server } if server == "http://192.0.2.2:8080/"));
    }

    #[tokio::test]
    async fn a_connection_that_dies_silently_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let connected = connector(&Times::default()).oneshot(uri.parse().unwrap());
        let stream = connected.await.unwrap().into_inner();
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap();
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(
            getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(),
            seconds(KEEPALIVE_IDLE)
        );
        assert_eq!(
            getsockopt(&stream, sockopt::TcpKeepInterval).unwrap(),
            seconds(KEEPALIVE_INTERVAL)
        );
        assert_eq!(
            getsockopt(&stream, sockopt::TcpKeepCount).unwrap(),
            KEEPALIVE_PROBES
        );
        assert_eq!(
            getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(),
            1000 * seconds(USER_TIMEOUT)
        );
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_missing_is_named() {
        let connection = Connection {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
            ..Connection::default()
        };
        let error = connect(&connection, &Times::default()).await.err().unwrap();
        assert_eq!(error.to_string(), "read kubeconfig /nonexistent/kubeconfig");
    }
}
