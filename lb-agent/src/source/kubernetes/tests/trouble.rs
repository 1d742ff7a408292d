use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    api::{Api, CIDRS, Fault, SERVICES, SLICES, What, services_of},
    service,
};

/// Fails if `a` is ever missing from what is published from now on.
struct Continuity {
    is_missing: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Continuity {
    fn of(api: &Api) -> Self {
        let mut receiver = api.receiver.clone();
        let is_missing = Arc::new(AtomicBool::new(false));
        let found = is_missing.clone();
        let task = tokio::spawn(async move {
            loop {
                let snapshot = receiver.borrow_and_update().clone();
                if snapshot.is_some_and(|s| !services_of(&s).any(|name| name == "a")) {
                    found.store(true, Ordering::Relaxed);
                }
                if receiver.changed().await.is_err() {
                    return;
                }
            }
        });
        Self { is_missing, task }
    }
}

impl Drop for Continuity {
    fn drop(&mut self) {
        self.task.abort();
        assert!(!self.is_missing.load(Ordering::Relaxed), "`a` was missing");
    }
}

#[tokio::test]
async fn a_list_is_streamed_and_goes_on_as_a_watch() {
    let api = Api::synced(&["a"]).await;
    assert_eq!(api.server.whats(SERVICES), [What::Stream]);
    let (_, url) = &api.server.requests(SERVICES)[0];
    assert!(url.contains("resourceVersion=0"), "{url}");
}

#[tokio::test]
async fn a_server_that_cannot_stream_lists_is_asked_for_pages_at_once() {
    let mut api = Api::start().await;
    api.server.plan(SERVICES, |what, _| {
        (what == What::Stream).then_some(Fault::Status(422))
    });
    api.server.list_all(&["a"]);
    api.expect_services(&["a"]).await;
    assert_eq!(api.server.whats(SERVICES)[..2], [What::Stream, What::Page]);
    // And it is not asked to stream again.
    renew(&api);
    let server = api.server.clone();
    let is_page = |what: &&What| **what == What::Page;
    let pages = |whats: Vec<What>| whats.iter().filter(is_page).count();
    api.server
        .expect(|_| pages(server.whats(SERVICES)) == 2)
        .await;
    let whats = api.server.whats(SERVICES);
    let streams = whats.iter().filter(|what| **what == What::Stream);
    assert_eq!(streams.count(), 1);
}

/// Makes the history of Services too short for the watch.
fn renew(api: &Api) {
    api.server.set(SERVICES, |state| {
        state.events.push(Value::Null);
        state.oldest = state.events.len();
    });
}

#[tokio::test]
async fn a_streamed_list_that_does_not_get_on_is_fetched_in_pages() {
    for plan in [
        (|what, _| (what == What::Stream).then_some(Fault::NoEnd)) as super::api::Plan,
        |what, _| (what == What::Stream).then_some(Fault::Hang),
    ] {
        let mut api = Api::start().await;
        api.server.plan(SERVICES, plan);
        api.server.list_all(&["a"]);
        api.expect_services(&["a"]).await;
        assert_eq!(api.server.whats(SERVICES)[..2], [What::Stream, What::Page]);
    }
}

#[tokio::test]
async fn a_streamed_list_that_breaks_off_twice_is_fetched_in_pages() {
    let mut api = Api::start().await;
    api.server.plan(SERVICES, |what, _| {
        (what == What::Stream).then_some(Fault::Cut)
    });
    api.server.list_all(&["a"]);
    api.expect_services(&["a"]).await;
    assert_eq!(
        api.server.whats(SERVICES)[..3],
        [What::Stream, What::Stream, What::Page]
    );
}

#[tokio::test]
async fn a_deletion_that_was_missed_is_noticed_by_the_next_list() {
    let mut api = Api::synced(&["a", "b"]).await;
    let _continuity = Continuity::of(&api);
    api.server.list(SERVICES, vec![service("a")]);
    renew(&api);
    let snapshot = api.expect_services(&["a"]).await;
    assert_eq!(snapshot.model.slices.len(), 1, "the other watches went on");
}

#[tokio::test]
async fn a_watch_that_is_refused_as_too_old_is_given_up_for_a_new_list() {
    let mut api = Api::synced(&["a", "b"]).await;
    let _continuity = Continuity::of(&api);
    // From now on every watch is too old by its status, and the first stream ends.
    api.server.plan(SERVICES, |what, _| {
        (what == What::Watch).then_some(Fault::Status(410))
    });
    api.server.list(SERVICES, vec![service("a")]);
    api.expect_services(&["a"]).await;
    let whats = api.server.whats(SERVICES);
    assert_eq!(whats[..3], [What::Stream, What::Watch, What::Stream]);
}

#[tokio::test]
async fn a_watch_that_is_refused_again_and_again_is_given_up_for_a_new_list() {
    for plan in [
        (|what, _| (what == What::Watch).then_some(Fault::Status(500))) as super::api::Plan,
        |what, _| (what == What::Watch).then_some(Fault::InStream(500)),
        |what, _| (what == What::Watch).then_some(Fault::Garbage),
        |what, _| (what == What::Watch).then_some(Fault::Empty),
    ] {
        let mut api = Api::synced(&["a", "b"]).await;
        let _continuity = Continuity::of(&api);
        api.server.plan(SERVICES, plan);
        api.server.list(SERVICES, vec![service("a")]);
        api.expect_services(&["a"]).await;
        let whats = api.server.whats(SERVICES);
        let mut expected = vec![What::Stream];
        expected.extend([What::Watch; 3]);
        expected.push(What::Stream);
        assert_eq!(whats[..5], expected);
    }
}

#[tokio::test]
async fn a_watch_that_says_nothing_is_begun_anew_and_then_given_up_for_a_new_list() {
    let mut api = Api::synced(&["a", "b"]).await;
    let _continuity = Continuity::of(&api);
    api.server.plan(SERVICES, |what, _| {
        (what == What::Watch).then_some(Fault::NoEnd)
    });
    // What the silent watches do not tell.
    api.server.list(SERVICES, vec![service("a")]);
    api.server.plan(SERVICES, |what, _| {
        (what == What::Watch).then_some(Fault::Hang)
    });
    api.expect_services(&["a"]).await;
    let whats = api.server.whats(SERVICES);
    assert!(whats[1..].starts_with(&[What::Watch]), "{whats:?}");
}

#[tokio::test]
async fn an_event_that_breaks_off_is_sent_again() {
    let mut api = Api::synced(&["a"]).await;
    api.server.plan(SERVICES, |what, count| {
        (what == What::Watch && count < 2).then_some(Fault::Garbage)
    });
    // The silence of the first stream leads to watches, of which two are broken.
    api.server
        .expect(|state| {
            state
                .requests
                .iter()
                .filter(|(w, _)| *w == What::Watch)
                .count()
                > 2
        })
        .await;
    api.server.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_not_passed_over() {
    let mut api = Api::synced(&["a"]).await;
    api.server.plan(SERVICES, |what, count| {
        (what == What::Watch && count == 0).then_some(Fault::Nonsense)
    });
    let server = api.server.clone();
    api.server
        .expect(|_| server.whats(SERVICES).contains(&What::Watch))
        .await;
    api.server.send(SERVICES, "ADDED", service("b"));
    api.server.send(SERVICES, "ADDED", service("c"));
    api.expect_services(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn bookmarks_move_a_watch_on() {
    let mut api = Api::synced(&["a"]).await;
    let bookmark = json!({"kind": "Service", "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"}});
    api.server.send(SERVICES, "BOOKMARK", bookmark);
    let server = api.server.clone();
    // A watch that goes on from before would be told of the past.
    api.server
        .expect(|_| {
            let requests = server.requests(SERVICES);
            requests
                .iter()
                .any(|(what, url)| *what == What::Watch && url.contains("resourceVersion=1"))
        })
        .await;
    api.server.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
}

#[tokio::test]
async fn a_new_list_is_never_older_than_what_was_seen() {
    let mut api = Api::synced(&["a"]).await;
    for _ in 1..=3 {
        api.server.send(SERVICES, "MODIFIED", service("a"));
    }
    api.server.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
    api.server.list(SERVICES, vec![service("a"), service("c")]);
    renew(&api);
    api.expect_services(&["a", "c"]).await;
    let requests = api.server.requests(SERVICES);
    let last = requests.iter().rfind(|(what, _)| *what == What::Stream);
    let (_, url) = last.unwrap();
    assert!(url.contains("resourceVersion=4"), "{url}");
    assert!(url.contains("resourceVersionMatch=NotOlderThan"), "{url}");
}

#[tokio::test]
async fn a_watch_that_repeats_the_past_changes_nothing() {
    let mut api = Api::synced(&["b"]).await;
    api.server.send(SERVICES, "ADDED", service("a"));
    api.server.send(SERVICES, "DELETED", service("a"));
    api.server.send(SERVICES, "ADDED", service("a"));
    api.expect_services(&["a", "b"]).await;
    let _continuity = Continuity::of(&api);
    for index in 0..3 {
        api.server.repeat(SERVICES, index);
    }
    // The repetitions count as events of the server.
    api.server.send(SERVICES, "ADDED", service("c"));
    api.expect_services(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_network_that_can_no_longer_be_read_stays_in_force() {
    let mut api = Api::synced(&["a"]).await;
    api.server.plan(CIDRS, |_, _| Some(Fault::Status(403)));
    let server = api.server.clone();
    api.server.expect(|_| server.whats(CIDRS).len() > 6).await;
    api.server.send(SERVICES, "ADDED", service("b"));
    let snapshot = api.expect_services(&["a", "b"]).await;
    assert_eq!(snapshot.model.service_cidrs.len(), 1);
}

#[tokio::test]
async fn a_busy_server_is_not_asked_for_new_lists() {
    let api = Api::synced(&["a"]).await;
    api.server.plan(SLICES, |what, _| {
        (what == What::Watch).then_some(Fault::Status(429))
    });
    let server = api.server.clone();
    api.server.expect(|_| server.whats(SLICES).len() > 6).await;
    assert_eq!(api.server.whats(SLICES)[1..6], [What::Watch; 5]);
}
