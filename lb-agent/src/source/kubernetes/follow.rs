//! Follows one kind of objects for ever: a list, then a watch, then a list where one is needed.
//!
//! A list is streamed as a watch, which costs the API server little; where that does not get on,
//! it is fetched in pages. A watch goes on from the last version that was seen, until the server
//! no longer knows that version, or refuses again and again, or says nothing for too long. Then
//! there is a new list. Nothing that was passed on is taken back for a failure.

use std::{fmt, mem};

use futures::{StreamExt as _, stream::BoxStream};
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tracing::{debug, info, warn};

use super::times::{Backoff, Times};

/// Objects of a page.
const PAGE: u32 = 500;
/// A list is streamed until that has failed so often.
const STREAMED_MAX: u32 = 2;
/// A watch that has been refused so often without a word between is given up for a new list.
const REFUSED_MAX: u32 = 3;
/// Annotation of the bookmark at the end of a streamed list.
const LIST_END: &str = "k8s.io/initial-events-end";

/// Selects the objects of a kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Selector by labels.
    pub(super) labels: Option<String>,
    /// Selector by fields.
    pub(super) fields: Option<String>,
    /// If the API does not have the kind, or does not let us see it, there are no such objects.
    pub(super) is_optional: bool,
}

/// Follows one kind.
pub(super) struct Follower<K, C> {
    api: Api<K>,
    wanted: Wanted,
    times: Times,
    changes: mpsc::Sender<C>,
    wrap: fn(Event<K>) -> C,
    /// The newest version that was seen.
    version: Option<String>,
    /// Whether the API server can stream lists.
    can_stream: bool,
    /// Whether pages get too old before the last one.
    is_paged: bool,
    /// Whether there has been a whole list.
    is_listed: bool,
    backoff: Backoff,
    /// What is not working, as it was last said.
    trouble: Option<String>,
}

/// Nobody wants to know any more.
pub(super) struct Closed;

type Watch<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// Why a list or a watch has ended.
#[derive(Debug)]
enum End {
    /// Nobody wants to know any more.
    Closed,
    /// The server has refused it, or what it sends makes no sense.
    Refused(kube::Error),
    /// The server has not been reached.
    Unreached(kube::Error),
    /// The server has ended it.
    Over,
    /// The server says nothing.
    Silent,
    /// The server does not say to which version a list belongs.
    NoVersion,
}

impl From<Closed> for End {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        match &error {
            // Busy, not unwilling.
            kube::Error::Api(status) if status.code == 429 => Self::Unreached(error),
            kube::Error::Api(_) | kube::Error::SerdeError(_) => Self::Refused(error),
            _ => Self::Unreached(error),
        }
    }
}

impl From<Box<Status>> for End {
    fn from(status: Box<Status>) -> Self {
        kube::Error::Api(status).into()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("nobody wants to know any more"),
            Self::Refused(kube::Error::Api(status)) => {
                write!(f, "{} ({})", status.message, status.code)
            }
            Self::Refused(error) | Self::Unreached(error) => chain(error, f),
            Self::Over => f.write_str("the API server ends it before its time"),
            Self::Silent => f.write_str("the API server says nothing"),
            Self::NoVersion => f.write_str("the API server does not say the list's version"),
        }
    }
}

/// An error with its reasons, unless they are part of it already.
fn chain(error: &dyn std::error::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    f.write_str(&text)
}

impl End {
    /// The status code of the server, if it has refused; else 0.
    fn code(&self) -> u16 {
        match self {
            Self::Refused(kube::Error::Api(status)) => status.code,
            _ => 0,
        }
    }
}

