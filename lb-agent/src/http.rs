//! A small HTTP server for probes and scrapes.
//!
//! Whoever reaches the node's ports reaches it: a connection has a time to live, a request a time
//! to be sent, and a server a number of connections.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt::{Ipv6V6Only, ReuseAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time,
};
use tracing::{debug, info};

/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections that a server has at once; others wait in the kernel.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long to wait if no connection can be accepted: there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The type of JSON.
pub const JSON: &str = "application/json";
/// The type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What is asked for. The method does not matter.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Path of the URL.
    pub path: String,
    /// The header `Accept`.
    pub accept: String,
    /// Whether the client came over IPv6.
    pub is_v6: bool,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, their names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
}

impl Reply {
    /// A reply whose body has this content type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
        }
    }

    /// There is nothing at this path.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, TEXT, "not found\n")
    }

    /// The same with another header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// What a server answers.
pub trait Site: Send + Sync + 'static {
    /// The answer to a request.
    fn answer(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// A server: listens until it is dropped, or [closed](Self::close).
#[derive(Debug)]
pub struct Server {
    tasks: Vec<JoinHandle<()>>,
}

/// An address that cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("listen to {addr}")]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Serves `site` at each of `addrs`.
    ///
    /// Those that cannot be listened to are told, and tried again until they can. A family that
    /// the kernel does not have is passed over.
    #[must_use]
    pub fn start<S: Site>(addrs: &[SocketAddr], site: &Arc<S>) -> (Self, Vec<ListenError>) {
        let (mut tasks, mut failed) = (Vec::new(), Vec::new());
        for &addr in addrs {
            let listener = match listen_to(addr) {
                Ok(listener) => Some(listener),
                Err(source) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    debug!(%addr, "the kernel has no such addresses");
                    continue;
                }
                Err(source) => {
                    failed.push(ListenError { addr, source });
                    None
                }
            };
            tasks.push(tokio::spawn(run(addr, listener, Arc::clone(site))));
        }
        (Self { tasks }, failed)
    }

    /// Ends it, and waits until its ports are free.
    pub async fn close(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // That it was cut off is what was asked for.
            let _cancelled = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The addresses that `addr` stands for: an unspecified one for all of both families.
#[must_use]
pub fn both_families(addr: SocketAddr) -> Vec<SocketAddr> {
    if !addr.ip().is_unspecified() {
        return vec![addr];
    }
    let all = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    all.map(|ip| SocketAddr::new(ip, addr.port())).into()
}

/// One socket for one family: over IPv6 it leaves IPv4 to the other.
fn listen_to(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    // Connections of an agent that has just ended are no obstacle.
    setsockopt(&socket, ReuseAddr, &true)?;
    if addr.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&socket, Backlog::MAXCONN)?;
    TcpListener::from_std(socket.into())
}

async fn run<S: Site>(addr: SocketAddr, listener: Option<TcpListener>, site: Arc<S>) {
    let listener = match listener {
        Some(listener) => listener,
        None => listen_at_last(addr).await,
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, addr.is_ipv6(), Arc::clone(&site)));
                }
                Err(error) => {
                    debug!(%addr, %error, "cannot accept a connection");
                    time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn listen_at_last(addr: SocketAddr) -> TcpListener {
    loop {
        time::sleep(RETRY).await;
        match listen_to(addr) {
            Ok(listener) => {
                info!(%addr, "can listen now");
                return listener;
            }
            Err(error) => debug!(%addr, %error, "still cannot listen"),
        }
    }
}

async fn converse<S: Site>(stream: TcpStream, is_v6: bool, site: Arc<S>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let site = Arc::clone(&site);
        async move {
            let accept = request.headers().get(ACCEPT);
            let request = Request {
                path: request.uri().path().to_owned(),
                accept: accept
                    .and_then(|accept| accept.to_str().ok())
                    .unwrap_or_default()
                    .to_owned(),
                is_v6,
            };
            Ok::<_, Infallible>(site.answer(request).await.into_response())
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection broke"),
        Err(_) => debug!("a connection lasted too long"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Echo;

    impl Site for Echo {
        async fn answer(&self, request: Request) -> Reply {
            Reply::new(200, TEXT, request.path).header("x-v6", request.is_v6)
        }
    }

    /// A port that was free a moment ago, in both families.
    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    async fn ask(addr: SocketAddr, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    const GET: &str = "GET /a?b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    async fn eventually_ask(addr: SocketAddr) -> String {
        let deadline = time::Instant::now() + Duration::from_secs(20);
        let mut often = time::interval(Duration::from_millis(5));
        loop {
            match ask(addr, GET).await {
                Ok(answer) => return answer,
                Err(error) => assert!(time::Instant::now() < deadline, "{error}"),
            }
            often.tick().await;
        }
    }

    #[tokio::test]
    async fn each_family_has_a_socket_of_its_own() {
        let addrs = both_families(SocketAddr::from(([0, 0, 0, 0], free_port())));
        let (_server, failed) = Server::start(&addrs, &Arc::new(Echo));
        assert!(failed.is_empty(), "{failed:?}");
        for (ip, v6) in [("127.0.0.1", "false"), ("::1", "true")] {
            let addr = SocketAddr::new(ip.parse().unwrap(), addrs[0].port());
            let answer = ask(addr, GET).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(&format!("x-v6: {v6}\r\n")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n/a"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_and_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let (_server, failed) = Server::start(&[addr], &Arc::new(Echo));
        assert_eq!(failed[0].source.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert!(eventually_ask(addr).await.ends_with("/a"));
    }

    #[tokio::test]
    async fn a_closed_server_frees_its_port_and_ends_its_connections() {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (server, _) = Server::start(&[addr], &Arc::new(Echo));
        let mut idle = TcpStream::connect(addr).await.unwrap();
        server.close().await;
        assert!(listen_to(addr).is_ok());
        // The end, or a reset where the connection was not accepted yet.
        assert!(idle.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (_server, _) = Server::start(&[addr], &Arc::new(Echo));
        let request = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * HEAD_MAX));
        let answer = ask(addr, &request).await.unwrap_or_default();
        assert!(!answer.contains("200 OK"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_ask_is_cut_off() {
        let (client, server) = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .map(|listener| (listener.local_addr().unwrap(), listener))
            .unwrap();
        let mut slow = TcpStream::connect(client).await.unwrap();
        let (stream, _) = server.accept().await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let began = time::Instant::now();
        converse(stream, false, Arc::new(Echo)).await;
        assert!(began.elapsed() <= HEAD_TIMEOUT + Duration::from_secs(1));
    }
}
