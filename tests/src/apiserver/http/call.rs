//! A request, as far as it matters.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request};
use serde_json::Value;

use super::encode::Form;
use super::route::Target;
use crate::apiserver::store::selector::{FieldSelector, LabelSelector};
use crate::apiserver::store::{ListOptions, Selector, Status, VersionMatch};

/// The part of a URL after the question mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The value of `key`, "" if there is none.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map_or("", |(_, value)| value)
    }

    /// Whether `key` is there and true.
    #[must_use]
    pub fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }

    /// The number that `key` has.
    ///
    /// # Errors
    /// `BadRequest` if it is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_error| {
                Status::bad_request(format!("invalid {key}: \"{text}\": not a number"))
            }),
        }
    }
}

/// A request with its body.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Query,
    pub(super) form: Form,
    pub(super) content_type: String,
    pub(super) accepts_gzip: bool,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(request: Request<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let accept = text(&parts.headers, header::ACCEPT);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        Self {
            form: Form::accepted(&accept, query.get("includeObject")),
            content_type: text(&parts.headers, header::CONTENT_TYPE),
            accepts_gzip: accepts_gzip(&text(&parts.headers, header::ACCEPT_ENCODING)),
            path: parts.uri.path().to_owned(),
            method: parts.method,
            query,
            body,
        }
    }

    /// The body as an object: JSON, or YAML.
    pub(super) fn object(&self) -> Result<Value, Status> {
        let wrong = |error: &dyn std::fmt::Display| {
            Status::bad_request(format!("the object provided is unrecognized: {error}"))
        };
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        if self.content_type.contains("yaml") {
            let text = std::str::from_utf8(&self.body).map_err(|error| wrong(&error))?;
            return serde_saphyr::from_str(text).map_err(|error| wrong(&error));
        }
        serde_json::from_slice(&self.body).map_err(|error| wrong(&error))
    }

    /// Which objects are asked for.
    pub(super) fn selector(&self, target: &Target) -> Result<Selector, Status> {
        let labels = LabelSelector::parse(self.query.get("labelSelector"))?;
        let fields = FieldSelector::parse(self.query.get("fieldSelector"), target.resource)?;
        Ok(Selector {
            namespace: target.namespace.clone(),
            labels,
            fields,
        })
    }

    /// What is asked of a list.
    pub(super) fn list_options(&self, target: &Target) -> Result<ListOptions, Status> {
        let continuation = self.query.get("continue");
        let limit = self.query.number("limit")?.unwrap_or_default();
        Ok(ListOptions {
            selector: self.selector(target)?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continuation: (!continuation.is_empty()).then(|| continuation.to_owned()),
            version: self.version()?,
            version_match: self.version_match()?,
        })
    }

    pub(super) fn version(&self) -> Result<Option<u64>, Status> {
        self.query.number("resourceVersion")
    }

    pub(super) fn version_match(&self) -> Result<Option<VersionMatch>, Status> {
        match self.query.get("resourceVersionMatch") {
            "" => Ok(None),
            "Exact" => Ok(Some(VersionMatch::Exact)),
            "NotOlderThan" => Ok(Some(VersionMatch::NotOlderThan)),
            other => Err(Status::invalid_options(
                "resourceVersionMatch",
                &format!("unsupported value: \"{other}\""),
            )),
        }
    }

    /// How long a watch is wanted.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Status> {
        Ok(self
            .query
            .number("timeoutSeconds")?
            .map(Duration::from_secs))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn accepts_gzip(encodings: &str) -> bool {
    encodings.split(',').any(|encoding| {
        let mut parts = encoding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.next() != Some("q=0")
    })
}
