//! Agents where there is one already, or none any more; and kube-proxy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::lab::{AgentSetup, ForeignProgram, Inventory, Place as _, lb_agent};
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::stage::{Stage, finish, pause};

fn some(options: TrafficOptions) -> TrafficOptions {
    TrafficOptions {
        flows: 20,
        streams: 5,
        connections_per_second: 50,
        ..options
    }
}

fn served() -> Stage {
    let mut stage = Stage::new(1, &[0]);
    stage.write(&[(1, true, stage.backends())]);
    stage.start_agents(&[]);
    stage
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

#[test]
fn r26_a_second_agent_is_refused_and_the_first_one_goes_on() {
    let mut stage = served();
    let traffic = stage
        .client
        .traffic(&some(stage.inside([1])))
        .expect("traffic");
    let before = stage.settled();

    let (mut second, mark) = stage.start_one(&[], &AgentSetup::default());
    let status = second.wait().expect("an end");
    assert!(!status.success());
    let first = stage.agents[0].id();
    let said = format!(
        "another lb-agent serves with the pins below {}",
        second.pin_dir().display()
    );
    let log = second.log_from(mark);
    assert!(
        log.contains(&said) && log.contains(&format!("(process {first})")),
        "{log}"
    );
    assert!(
        log.contains("end it first, or give this one another --pin-dir"),
        "{log}"
    );
    let refused = lb_agent(stage.cluster.node(0), &["cleanup"]).expect("a command");
    assert!(!refused.status.success());
    assert!(text(&refused).contains(&said), "{refused:?}");

    assert_eq!(stage.settled(), before);
    finish(traffic, "inside");
    // The lock goes with the first one, however that ends.
    assert_eq!(stage.restart_agents(Signal::SIGKILL, &[]), [0]);
}

#[test]
fn pins_that_others_could_have_made_are_refused() {
    let stage = Stage::new(1, &[0]);
    stage.write(&[]);
    let pins = stage.cluster.node(0).pin_dir().join("agent");
    fs::create_dir(&pins).expect("a directory");
    fs::set_permissions(&pins, fs::Permissions::from_mode(0o755)).expect("a mode");
    let (mut agent, mark) = stage.start_one(&[], &AgentSetup::default());
    assert!(!agent.wait().expect("an end").success());
    let log = agent.log_from(mark);
    assert!(log.contains("its mode is 755, not 700"), "{log}");
    assert_eq!(fs::read_dir(&pins).expect("a directory").count(), 0);
}

#[test]
fn cleanup_removes_all_that_is_ours_and_nothing_else() {
    let mut stage = served();
    let node = stage.cluster.node(0);
    let pins = stage.agents[0].pin_dir().to_owned();
    let foreign = ForeignProgram::attach(node.netns(), node.uplink());
    let _foreign = foreign.expect("somebody else's program");
    let attached = |stage: &Stage| {
        let node = stage.cluster.node(0);
        let query = || SchedClassifier::query_tcx(node.uplink(), TcAttachType::Ingress);
        let (_, programs) = node
            .netns()
            .run(query)
            .expect("a namespace")
            .expect("programs");
        programs.len()
    };
    assert_eq!(attached(&stage), 2);
    let maps_before = Inventory::of(&pins).expect("an inventory").maps;
    assert!(maps_before > 0);
    for agent in stage.agents.drain(..) {
        agent.stop(Signal::SIGTERM).expect("a clean end");
    }
    let node = stage.cluster.node(0);
    let shown = lb_agent(node, &["cleanup", "--dry-run"]).expect("a command");
    assert!(text(&shown).contains("found "), "{shown:?}");
    assert!(pins.exists(), "nothing was removed");

    let removed = lb_agent(node, &["cleanup"]).expect("a command");
    assert!(removed.status.success(), "{removed:?}");
    assert!(text(&removed).contains("/maps/FRONTENDS"), "{removed:?}");
    assert!(!pins.exists());
    let others = fs::read_dir(node.pin_dir())
        .expect("the lab's pins")
        .count();
    assert!(others > 0, "the lab's own pins stay");
    let deadline = Instant::now() + Duration::from_secs(10);
    while attached(&stage) != 1 {
        assert!(Instant::now() < deadline, "only the other's program stays");
        pause();
    }
    // All is made anew.
    stage.start_agents(&[]);
    let traffic = stage
        .client
        .traffic(&some(stage.inside([1])))
        .expect("traffic");
    finish(traffic, "inside");
}

/// kube-proxy's rules, as its two modes leave them, and a chain and a table of others.
const RULES: &str = "
add table ip kube-proxy
add chain ip kube-proxy services
add table ip6 kube-proxy
add chain ip6 kube-proxy services
add table ip other
add chain ip other services
";
const IPTABLES: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABC - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.200.1/32 -j KUBE-SVC-ABC
-A KUBE-SVC-ABC -j KUBE-MARK-MASQ
COMMIT
";

#[test]
fn rules_of_kube_proxy_are_told_and_removed_beside_connections_of_ours() {
    let mut stage = served();
    let traffic = stage
        .client
        .traffic(&some(stage.inside([1])))
        .expect("traffic");
    let node = stage.cluster.node(0);
    node.netns()
        .feed("nft", &["-f", "-"], RULES)
        .expect("rules");
    let restore = |input| {
        node.netns()
            .feed("iptables-nft-restore", &["--noflush"], input)
    };
    restore(IPTABLES).expect("rules");

    let log = stage.agents[0].log_from(0);
    assert!(!log.contains("kube-proxy's rules"), "{log}");
    let mark = log.len() as u64;
    stage.restart_agents(Signal::SIGTERM, &[]);
    let log = stage.agents[0].log_from(mark);
    let told = "there are kube-proxy's rules (the table kube-proxy of ip, the table kube-proxy of ip6, \
                the chains KUBE-* of ip nat (nft)): end it, and run `lb-agent cleanup --kube-proxy`";
    assert!(log.contains(told), "{log}");

    let node = stage.cluster.node(0);
    let removed = lb_agent(node, &["cleanup", "--kube-proxy"]).expect("a command");
    assert!(removed.status.success(), "{}", text(&removed));
    assert!(
        text(&removed).starts_with("removed kube-proxy's rules"),
        "{}",
        text(&removed)
    );
    let left = node
        .netns()
        .feed("nft", &["list", "ruleset"], "")
        .expect("rules");
    assert!(
        !left.contains("KUBE-SERVICES") && !left.contains("kube-proxy"),
        "{left}"
    );
    assert!(
        left.contains("table ip other") && left.contains("KUBE-MARK-MASQ"),
        "{left}"
    );
    let again = lb_agent(node, &["cleanup", "--kube-proxy"]).expect("a command");
    assert_eq!(text(&again), "kube-proxy has left no rules\n");
    finish(traffic, "inside");
}
