//! Watches.

use std::sync::Arc;

use hyper::Response;
use hyper::header;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, interval_at};

use super::body::{Body, streamed};
use super::call::Call;
use super::encode::{Form, event};
use super::route::Target;
use super::sink::{Ended, Sink};
use crate::apiserver::behaviour::Gone;
use crate::apiserver::faults::Fault;
use crate::apiserver::shared::Shared;
use crate::apiserver::store::{
    Kind, ListOptions, Object, Resource, Selector, Status, Store, VersionMatch,
};

/// Events that may wait for a slow client.
const WAITING: usize = 16;

/// A watch that goes on.
struct Watch {
    shared: Arc<Shared>,
    resource: &'static Resource,
    form: Form,
    selector: Selector,
    /// All changes up to this version have been told.
    position: u64,
    has_bookmarks: bool,
    /// Whether the columns of a table have been told.
    has_columns: bool,
    sink: Sink,
    end: Instant,
}

/// How a watch begins.
struct Start {
    /// Objects that are told first.
    objects: Vec<Object>,
    /// Whether a bookmark says that these were all.
    is_marked: bool,
    /// What is told after them.
    position: u64,
}

/// Begins a watch.
pub(super) fn watch(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
    faults: Vec<Fault>,
) -> Result<Response<Body>, Status> {
    let behaviour = shared.behaviour();
    let selector = watch_selector(call, target)?;
    let has_bookmarks =
        call.query.is_true("allowWatchBookmarks") && !faults.contains(&Fault::NoBookmarks);
    let kind = target.resource.storage;
    let has_lists = behaviour.has_streaming_lists && !faults.contains(&Fault::NoStreamingList);
    let is_gone = faults.contains(&Fault::Gone);
    let begin = start_options(call, has_lists).and_then(|options| {
        if is_gone {
            return Err(Status::expired("too old resource version: 1 (2)"));
        }
        shared.read(|store| start(store, kind, &selector, &options, &faults))
    });
    let (pieces, receiver) = mpsc::channel(WAITING);
    let has_gzip = behaviour.has_gzip_watches && call.accepts_gzip;
    let sink = Sink::new(pieces, has_gzip, faults);
    match begin {
        Ok(start) => {
            let timeout = call.timeout()?.unwrap_or(behaviour.watch_timeout);
            let watch = Watch {
                shared: Arc::clone(shared),
                resource: target.resource,
                form: call.form,
                selector,
                position: start.position,
                has_bookmarks,
                has_columns: false,
                sink,
                end: Instant::now() + timeout.min(behaviour.watch_timeout),
            };
            tokio::spawn(watch.run(start));
        }
        Err(status) if status.code == 410 && behaviour.gone == Gone::InStream => {
            tokio::spawn(tell_error(sink, status));
        }
        Err(status) => return Err(status),
    }
    let mut response = Response::new(streamed(receiver));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    if has_gzip {
        headers.insert(
            header::CONTENT_ENCODING,
            header::HeaderValue::from_static("gzip"),
        );
    }
    Ok(response)
}

/// A watch of one object is a watch of all with its name.
fn watch_selector(call: &Call, target: &Target) -> Result<Selector, Status> {
    call.selector(target)
}

/// How a client wants a watch to begin.
struct StartOptions {
    /// With all objects.
    has_initial: bool,
    /// With a bookmark after them.
    is_marked: bool,
    version: Option<u64>,
}

