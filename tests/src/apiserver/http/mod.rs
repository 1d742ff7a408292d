//! The server's HTTP side.

mod body;
mod call;
mod discovery;
mod encode;
mod objects;
mod openapi;
mod route;
mod scale;
mod sink;
mod table;
mod view;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};

use self::body::{Body, cut, whole};
use self::call::Call;
pub use self::call::Query;
use self::encode::{bytes, gzip};
use self::objects::Answer;
use self::route::{Route, Target};
use super::faults::{Fault, Verb};
use super::pause::pause;
use super::shared::{self, Shared};
use super::store::{Status, Store};

/// Answers a request. An error ends its connection.
pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?;
    let call = Call::new(Request::from_parts(parts, body.to_bytes()));
    shared.note(shared::Request {
        method: call.method.to_string(),
        path: call.path.clone(),
        query: call.query.clone(),
        at: Instant::now(),
    });
    match Route::parse(&call.path) {
        Ok(Route::Objects(target)) => about_objects(&shared, &call, &target).await,
        Ok(route) => Ok(respond(&shared, &call, about_server(&route))),
        Err(status) => Ok(respond(&shared, &call, Err(status))),
    }
}

fn about_server(route: &Route) -> Result<Answer, Status> {
    let value = match route {
        Route::Health => return Ok(Answer::ok(b"ok".to_vec())),
        Route::Version => discovery::version(),
        Route::CoreVersions => discovery::core_versions(),
        Route::Groups => discovery::groups(),
        Route::Group(group) => discovery::group(group)?,
        Route::Resources(group, version) => discovery::resources(group, version)?,
        Route::OpenApiIndex => openapi::index(),
        Route::OpenApi(group, version) => openapi::describe(group, version)?,
        Route::OpenApiV2 | Route::Objects(_) => return Err(Status::no_such_path()),
    };
    Ok(Answer::ok(bytes(&value)))
}

async fn about_objects(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
) -> Result<Response<Body>, io::Error> {
    let verb = match target.verb(&call.method, &call.query) {
        Ok(verb) => verb,
        Err(status) => return Ok(respond(shared, call, Err(status))),
    };
    let faults = shared.faults.decide(verb, target.resource.storage);
    let mut failure = None;
    for fault in &faults {
        match fault {
            Fault::Late(duration) => pause(*duration).await,
            Fault::Silent => std::future::pending().await,
            Fault::Hangup => return Err(body::aborted()),
            Fault::Compact => shared.write(|store: &mut Store, _| store.compact()),
            Fault::Fail { code, retry_after } => failure = Some(fail(*code, *retry_after)),
            _ => {}
        }
    }
    let mut response = match failure {
        Some(status) => respond(shared, call, Err(status)),
        None if verb == Verb::Watch => watch::watch(shared, call, target, faults.clone())
            .unwrap_or_else(|status| respond(shared, call, Err(status))),
        None => respond(
            shared,
            call,
            objects::answer(shared, call, target, verb, &faults),
        ),
    };
    if faults.contains(&Fault::Truncated) || faults.contains(&Fault::Malformed) {
        response = halve(response, faults.contains(&Fault::Truncated), verb).await?;
    }
    Ok(response)
}

fn fail(code: u16, retry_after: Option<u32>) -> Status {
    let (reason, message) = match code {
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        ),
        500 => ("InternalError", "an internal error occurred"),
        503 => (
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        ),
        _ => ("Unknown", "something went wrong on purpose"),
    };
    let mut status = Status::new(code, reason, message);
    if let Some(seconds) = retry_after {
        status.details = serde_json::json!({"retryAfterSeconds": seconds});
    }
    status
}

fn respond(shared: &Shared, call: &Call, answer: Result<Answer, Status>) -> Response<Body> {
    let (code, plain, retry_after) = match answer {
        Ok(Answer { code, body }) => (code, body, None),
        Err(status) => (
            StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            bytes(&status.to_object()),
            status.details["retryAfterSeconds"].as_u64(),
        ),
    };
    let is_compressed = call.accepts_gzip && plain.len() >= shared.behaviour().gzip_from;
    let length = if is_compressed {
        gzip(&plain)
    } else {
        Bytes::from(plain)
    };
    let mut response = Response::new(whole(length));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Takes away half of an answer.
async fn halve(
    response: Response<Body>,
    is_cut: bool,
    verb: Verb,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = response.into_parts();
    // A watch has no middle: it ends before its first event.
    let half = match verb {
        Verb::Watch => Bytes::new(),
        _ => {
            let all = body.collect().await?.to_bytes();
            all.slice(..all.len() / 2)
        }
    };
    let body = if is_cut { cut(half) } else { whole(half) };
    Ok(Response::from_parts(parts, body))
}
