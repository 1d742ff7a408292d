//! What an agent needs of a machine, and what it gives up.

use std::collections::BTreeMap;
use std::fs;

use lb_tests::lab::{Agent, Cluster, Node};
use nix::sys::signal::Signal;

use lb_tests::scene::{Scene, Stage, reach_all_ways};

/// `CAP_NET_ADMIN` and `CAP_BPF`, by their numbers.
const NEEDED: u64 = 1 << 12 | 1 << 39;

/// Agents without a manifest of their own: the test starts them.
fn scene() -> Scene {
    let mut scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1],
        flags: &[],
    });
    for agent in scene.agents.drain(..) {
        agent.stop(Signal::SIGTERM).expect("a clean end");
    }
    scene
}

/// Pods, processes of the node and clients outside reach all backends.
fn serve(scene: &Scene) {
    let pod = scene.pod("client-pod", 0);
    reach_all_ways(&pod, Scene::cluster_ips(), &scene.names(), |_| ());
    let node = scene.cluster.node(0);
    reach_all_ways(node, Scene::cluster_ips(), &scene.names(), |_| ());
    let outside = scene.cluster.client();
    reach_all_ways(outside, scene.node_ports(0), &scene.names(), |_| ());
}

/// What the kernel says of each thread.
fn threads(agent: &Agent) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).expect("a process");
    let mut threads = Vec::new();
    for task in tasks {
        let path = task.expect("a thread").path().join("status");
        // A thread that has ended has none.
        let status = fs::read_to_string(path).unwrap_or_default();
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let fields: BTreeMap<_, _> = fields
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        threads.extend((!fields.is_empty()).then_some(fields));
    }
    assert!(threads.len() > 1, "{threads:?}");
    threads
}

#[track_caller]
fn assert_restricted(agent: &Agent) {
    for thread in threads(agent) {
        let mask = |name: &str| u64::from_str_radix(&thread[name], 16).expect("a number");
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(mask(set), NEEDED, "{set} of {}", thread["Name"]);
        }
        assert_eq!(mask("CapInh") | mask("CapAmb"), 0);
        assert_eq!(thread["NoNewPrivs"], "1");
        assert_eq!(thread["Seccomp"], "2");
    }
    for said in [
        "restricted files: by Landlock",
        "restricted system calls: by a seccomp filter",
    ] {
        assert!(agent.has_said(said), "{said}: {}", agent.log_end());
    }
}

#[test]
fn an_agent_of_root_gives_up_what_it_does_not_need() {
    let mut scene = scene();
    scene.start_agents_until("in step with the source", &[], None);
    scene.agents.iter().for_each(assert_restricted);
    for thread in scene.agents.iter().flat_map(threads) {
        assert_eq!(u64::from_str_radix(&thread["CapBnd"], 16), Ok(NEEDED));
    }
    serve(&scene);
}

#[test]
fn an_agent_keeps_what_it_has_if_it_is_told_to() {
    let mut scene = scene();
    scene.start_agents_until("in step with the source", &["--hardening", "off"], None);
    for thread in scene.agents.iter().flat_map(threads) {
        assert_ne!(u64::from_str_radix(&thread["CapEff"], 16), Ok(NEEDED));
        assert_eq!(thread["Seccomp"], "0");
    }
}

/// A scene without anything pinned: what root has pinned is not trusted by others.
fn bare_scene() -> Scene {
    let scene = scene();
    for node in scene.cluster.nodes() {
        fs::remove_dir_all(node.pin_dir().join("agent")).expect("pins");
    }
    scene
}

/// On a read-only root file system.
#[test]
fn an_agent_without_root_serves_with_three_capabilities() {
    let mut scene = bare_scene();
    scene.start_agents_by(|node: &Node, flags: &[&str]| {
        Agent::start_unprivileged(node, flags, &["bpf", "net_admin", "perfmon"])
    });
    scene.agents.iter().for_each(assert_restricted);
    serve(&scene);
    // Devices that come later get their programs, too.
    let pod = scene.pod("later-pod", 1);
    reach_all_ways(&pod, Scene::cluster_ips(), &scene.names(), |_| ());
}

#[test]
fn an_agent_without_perfmon_says_that_it_needs_it() {
    let scene = bare_scene();
    let node = scene.cluster.node(0);
    let manifests = scene.manifests.to_str().expect("a path in UTF-8");
    let flags = ["--manifests", manifests];
    let agent = Agent::start_unprivileged(node, &flags, &["bpf", "net_admin"]);
    let mut agent = agent.expect("an agent");
    let ended = agent.wait_until_it_says("in step with the source");
    let ended = ended.expect_err("it ends");
    let said = agent.has_said("needs CAP_PERFMON");
    assert!(said, "{ended}");
}
