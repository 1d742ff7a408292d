//! What there is not enough of.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lb_agent::dataplane::bpf;
use lb_tests::lab::{AgentSetup, Place as _};
use lb_tests::tool::TrafficOptions;

use crate::stage::{Service, Stage, cluster_ips, finish, pause};

/// Frontends that there is room for: a Service has four.
const ROOM: &str = "64";
const FRONTENDS: usize = 4;

/// Services of these numbers.
fn services(stage: &Stage, numbers: impl IntoIterator<Item = u16>) -> Vec<Service> {
    let backends = stage.backends();
    numbers
        .into_iter()
        .map(|number| (number, false, backends.clone()))
        .collect()
}

/// How many frontends each Service has.
fn served(stage: &Stage) -> BTreeMap<IpAddr, usize> {
    let frontends = bpf::pinned_frontends(stage.agents[0].pin_dir()).expect("frontends");
    let mut served = BTreeMap::new();
    for key in frontends.keys() {
        *served.entry(key.addr.to_ip()).or_default() += 1;
    }
    served
}

#[test]
fn r9_services_without_room_wait_whole_and_the_others_go_on() {
    let mut stage = Stage::new(1, &[0]);
    stage.write(&services(&stage, 1..=10));
    stage.start_agents(&["--frontends-max", ROOM]);
    let traffic = TrafficOptions {
        flows: 40,
        connections_per_second: 50,
        streams: 10,
        ..stage.inside(1..=10)
    };
    let traffic = stage.client.traffic(&traffic).expect("traffic");

    let mark = stage.agents[0].log_from(0).len() as u64;
    stage.write(&services(&stage, 1..=40));
    let agent = &mut stage.agents[0];
    agent
        .wait_for_log("--frontends-max", mark)
        .expect("a complaint");
    let room: usize = ROOM.parse().expect("a number");
    let full = |stage: &Stage| served(stage).values().sum::<usize>() == room;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !full(&stage) {
        assert!(std::time::Instant::now() < deadline, "{:?}", served(&stage));
        pause();
    }
    let now = served(&stage);
    // Both protocols of an address, or neither.
    assert!(now.values().all(|count| *count == FRONTENDS / 2), "{now:?}");
    for service in 1..=10 {
        for address in cluster_ips(service) {
            assert!(
                now.contains_key(&address.ip()),
                "{address} was there before"
            );
        }
    }

    // What goes makes room for what waits, by itself.
    stage.write(&services(&stage, (1..=10).chain(31..=36)));
    let wanted: BTreeSet<IpAddr> = (1..=10)
        .chain(31..=36)
        .flat_map(cluster_ips)
        .map(|address| address.ip())
        .collect();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while served(&stage).into_keys().collect::<BTreeSet<_>>() != wanted {
        assert!(std::time::Instant::now() < deadline, "{:?}", served(&stage));
        pause();
    }
    let report = finish(traffic, "inside");
    assert_eq!(report.lost(), 0, "datagrams");
}

/// A script that starts the agent after some words of the shell.
fn wrapper(stage: &Stage, name: &str, words: &str) -> PathBuf {
    let path = stage.cluster.dir().join(name);
    fs::write(&path, format!("#!/bin/sh\n{words} \"$@\"\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path
}

fn agent() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_lab-tool")).with_file_name("lb-agent");
    env::var_os("LB_AGENT_BIN").map_or_else(beside, PathBuf::from)
}

/// Starts an agent that cannot work. Returns what it says.
fn said_by(stage: &Stage, binary: &Path, flags: &[&str]) -> String {
    let setup = AgentSetup {
        binary: Some(binary),
        ..AgentSetup::default()
    };
    let (mut agent, mark) = stage.start_one(flags, &setup);
    let status = agent.wait().expect("an end");
    let log = agent.log_from(mark);
    assert!(!status.success(), "{log}");
    log
}

#[test]
fn an_agent_without_its_capabilities_says_which() {
    let stage = Stage::new(1, &[]);
    stage.write(&[]);
    let agent = agent();
    let agent = agent.display();
    let words = format!(
        "exec capsh --drop=cap_bpf,cap_sys_admin,cap_net_admin -- -c 'exec \"$0\" \"$@\"' {agent}"
    );
    let log = said_by(
        &stage,
        &wrapper(&stage, "without-capabilities", &words),
        &[],
    );
    let expected =
        "the capabilities CAP_BPF and CAP_NET_ADMIN are missing: run as root, or give them";
    assert!(log.contains(expected), "{log}");
}

/// A control group with little memory, which goes with the test.
struct Group(PathBuf);

impl Group {
    fn new(limit: &str) -> Self {
        let old = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = if old.is_dir() {
            (old, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = root.join(format!("lb-{}-memory", std::process::id()));
        fs::create_dir(&group).expect("a control group");
        let group = Self(group);
        fs::write(group.0.join(file), limit).expect("a limit of memory");
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The process that was in it may be on its way out.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            pause();
        }
    }
}

#[test]
fn r24_an_agent_with_too_little_memory_for_its_maps_says_how_much_they_take() {
    let stage = Stage::new(1, &[]);
    stage.write(&[]);
    let group = Group::new("67108864");
    let (procs, agent) = (group.0.join("cgroup.procs"), agent());
    let words = format!("echo $$ > {}; exec {}", procs.display(), agent.display());
    let log = said_by(&stage, &wrapper(&stage, "little-memory", &words), &[]);
    assert!(log.contains("allows 64 MiB (the largest: FLOWS "), "{log}");
    assert!(
        log.contains("raise the memory limit, or lower --flows-max"),
        "{log}"
    );
    let maps = stage.cluster.node(0).pin_dir().join("agent");
    assert_eq!(
        fs::read_dir(maps).expect("a directory").count(),
        0,
        "nothing was made"
    );
}