impl<K, C> Follower<K, C>
where
    K: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
{
    /// Passes events of `api` on to `changes`, as `wrap` makes them.
    pub(super) fn new(
        api: Api<K>,
        wanted: Wanted,
        times: Times,
        changes: mpsc::Sender<C>,
        wrap: fn(Event<K>) -> C,
    ) -> Self {
        Self {
            api,
            wanted,
            times,
            changes,
            wrap,
            version: None,
            can_stream: true,
            is_paged: true,
            is_listed: false,
            backoff: Backoff::new(times),
            trouble: None,
        }
    }

    /// Runs until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        loop {
            let Ok(watch) = self.list().await else { return };
            self.is_listed = true;
            let Ok(()) = self.watch(watch).await else {
                return;
            };
        }
    }

    /// Gets a whole list, however often that has to be tried. A streamed one goes on as a watch.
    async fn list(&mut self) -> Result<Option<Watch<K>>, Closed> {
        let mut streamed = 0;
        loop {
            let is_streamed = self.can_stream && streamed < STREAMED_MAX;
            let end = if is_streamed {
                match self.stream().await {
                    Ok(watch) => return Ok(Some(watch)),
                    Err(end) => end,
                }
            } else {
                match self.pages().await {
                    Ok(()) => return Ok(None),
                    Err(end) => end,
                }
            };
            match (end, is_streamed) {
                (End::Closed, _) => return Err(Closed),
                (end, _) if self.wanted.is_optional && matches!(end.code(), 403 | 404) => {
                    self.do_without(&end).await?;
                }
                (end, true) if end.code() == 422 => {
                    debug!("list {} in pages: {end}", K::plural(&()));
                    self.can_stream = false;
                }
                (End::Silent, true) => {
                    debug!("list {} in pages: {}", K::plural(&()), End::Silent);
                    streamed = STREAMED_MAX;
                }
                (end, is_streamed) => {
                    streamed += u32::from(is_streamed);
                    self.pause("list", &end).await;
                }
            }
        }
    }

    /// Lists by a watch that begins with everything that there is.
    async fn stream(&mut self) -> Result<Watch<K>, End> {
        let deadline = Instant::now() + self.times.list;
        // Never back in time, whichever server answers.
        let version = self.version.clone().unwrap_or_else(|| "0".to_owned());
        let watch = time::timeout(self.times.progress, self.open(&version, true)).await;
        let mut watch = watch.map_err(|_elapsed| End::Silent)??;
        self.pass(Event::Init).await?;
        loop {
            let next = deadline.min(Instant::now() + self.times.progress);
            match time::timeout_at(next, watch.next()).await {
                Err(_elapsed) => return Err(End::Silent),
                Ok(None) => return Err(End::Over),
                Ok(Some(Err(error))) => return Err(error.into()),
                Ok(Some(Ok(event))) => match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        self.pass(Event::InitApply(object)).await?;
                    }
                    WatchEvent::Deleted(object) => self.pass(Event::Delete(object)).await?,
                    WatchEvent::Error(status) => return Err(status.into()),
                    WatchEvent::Bookmark(bookmark) => {
                        if bookmark.metadata.annotations.contains_key(LIST_END) {
                            self.version = Some(bookmark.metadata.resource_version);
                            self.pass(Event::InitDone).await?;
                            return Ok(watch);
                        }
                    }
                },
            }
        }
    }

    /// Lists page by page, as things are at the moment of the first.
    async fn pages(&mut self) -> Result<(), End> {
        let mut params = ListParams {
            label_selector: self.wanted.labels.clone(),
            field_selector: self.wanted.fields.clone(),
            limit: self.is_paged.then_some(PAGE),
            ..ListParams::default()
        };
        self.pass(Event::Init).await?;
        loop {
            let page = time::timeout(self.times.list, self.api.list(&params)).await;
            let page = match page {
                Err(_elapsed) => return Err(End::Silent),
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    let end = End::from(error);
                    if end.code() == 410 && params.continue_token.is_some() {
                        self.is_paged = false;
                    }
                    return Err(end);
                }
            };
            for object in page.items {
                self.pass(Event::InitApply(object)).await?;
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|v| !v.is_empty());
                self.version = Some(version.ok_or(End::NoVersion)?);
                self.is_paged = true;
                self.pass(Event::InitDone).await?;
                return Ok(());
            }
        }
    }

    /// Watches until a new list is needed.
    async fn watch(&mut self, mut open: Option<Watch<K>>) -> Result<(), Closed> {
        let mut heard = Instant::now();
        let mut refused = 0;
        loop {
            let (begin, heard_before) = (Instant::now(), heard);
            let end = match open.take() {
                Some(watch) => self.drain(watch, &mut heard).await,
                None => self.resume(&mut heard).await,
            };
            if heard != heard_before {
                refused = 0;
            }
            match &end {
                End::Closed => return Err(Closed),
                End::Over if begin.elapsed() >= self.times.short => {}
                End::Refused(_) | End::Over => {
                    refused += 1;
                    self.pause("watch", &end).await;
                }
                _ => self.pause("watch", &end).await,
            }
            let is_stale = heard.elapsed() > self.times.stale;
            if end.code() == 410 || refused >= REFUSED_MAX || is_stale {
                debug!("list {} anew: {end}", K::plural(&()));
                return Ok(());
            }
        }
    }

    /// Goes on with a watch from the last version.
    async fn resume(&mut self, heard: &mut Instant) -> End {
        let version = self.version.clone().unwrap_or_default();
        match self.open(&version, false).await {
            Ok(watch) => self.drain(watch, heard).await,
            Err(end) => end,
        }
    }

    async fn open(&self, version: &str, is_list: bool) -> Result<Watch<K>, End> {
        let params = WatchParams {
            label_selector: self.wanted.labels.clone(),
            field_selector: self.wanted.fields.clone(),
            timeout: u32::try_from(self.times.watch.as_secs().max(1)).ok(),
            bookmarks: true,
            send_initial_events: is_list,
        };
        Ok(self.api.watch(&params, version).await?.boxed())
    }

    /// Passes on what a watch says, until it ends. `heard` is when it said something last.
    async fn drain(&mut self, mut watch: Watch<K>, heard: &mut Instant) -> End {
        loop {
            let event = match time::timeout(self.times.silence, watch.next()).await {
                Err(_elapsed) => return End::Silent,
                Ok(None) => return End::Over,
                // The event is lost, so the watch goes on from before it.
                Ok(Some(Err(error))) => return error.into(),
                Ok(Some(Ok(WatchEvent::Error(status)))) => return status.into(),
                Ok(Some(Ok(event))) => event,
            };
            *heard = Instant::now();
            self.recover();
            let event = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let is_news = self.see(object.meta().resource_version.as_ref());
                    is_news.then_some(Event::Apply(object))
                }
                WatchEvent::Deleted(object) => {
                    let is_news = self.see(object.meta().resource_version.as_ref());
                    is_news.then_some(Event::Delete(object))
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.see(Some(&bookmark.metadata.resource_version));
                    None
                }
                WatchEvent::Error(_) => None,
            };
            if let Some(event) = event
                && let Err(Closed) = self.pass(event).await
            {
                return End::Closed;
            }
        }
    }

    /// Takes note of a version that a watch is at. False if the watch has been there already, and
    /// tells of the past.
    ///
    /// Something without a version leaves the watch where it was.
    fn see(&mut self, version: Option<&String>) -> bool {
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return true;
        };
        let number = |version: &str| version.parse::<u64>().ok();
        let (new, seen) = (number(version), self.version.as_deref().and_then(number));
        if matches!((new, seen), (Some(new), Some(seen)) if new <= seen) {
            return false;
        }
        self.version = Some(version.clone());
        true
    }

    async fn pass(&mut self, event: Event<K>) -> Result<(), Closed> {
        if matches!(event, Event::InitDone) {
            self.recover();
        }
        let change = (self.wrap)(event);
        self.changes.send(change).await.map_err(|_change| Closed)
    }

    /// Says that there are no such objects, if nothing else was known, and waits.
    async fn do_without(&mut self, end: &End) -> Result<(), Closed> {
        if !mem::replace(&mut self.is_listed, true) {
            info!("the cluster shows no {}: {end}", K::plural(&()));
            self.pass(Event::Init).await?;
            self.pass(Event::InitDone).await?;
        }
        time::sleep(self.times.unserved).await;
        Ok(())
    }

    /// Says once what does not work, and waits.
    async fn pause(&mut self, what: &str, end: &End) {
        let trouble = format!("{what} {}: {end}", K::plural(&()));
        if end.code() == 410 || self.trouble.as_ref() == Some(&trouble) {
            debug!("{trouble}");
        } else {
            warn!("{trouble}");
            self.trouble = Some(trouble);
        }
        time::sleep(self.backoff.pause(Instant::now())).await;
    }

    /// Something works.
    fn recover(&mut self) {
        if self.trouble.take().is_some() {
            info!("{} are followed again", K::plural(&()));
        }
    }
}
