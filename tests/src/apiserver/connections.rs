//! Accepting connections.

use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::http;
use super::shared::Shared;

/// Accepts connections until `stop` says something or is dropped.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: oneshot::Receiver<()>,
) {
    let forever = async {
        loop {
            // What fails is a connection that its client has given up.
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            if !shared.epoch.borrow().is_closed {
                tokio::spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
            }
        }
    };
    tokio::select! {
        () = forever => {}
        _ = stop => {}
    }
}

/// Serves a connection until one of the sides has enough, or the epoch ends.
async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut epoch = shared.epoch.subscribe();
    // Small events go out at once.
    let _ = stream.set_nodelay(true);
    let serving = async {
        match tls {
            None => speak(stream, shared).await,
            Some(tls) => {
                // A client that distrusts us says so itself.
                if let Ok(stream) = tls.accept(stream).await {
                    speak(stream, shared).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        _ = epoch.changed() => {}
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| http::serve(Arc::clone(&shared), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // How a connection ends is seen by its client.
    let _ = connection.await;
}