fn start_options(call: &Call, has_lists: bool) -> Result<StartOptions, Status> {
    let version = call.version()?;
    let version_match = call.version_match()?;
    let is_from_anywhere = version.is_none_or(|version| version == 0);
    match call.query.get("sendInitialEvents") {
        "" if version_match.is_some() => Err(Status::invalid_options(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        "" => Ok(StartOptions {
            has_initial: is_from_anywhere,
            is_marked: is_from_anywhere && has_lists,
            version,
        }),
        _ if !has_lists => Err(Status::invalid_options(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        )),
        _ if version_match != Some(VersionMatch::NotOlderThan) => Err(Status::invalid_options(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        wanted => Ok(StartOptions {
            has_initial: wanted == "true",
            is_marked: wanted == "true",
            version,
        }),
    }
}

fn start(
    store: &Store,
    kind: Kind,
    selector: &Selector,
    options: &StartOptions,
    faults: &[Fault],
) -> Result<Start, Status> {
    let version = options.version.unwrap_or_default();
    if version > store.revision() {
        return Err(Status::too_large(version, store.revision()));
    }
    if options.has_initial {
        let list = ListOptions {
            selector: selector.clone(),
            ..ListOptions::default()
        };
        let page = store.list(kind, &list)?;
        return Ok(Start {
            objects: page.objects,
            is_marked: options.is_marked,
            position: page.revision,
        });
    }
    let position = options.version.filter(|version| *version != 0);
    let mut position = position.unwrap_or(store.revision());
    drop(store.changes(kind, position)?);
    for fault in faults {
        if let Fault::Replay(back) = fault
            && store.changes(kind, position.saturating_sub(*back)).is_ok()
        {
            position = position.saturating_sub(*back);
        }
    }
    Ok(Start {
        objects: Vec::new(),
        is_marked: false,
        position,
    })
}

async fn tell_error(mut sink: Sink, status: Status) {
    // Whether the client hears it is its own affair.
    let _ = sink.send(event("ERROR", &status.to_object())).await;
}

impl Watch {
    /// Goes on until either side has enough.
    async fn run(mut self, start: Start) {
        // The end of a watch is none of its failures.
        let _ = self.follow(start).await;
    }

    async fn follow(&mut self, start: Start) -> Result<(), Ended> {
        let mut revisions = self.shared.revisions();
        self.sink.begin().await?;
        for object in start.objects {
            self.tell("ADDED", &object).await?;
        }
        if start.is_marked {
            self.bookmark(true).await?;
        }
        let mut bookmarks = interval(self.shared.behaviour().bookmark_interval);
        bookmarks.reset();
        // Ticks once: at the end.
        let mut end = interval_at(self.end, std::time::Duration::from_secs(1));
        loop {
            self.catch_up().await?;
            tokio::select! {
                changed = revisions.changed() => changed.map_err(|_gone| Ended)?,
                _ = bookmarks.tick() => self.bookmark(false).await?,
                _ = end.tick() => return self.bookmark(false).await,
                () = self.sink.closed() => return Err(Ended),
            }
        }
    }

    /// Tells of all changes since the last time.
    async fn catch_up(&mut self) -> Result<(), Ended> {
        let Self {
            resource,
            selector,
            position,
            ..
        } = self;
        let news = self.shared.read(|store| {
            let changes = store.changes(resource.storage, *position)?;
            let seen = changes.filter_map(|change| change.seen_through(selector));
            Ok::<_, Status>((seen.collect::<Vec<_>>(), store.revision()))
        });
        match news {
            Ok((changes, revision)) => {
                self.position = revision;
                for (event_type, object) in changes {
                    self.tell(event_type.as_str(), &object).await?;
                }
                Ok(())
            }
            Err(status) => {
                self.sink.send(event("ERROR", &status.to_object())).await?;
                Err(Ended)
            }
        }
    }

    async fn tell(&mut self, event_type: &str, object: &Value) -> Result<(), Ended> {
        let has_columns = std::mem::replace(&mut self.has_columns, true);
        let line = match self.form {
            Form::Full if self.resource.group != "events.k8s.io" => event(event_type, object),
            form => event(
                event_type,
                &form.object(self.resource, object, !has_columns),
            ),
        };
        self.sink.send(line).await
    }

    /// Says that nothing is missing up to here, or that the objects of the beginning are complete.
    async fn bookmark(&mut self, is_initial: bool) -> Result<(), Ended> {
        if !self.has_bookmarks {
            return Ok(());
        }
        let mut metadata = json!({"resourceVersion": self.position.to_string()});
        if is_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = bookmark(self.resource, self.form, metadata);
        self.sink.send(event("BOOKMARK", &object)).await
    }
}

/// An object of which only the version counts.
fn bookmark(resource: &Resource, form: Form, metadata: Value) -> Value {
    let mut object = match resource.storage {
        Kind::Service | Kind::Node | Kind::Pod | Kind::Deployment | Kind::Namespace => {
            json!({"spec": {}, "status": {}})
        }
        Kind::EndpointSlice => json!({"addressType": "", "endpoints": null, "ports": null}),
        Kind::Event | Kind::ServiceCidr => json!({}),
    };
    if resource.storage == Kind::Service {
        object["status"] = json!({"loadBalancer": {}});
    }
    object["metadata"] = metadata;
    match form {
        Form::Full => {
            object["kind"] = json!(resource.kind);
            object["apiVersion"] = json!(resource.api_version());
            object
        }
        Form::Metadata => super::encode::metadata(&object),
        Form::Table(_) => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            "columnDefinitions": [], "rows": [],
        }),
    }
}
