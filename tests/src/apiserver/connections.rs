//! Accepting connections.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::http;
use super::pause::pause;
use super::shared::Shared;

/// Accepts connections as long as the server lives.
pub(super) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The client has given it up, or there are too many files.
            pause(Duration::from_millis(1)).await;
            continue;
        };
        if !shared.epoch.borrow().is_closed {
            tokio::spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
        }
    }
}

/// Serves a connection until one of the sides has enough, or the epoch ends.
async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut epoch = shared.epoch.subscribe();
    let number = epoch.borrow().number;
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
    let mut serving = pin!(serving);
    loop {
        let now = *epoch.borrow_and_update();
        if now.number != number || now.is_closed {
            return;
        }
        tokio::select! {
            () = &mut serving, if !now.is_frozen => return,
            changed = epoch.changed() => if changed.is_err() { return },
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| http::serve(Arc::clone(&shared), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // How a connection ends is seen by its client.
    let _ = connection.await;
}
