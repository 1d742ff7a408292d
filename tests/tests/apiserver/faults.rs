//! What goes wrong, as it goes over the wire.

use std::time::{Duration, Instant};

use lb_tests::apiserver::faults::{Fault, Matching, Trouble, Verb};
use lb_tests::apiserver::store::Kind;
use lb_tests::apiserver::{ApiServer, Behaviour};

use super::raw::{Answer, get, send};
use super::{DEADLINE, service};

const SERVICES: &str = "/api/v1/services";
const WATCH: &str = "/api/v1/services?watch=true&resourceVersion=0&allowWatchBookmarks=true";

/// A server with three Services whose watches end soon.
fn server() -> ApiServer {
    let server = ApiServer::builder()
        .bare()
        .behaviour(Behaviour {
            watch_timeout: Duration::from_millis(100),
            ..Behaviour::default()
        })
        .start()
        .unwrap();
    for name in ["a", "b", "c"] {
        server.apply(service(name)).unwrap();
    }
    server
}

/// The answer to a list with this fault.
fn list_with(fault: Fault) -> Answer {
    let server = server();
    server
        .faults()
        .once(Matching::new(Verb::List, Kind::Service), fault);
    let answer = get(&server, SERVICES);
    // It happens once.
    assert_eq!(
        get(&server, SERVICES).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    answer
}

/// The answer to a watch with this fault.
fn watch_with(after: usize, trouble: Trouble) -> Answer {
    let server = server();
    server.faults().once(
        Matching::verb(Verb::Watch),
        Fault::Stream { after, trouble },
    );
    get(&server, WATCH)
}

fn types(answer: &Answer) -> Vec<String> {
    let events = answer.events().into_iter();
    events
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn failures_are_statuses_and_say_when_to_come_again() {
    let answer = list_with(Fault::Fail {
        code: 429,
        retry_after: Some(3),
    });
    assert_eq!(answer.code, 429);
    assert!(answer.head.contains("retry-after: 3"), "{}", answer.head);
    assert_eq!(answer.json()["reason"], "TooManyRequests");
    let answer = list_with(Fault::Fail {
        code: 500,
        retry_after: None,
    });
    assert_eq!(
        (answer.code, &answer.json()["kind"]),
        (500, &"Status".into())
    );
    assert_eq!(list_with(Fault::Gone).code, 410);
}

#[test]
fn answers_are_late_cut_or_missing() {
    let begin = Instant::now();
    assert_eq!(list_with(Fault::Late(Duration::from_millis(30))).code, 200);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert_eq!(list_with(Fault::Hangup).code, 0);
    let cut = list_with(Fault::Truncated);
    assert!(
        cut.code == 200 && !cut.is_whole && !cut.body.is_empty(),
        "{cut:?}"
    );
    let malformed = list_with(Fault::Malformed);
    assert!(malformed.code == 200 && malformed.is_whole, "{malformed:?}");
    serde_json::from_slice::<serde_json::Value>(&malformed.body).unwrap_err();
}

#[test]
fn a_silent_server_keeps_the_connection_until_all_are_ended() {
    let server = server();
    server.faults().once(Matching::ALL, Fault::Silent);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(&server, SERVICES));
        assert!(server.wait_until(DEADLINE, || server.requests().len() == 1));
        assert!(!asking.is_finished());
        server.disconnect();
        assert_eq!(asking.join().unwrap().code, 0);
    });
}

#[test]
fn a_frozen_server_says_nothing_and_goes_on_when_it_thaws() {
    let server = server();
    server.freeze();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(&server, SERVICES));
        let pause = Duration::from_millis(50);
        assert!(!server.wait_until(pause, || asking.is_finished()));
        server.open();
        assert_eq!(asking.join().unwrap().code, 200);
    });
}

