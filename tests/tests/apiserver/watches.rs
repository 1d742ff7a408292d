//! Watches, through the kube client.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use lb_tests::apiserver::faults::{Fault, Matching, Verb};
use lb_tests::apiserver::store::Kind;
use lb_tests::apiserver::{ApiServer, Behaviour, Gone};
use serde_json::json;
use tokio::time::timeout;

use super::{DEADLINE, client, hasty, server, service};

/// Follows a watcher until it has shown these names, and no others.
async fn follow(
    events: &mut (impl Stream<Item = watcher::Result<Event<Service>>> + Unpin),
    names: &mut BTreeSet<String>,
    wanted: &[&str],
) {
    let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let mut fresh = BTreeSet::new();
    let done = timeout(DEADLINE, async {
        while *names != wanted {
            match events.next().await.unwrap() {
                Ok(Event::Init) => fresh.clear(),
                Ok(Event::InitApply(service)) => drop(fresh.insert(service.name_any())),
                Ok(Event::InitDone) => names.clone_from(&fresh),
                Ok(Event::Apply(service)) => drop(names.insert(service.name_any())),
                Ok(Event::Delete(service)) => drop(names.remove(&service.name_any())),
                Err(_) => {}
            }
        }
    });
    assert!(done.await.is_ok(), "still {names:?} and not {wanted:?}");
}

async fn services(server: &ApiServer) -> Api<Service> {
    Api::all(client(server).await)
}

fn lists(server: &ApiServer) -> usize {
    let requests = server.requests();
    requests
        .iter()
        .filter(|request| !request.query.is_true("watch"))
        .count()
}

#[tokio::test]
async fn a_watcher_sees_what_comes_and_goes() {
    for config in [
        watcher::Config::default(),
        watcher::Config::default().page_size(2),
        watcher::Config::default().any_semantic(),
        watcher::Config::default().streaming_lists(),
    ] {
        let server = server();
        for name in ["a", "b", "c"] {
            server.apply(service(name)).unwrap();
        }
        let mut events = pin!(watcher(services(&server).await, config).default_backoff());
        let mut names = BTreeSet::new();
        follow(&mut events, &mut names, &["a", "b", "c"]).await;
        server.apply(service("d")).unwrap();
        follow(&mut events, &mut names, &["a", "b", "c", "d"]).await;
        server.delete(Kind::Service, "default", "a").unwrap();
        follow(&mut events, &mut names, &["b", "c", "d"]).await;
    }
}

#[tokio::test]
async fn a_streaming_list_needs_no_other() {
    let server = server();
    server.apply(service("a")).unwrap();
    let config = watcher::Config::default().streaming_lists();
    let mut events = pin!(watcher(services(&server).await, config).default_backoff());
    let mut names = BTreeSet::new();
    follow(&mut events, &mut names, &["a"]).await;
    assert_eq!(lists(&server), 0);
}

#[tokio::test]
async fn a_streaming_list_is_refused_where_there_is_none() {
    let server = ApiServer::builder()
        .behaviour(Behaviour {
            has_streaming_lists: false,
            ..hasty()
        })
        .start()
        .unwrap();
    let config = watcher::Config::default().streaming_lists();
    let mut events = pin!(watcher(services(&server).await, config));
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = next_error(&mut events).await
    else {
        panic!("another error");
    };
    assert_eq!(status.code, 422);
    assert!(
        status.message.contains("sendInitialEvents"),
        "{}",
        status.message
    );
}

async fn next_error(
    events: &mut (impl Stream<Item = watcher::Result<Event<Service>>> + Unpin),
) -> watcher::Error {
    let error = timeout(DEADLINE, async {
        loop {
            if let Err(error) = events.next().await.unwrap() {
                break error;
            }
        }
    });
    error.await.unwrap()
}

#[tokio::test]
async fn an_object_that_ceases_to_match_is_deleted_and_comes_again() {
    let server = server();
    server.apply(service("a")).unwrap();
    let config = watcher::Config::default().labels("!proxy");
    let mut events = pin!(watcher(services(&server).await, config).default_backoff());
    let mut names = BTreeSet::new();
    follow(&mut events, &mut names, &["a"]).await;
    let label = |value| json!({"metadata": {"labels": {"proxy": value}}});
    server
        .patch(Kind::Service, "default", "a", &label(json!("x")))
        .unwrap();
    follow(&mut events, &mut names, &[]).await;
    server
        .patch(Kind::Service, "default", "a", &label(json!(null)))
        .unwrap();
    follow(&mut events, &mut names, &["a"]).await;
}

#[tokio::test]
async fn a_watcher_lists_again_when_its_version_is_gone() {
    let server = server();
    server.apply(service("a")).unwrap();
    server
        .faults()
        .once(Matching::new(Verb::Watch, Kind::Service), Fault::Gone);
    let mut events =
        pin!(watcher(services(&server).await, watcher::Config::default()).default_backoff());
    let mut names = BTreeSet::new();
    follow(&mut events, &mut names, &["a"]).await;
    server.apply(service("b")).unwrap();
    follow(&mut events, &mut names, &["a", "b"]).await;
    assert_eq!(lists(&server), 2);
}

#[tokio::test]
async fn what_happened_during_an_outage_is_made_up_for() {
    let server = server();
    server.apply(service("a")).unwrap();
    let mut events =
        pin!(watcher(services(&server).await, watcher::Config::default()).default_backoff());
    let mut names = BTreeSet::new();
    follow(&mut events, &mut names, &["a"]).await;
    server.close();
    server.delete(Kind::Service, "default", "a").unwrap();
    server.apply(service("b")).unwrap();
    server.compact();
    server.open();
    follow(&mut events, &mut names, &["b"]).await;
}

#[tokio::test]
async fn a_forgotten_version_is_told_in_the_stream_or_by_the_status() {
    let server = server();
    server.apply(service("a")).unwrap();
    server.compact();
    let services = services(&server).await;
    let params = WatchParams::default();
    let mut events = services.watch(&params, "1").await.unwrap().boxed();
    let event = timeout(DEADLINE, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410));
    server.behave(|behaviour| behaviour.gone = Gone::Status);
    let error = services.watch(&params, "1").await.err().unwrap();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 410));
}

#[tokio::test]
async fn a_watch_ends_after_its_time_with_a_bookmark() {
    let server = ApiServer::builder()
        .behaviour(Behaviour {
            watch_timeout: Duration::from_millis(50),
            bookmark_interval: DEADLINE,
            ..Behaviour::default()
        })
        .start()
        .unwrap();
    let services = services(&server).await;
    let revision = server.read(|store| store.revision().to_string());
    let events = services
        .watch(&WatchParams::default(), &revision)
        .await
        .unwrap();
    let events: Vec<_> = timeout(DEADLINE, events.boxed().collect()).await.unwrap();
    let [Ok(WatchEvent::Bookmark(bookmark))] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(bookmark.metadata.resource_version, revision);
}

#[tokio::test]
async fn bookmarks_tell_versions_of_changes_that_do_not_match() {
    let server = server();
    let services = services(&server).await;
    let revision = server.read(|store| store.revision().to_string());
    let params = WatchParams::default().fields("metadata.name=other");
    let mut events = services.watch(&params, &revision).await.unwrap().boxed();
    server.apply(service("a")).unwrap();
    let latest = server.read(|store| store.revision().to_string());
    let seen = timeout(DEADLINE, async {
        while let Some(Ok(WatchEvent::Bookmark(bookmark))) = events.next().await {
            if bookmark.metadata.resource_version == latest {
                return true;
            }
        }
        false
    });
    assert!(seen.await.unwrap());
}
