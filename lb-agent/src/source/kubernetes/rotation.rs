//! Several API servers: requests go to one of them until it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri, uri::PathAndQuery};
use tokio::time;
use tower::{BoxError, Layer, Service};
use tracing::warn;

/// A server that answers so many requests in a row by an error of its own has failed.
const ERRORS_MAX: u32 = 3;

/// Leads requests to the current one of several servers.
#[derive(Clone, Debug)]
pub(super) struct Rotation(Arc<Servers>);

#[derive(Debug)]
struct Servers {
    /// At least one.
    uris: Vec<Uri>,
    current: AtomicUsize,
    /// Requests in a row that the current one has answered by an error of its own.
    errors: AtomicU32,
    /// A server that takes longer to answer has failed.
    response: Duration,
}

/// A server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("{uri} does not answer within {} s", after.as_secs_f64())]
struct NoAnswer {
    uri: Uri,
    after: Duration,
}

impl Rotation {
    /// Begins with the first of `uris`, which must not be empty.
    pub(super) fn new(uris: Vec<Uri>, response: Duration) -> Self {
        Self(Arc::new(Servers {
            uris,
            current: AtomicUsize::new(0),
            errors: AtomicU32::new(0),
            response,
        }))
    }
}

impl Servers {
    fn current(&self) -> (usize, &Uri) {
        let index = self.current.load(Ordering::Relaxed);
        (index, &self.uris[index])
    }

    /// The server at `index` has failed. Of several requests that found out, one moves on.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.uris.len();
        let moved =
            self.current
                .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() && next != index {
            self.errors.store(0, Ordering::Relaxed);
            let (failed, next) = (&self.uris[index], &self.uris[next]);
            warn!("the API server {failed} fails; turning to {next}");
        }
    }

    fn note(&self, index: usize, is_error: bool) {
        if !is_error {
            self.errors.store(0, Ordering::Relaxed);
        } else if self.errors.fetch_add(1, Ordering::Relaxed) + 1 >= ERRORS_MAX {
            self.leave(index);
        }
    }
}

impl<S> Layer<S> for Rotation {
    type Service = Rotating<S>;

    fn layer(&self, inner: S) -> Rotating<S> {
        Rotating {
            inner,
            servers: self.0.clone(),
        }
    }
}

/// A client behind a [`Rotation`].
#[derive(Clone, Debug)]
pub(super) struct Rotating<S> {
    inner: S,
    servers: Arc<Servers>,
}

impl<S, B, R> Service<Request<B>> for Rotating<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<R>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let servers = self.servers.clone();
        let (index, uri) = servers.current();
        let uri = uri.clone();
        match join(&uri, request.uri().path_and_query()) {
            Ok(joined) => *request.uri_mut() = joined,
            Err(error) => return Box::pin(async { Err(error.into()) }),
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            match time::timeout(servers.response, answer).await {
                Ok(Ok(response)) => {
                    servers.note(index, response.status().is_server_error());
                    Ok(response)
                }
                Ok(Err(error)) => {
                    servers.leave(index);
                    Err(error.into())
                }
                Err(_elapsed) => {
                    servers.leave(index);
                    let after = servers.response;
                    Err(NoAnswer { uri, after }.into())
                }
            }
        })
    }
}

/// The place of a request on a server; the server's own path comes first.
fn join(server: &Uri, request: Option<&PathAndQuery>) -> http::Result<Uri> {
    let mut parts = server.clone().into_parts();
    let request = request.map_or("/", PathAndQuery::as_str);
    let path = format!("{}{request}", server.path().trim_end_matches('/'));
    parts.path_and_query = Some(PathAndQuery::try_from(path)?);
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_below_the_servers_own_path() {
        let join = |server: &str, request: &'static str| {
            let request = PathAndQuery::from_static(request);
            let joined = join(&server.parse().unwrap(), Some(&request)).unwrap();
            joined.to_string()
        };
        assert_eq!(
            join("https://10.0.0.1:6443", "/api/v1/services?limit=5"),
            "https://10.0.0.1:6443/api/v1/services?limit=5"
        );
        assert_eq!(join("https://lb/k8s/c1/", "/api"), "https://lb/k8s/c1/api");
    }

    #[test]
    fn requests_that_fail_together_move_on_by_one() {
        let uris = ["http://a", "http://b", "http://c"].map(|uri| uri.parse().unwrap());
        let Rotation(servers) = Rotation::new(uris.to_vec(), Duration::from_secs(1));
        servers.leave(0);
        servers.leave(0);
        assert_eq!(servers.current().0, 1);
        servers.note(1, true);
        servers.note(1, true);
        servers.note(1, false);
        servers.note(1, true);
        servers.note(1, true);
        assert_eq!(servers.current().0, 1, "it has answered between");
        servers.note(1, true);
        assert_eq!(servers.current().0, 2);
        servers.leave(2);
        assert_eq!(servers.current().0, 0);
    }
}