#[test]
fn streams_end_in_all_ways() {
    let all = ["ADDED", "ADDED", "ADDED", "BOOKMARK", "BOOKMARK"];
    let server = server();
    assert_eq!(types(&get(&server, WATCH)), all);
    let closed = watch_with(2, Trouble::Close);
    assert_eq!((types(&closed).len(), closed.is_whole), (2, true));
    let aborted = watch_with(2, Trouble::Abort);
    assert_eq!((types(&aborted).len(), aborted.is_whole), (2, false));
    let half = watch_with(1, Trouble::HalfEvent);
    assert!(!half.is_whole && !half.body.ends_with(b"\n"), "{half:?}");
    let truncated = watch_with(1, Trouble::TruncatedEvent);
    assert!(
        truncated.is_whole && !truncated.body.ends_with(b"\n"),
        "{truncated:?}"
    );
}

#[test]
fn events_come_late_in_parts_and_twice() {
    let pause = Duration::from_millis(30);
    for trouble in [Trouble::Stall(pause), Trouble::Split(pause)] {
        let begin = Instant::now();
        assert_eq!(types(&watch_with(1, trouble)).len(), 5);
        assert!(begin.elapsed() >= pause);
    }
    let repeated = watch_with(1, Trouble::Repeat).events();
    assert_eq!(repeated[1], repeated[2]);
}

#[test]
fn a_stream_falls_silent_and_its_connection_stays() {
    let server = server();
    let trouble = Trouble::Silence;
    server
        .faults()
        .once(Matching::ALL, Fault::Stream { after: 1, trouble });
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(&server, WATCH));
        // Longer than the watch would last.
        let pause = Duration::from_millis(150);
        assert!(!server.wait_until(pause, || asking.is_finished()));
        server.disconnect();
        assert_eq!(types(&asking.join().unwrap()).len(), 1);
    });
}

#[test]
fn watches_lose_their_history_bookmarks_and_lists() {
    let server = server();
    let watch = Matching::verb(Verb::Watch);
    server.faults().once(watch, Fault::Compact);
    let old = get(&server, "/api/v1/services?watch=true&resourceVersion=1").events();
    assert_eq!(old[0]["object"]["code"], 410);
    server.faults().once(watch, Fault::NoBookmarks);
    assert_eq!(types(&get(&server, WATCH)), ["ADDED", "ADDED", "ADDED"]);
    server.faults().once(watch, Fault::NoStreamingList);
    let url = format!("{WATCH}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    assert_eq!(get(&server, &url).code, 422);
    assert_eq!(types(&get(&server, &url))[3], "BOOKMARK");
}

#[test]
fn a_replay_tells_of_changes_again() {
    let server = server();
    let revision = server.read(lb_tests::apiserver::store::Store::revision);
    server.faults().once(Matching::ALL, Fault::Replay(2));
    let url = format!("/api/v1/services?watch=true&resourceVersion={revision}");
    assert_eq!(types(&get(&server, &url)), ["ADDED", "ADDED"]);
    assert_eq!(types(&get(&server, &url)), [""; 0]);
}

#[test]
fn lists_and_watches_are_compressed_for_those_who_can_read_it() {
    let server = server();
    server.behave(|behaviour| {
        behaviour.gzip_from = 0;
        behaviour.has_gzip_watches = true;
    });
    let gzip = ["Accept-Encoding: gzip"];
    let list = send(&server, "GET", SERVICES, &gzip, "");
    assert!(
        list.head.contains("content-encoding: gzip"),
        "{}",
        list.head
    );
    let plain: serde_json::Value = serde_json::from_slice(&list.gunzip()).unwrap();
    assert_eq!(plain, get(&server, SERVICES).json());
    let watch = send(&server, "GET", WATCH, &gzip, "");
    let plain = watch.gunzip();
    assert_eq!(plain.iter().filter(|byte| **byte == b'\n').count(), 5);
    // Each event can be read as soon as it is there.
    let magic = [0x1f, 0x8b, 8];
    assert_eq!(
        watch
            .body
            .windows(3)
            .filter(|window| *window == magic)
            .count(),
        5
    );
    assert!(!get(&server, WATCH).head.contains("gzip"));
}
