//! What may stand nowhere, or only where there is a reason.

use super::source::{Source, Token, places};

/// What is never committed, and how to say it.
const NEVER: [(&[&str], &str); 3] = [
    (&["#", "[", "ignore"], "a test is ignored"),
    (&["todo", "!"], "something is to be done"),
    (&["unimplemented", "!"], "something is not implemented"),
];

/// Functions that wait for time instead of an event.
const SLEEPS: [&str; 2] = ["sleep", "sleep_until"];

/// Files that may sleep, and why.
const SLEEPERS: &[(&str, &str)] = &[
    (
        "lb-agent/src/cli/drops.rs",
        "looks again every second, as it was asked to",
    ),
    (
        "lb-agent/src/dataplane/bpf/attach.rs",
        "polls with a deadline until the kernel has detached a program",
    ),
    (
        "lb-agent/src/http.rs",
        "pauses before it tries again to listen, and where it cannot accept",
    ),
    (
        "lb-agent/src/interfaces/netfilter.rs",
        "looks now and then at settings of whose changes the kernel does not tell",
    ),
    (
        "lb-agent/src/interfaces/watch.rs",
        "lets bursts of events pass, and pauses before it renews a broken subscription",
    ),
    (
        "lb-agent/src/pace.rs",
        "lets changes come together, paces the models of a large cluster, and pauses before what the kernel \
         refused is tried again",
    ),
    (
        "lb-agent/src/source/kubernetes/events.rs",
        "pauses before it tells the API server again what it did not take",
    ),
    (
        "lb-agent/src/source/kubernetes/follow.rs",
        "pauses before it asks the API server again for what it refused",
    ),
    (
        "lb-agent/tests/bpf_dataplane/main.rs",
        "polls with a deadline until the kernel has done what it does later",
    ),
    (
        "tests/src/apiserver/pause.rs",
        "delays answers of the stand-in on purpose, and the end of deleted pods",
    ),
    (
        "tests/src/lab/agent.rs",
        "polls with a deadline until an agent has written its maps",
    ),
    (
        "tests/src/lab/cgroup.rs",
        "polls with a deadline until a cgroup is empty",
    ),
    (
        "tests/src/perf/control/changes.rs",
        "leaves an agent alone between changes that are not to be taken together, and the processor between \
         looks",
    ),
    (
        "tests/src/perf/control/scene.rs",
        "looks at intervals how much memory an agent has, and whether it is done",
    ),
    (
        "tests/src/perf/programs/cell.rs",
        "lets the second pass after which the programs renew what their records cache",
    ),
    (
        "tests/tests/lifecycle/stage.rs",
        "polls with a deadline until the kernel has let go of what is not used any more",
    ),
    (
        "tests/tests/chaos/run.rs",
        "fails when its deadline has come",
    ),
];

/// Directories of what must not depend on the wall clock, which may jump (R16).
const TIMELESS: [&str; 3] = ["lb-agent/src/", "lb-common/src/", "lb-ebpf/src/"];

/// Files there that may read it, and why.
const CLOCKS: &[(&str, &str)] = &[
    (
        "lb-agent/src/agent/monitor.rs",
        "tells metrics when something happened",
    ),
    (
        "lb-agent/src/health/server.rs",
        "tells load balancers when it was asked",
    ),
    (
        "lb-agent/src/source/kubernetes/events.rs",
        "tells the API server when an Event happened",
    ),
];

/// Ways to read the wall clock.
const NOW: [&[&str]; 2] = [
    &["SystemTime", ":", ":", "now"],
    &["Timestamp", ":", ":", "now"],
];

/// Finds what must not be there.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<String> {
    let tokens = source.tokens();
    let mut problems = Vec::new();
    for (pattern, meaning) in NEVER {
        problems.extend(places(&tokens, pattern).map(|at| problem(source, &tokens[at], meaning)));
    }
    if !SLEEPERS.iter().any(|&(path, _)| source.path == path) {
        let sleeps = tokens
            .iter()
            .filter(|token| SLEEPS.contains(&token.text.as_str()));
        problems.extend(sleeps.map(|token| {
            problem(
                source,
                token,
                "sleeps; wait for the event, or say in tidy/forbidden.rs why not",
            )
        }));
    }
    let is_timeless = TIMELESS.iter().any(|dir| source.path.starts_with(dir));
    if is_timeless && !CLOCKS.iter().any(|&(path, _)| source.path == path) {
        let reads = NOW.iter().flat_map(|pattern| places(&tokens, pattern));
        problems.extend(reads.map(|at| {
            let meaning = "reads the wall clock; take Instant, or say in tidy/forbidden.rs why not";
            problem(source, &tokens[at], meaning)
        }));
    }
    problems
}

fn problem(source: &Source, token: &Token, meaning: &str) -> String {
    format!("{}:{}: {meaning}", source.path, token.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&[Source::parse(path, text).unwrap()])
    }

    #[test]
    fn unfinished_and_ignored_code_is_found() {
        assert_eq!(
            problems("a.rs", "#[test]\n#[ignore]\nfn f() {}"),
            ["a.rs:2: a test is ignored"]
        );
        assert_eq!(problems("a.rs", "#[ignore = \"slow\"]\nfn f() {}").len(), 1);
        assert_eq!(problems("a.rs", "fn f() { todo!() }").len(), 1);
        assert_eq!(
            problems("a.rs", "fn f() { unimplemented!(\"x\") }").len(),
            1
        );
    }

    #[test]
    fn sleep_is_found_however_it_is_imported() {
        for text in [
            "fn f() { std::thread::sleep(D); }",
            "use tokio::time::{sleep, timeout};",
            "async fn f() { tokio::time::sleep_until(t).await }",
        ] {
            assert_eq!(problems("a.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn files_with_a_reason_may_sleep() {
        for (path, reason) in SLEEPERS {
            assert!(problems(path, "fn f() { std::thread::sleep(D); }").is_empty());
            assert!(reason.len() > 20, "{path} needs a reason");
        }
    }

    #[test]
    fn the_wall_clock_is_read_only_where_there_is_a_reason() {
        for text in [
            "fn f() { std::time::SystemTime::now(); }",
            "fn f() { jiff::Timestamp::now(); }",
        ] {
            assert_eq!(problems("lb-agent/src/a.rs", text).len(), 1, "{text}");
            assert!(problems("tests/src/a.rs", text).is_empty());
            for (path, reason) in CLOCKS {
                assert!(problems(path, text).is_empty());
                assert!(reason.len() > 20, "{path} needs a reason");
            }
        }
    }
}
