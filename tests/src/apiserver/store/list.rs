//! Lists, and their pages.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::object::{Name, Object};
use super::selector::Selector;
use super::status::Status;
use super::{Kind, Store};

/// How a list's version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// This one.
    Exact,
    /// This one, or a later.
    NotOlderThan,
}

/// What a client asks of a list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Which objects.
    pub selector: Selector,
    /// How many at once; 0 is all.
    pub limit: usize,
    /// Where to go on.
    pub continuation: Option<String>,
    /// At which version; `None` is the latest.
    pub version: Option<u64>,
    /// How that is meant.
    pub version_match: Option<VersionMatch>,
}

/// A list, or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The version that it shows.
    pub revision: u64,
    /// The objects, by name.
    pub objects: Vec<Object>,
    /// The token for the rest.
    pub continuation: Option<String>,
    /// How many are in the rest, where that is known.
    pub remaining: Option<usize>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    #[serde(rename = "v")]
    format: String,
    /// The version of the first page; -1 is the latest, whatever the first page showed.
    #[serde(rename = "rv")]
    revision: i64,
    /// The name that the rest comes after.
    start: String,
}

impl Continue {
    const FORMAT: &str = "meta.k8s.io/v1";

    fn after(name: &Name, revision: i64) -> String {
        let token = Self {
            format: Self::FORMAT.to_owned(),
            revision,
            start: format!("{}/{}\0", name.namespace, name.name),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_string(&token).unwrap_or_default())
    }

    fn parse(token: &str) -> Option<(i64, Name)> {
        let token = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?;
        let token: Self = serde_json::from_slice(&token).ok()?;
        let start = token.start.strip_suffix('\0')?;
        let (namespace, name) = start.split_once('/')?;
        (token.format == Self::FORMAT).then(|| (token.revision, Name::new(namespace, name)))
    }
}

impl Store {
    /// Lists objects.
    ///
    /// # Errors
    /// `Expired` if the version is forgotten, `BadRequest` if the token is none, `Timeout` if the
    /// version is yet to come.
    pub fn list(&self, kind: Kind, options: &ListOptions) -> Result<Page, Status> {
        let ListOptions {
            selector,
            limit,
            continuation,
            version,
            version_match,
        } = options;
        let (start, revision) = match continuation {
            Some(token) => self.resume(kind, token, *version)?,
            None => (
                None,
                self.version_of_list(*version, *version_match, *limit)?,
            ),
        };
        let table = self.snapshot(kind, revision)?;
        // A list out of the server's cache has no pages.
        let limit = match limit {
            0 => usize::MAX,
            _ if *version == Some(0) => usize::MAX,
            limit => *limit,
        };
        let mut rest = table
            .after(start.as_ref())
            .filter(|(_, object)| selector.matches(object));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let remaining = rest.count();
        let last = page.last().filter(|_| remaining > 0);
        Ok(Page {
            revision,
            continuation: last.map(|(name, _)| Continue::after(name, revision.cast_signed())),
            remaining: (remaining > 0 && !selector.is_selective()).then_some(remaining),
            objects: page
                .into_iter()
                .map(|(_, object)| Arc::clone(object))
                .collect(),
        })
    }

    /// Where the next page begins, and at which version.
    fn resume(
        &self,
        kind: Kind,
        token: &str,
        version: Option<u64>,
    ) -> Result<(Option<Name>, u64), Status> {
        if version.is_some_and(|version| version != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (revision, start) = Continue::parse(token).ok_or_else(|| {
            Status::bad_request("continue key is not valid: illegal base64 data or unknown format")
        })?;
        let revision = match revision {
            ..0 => self.revision,
            _ => revision.cast_unsigned(),
        };
        if self.table(kind).history.after(revision).is_err() {
            let message = "The provided continue parameter is too old to display a consistent list result. \
                           You can start a new list without the continue parameter, or use the continue token in this \
                           response to retrieve the remainder of the results.";
            return Err(Status {
                continuation: Some(Continue::after(&start, -1)),
                ..Status::expired(message)
            });
        }
        Ok((Some(start), revision))
    }

    fn version_of_list(
        &self,
        version: Option<u64>,
        version_match: Option<VersionMatch>,
        limit: usize,
    ) -> Result<u64, Status> {
        let Some(version) = version else {
            return match version_match {
                Some(_) => Err(Status::invalid_options(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                )),
                None => Ok(self.revision),
            };
        };
        if version > self.revision {
            return Err(Status::too_large(version, self.revision));
        }
        match version_match {
            Some(VersionMatch::Exact) if version == 0 => Err(Status::invalid_options(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            Some(VersionMatch::Exact) => Ok(version),
            // What pages were before there was a way to say it.
            None if limit > 0 && version > 0 => Ok(version),
            _ => Ok(self.revision),
        }
    }

    /// The objects as they were at a version: what happened since is undone.
    fn snapshot(&self, kind: Kind, revision: u64) -> Result<Snapshot<'_>, Status> {
        let table = self.table(kind);
        let mut undone = BTreeMap::new();
        for change in table.history.after(revision)?.rev() {
            let object = change.before.as_ref().or(change.after.as_ref());
            if let Some(object) = object {
                undone.insert(Name::of(object), change.before.as_ref());
            }
        }
        if undone.is_empty() {
            return Ok(Snapshot::Now(&table.objects));
        }
        let mut then: BTreeMap<Name, &Object> = table
            .objects
            .iter()
            .map(|(name, object)| (name.clone(), object))
            .collect();
        for (name, before) in undone {
            match before {
                Some(object) => drop(then.insert(name, object)),
                None => drop(then.remove(&name)),
            }
        }
        Ok(Snapshot::Then(then))
    }
}

/// The objects of a kind at some version.
enum Snapshot<'a> {
    Now(&'a BTreeMap<Name, Object>),
    Then(BTreeMap<Name, &'a Object>),
}

impl Snapshot<'_> {
    /// Those whose names come after `start`.
    fn after(&self, start: Option<&Name>) -> Box<dyn Iterator<Item = (&Name, &Object)> + '_> {
        let range = (
            start.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        match self {
            Self::Now(objects) => Box::new(objects.range::<Name, _>(range)),
            Self::Then(objects) => {
                let objects = objects.range::<Name, _>(range);
                Box::new(objects.map(|(name, object)| (name, *object)))
            }
        }
    }
}
