//! Following the devices of a network namespace of the test's own. Needs root.

use std::{
    io::{Read as _, Write as _},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lb_agent::interfaces::{Overrides, State, watch};
use lb_common::{Addr, Role};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch::Receiver;

/// Runs `test` in a fresh network namespace, which ends with the thread.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Waits until `condition` holds; returns how long that took.
#[track_caller]
fn until(
    states: &mut Receiver<Arc<State>>,
    what: &'static str,
    condition: impl Fn(&State) -> bool,
) -> impl Future<Output = Duration> {
    let start = Instant::now();
    async move {
        let deadline = Duration::from_secs(5);
        let wait = tokio::time::timeout(deadline, states.wait_for(|state| condition(state)));
        let seen = wait
            .await
            .map(|state| drop(state.expect("the watch goes on")));
        assert!(seen.is_ok(), "not in time: {what}; {:#?}", states.borrow());
        start.elapsed()
    }
}

fn role(state: &State, name: &str) -> Option<Role> {
    let device = state.devices.values().find(|d| d.name == name);
    device.and_then(|d| d.role)
}

fn has(state: &State, name: &str) -> bool {
    state.devices.values().any(|d| d.name == name)
}

/// A process that holds another network namespace open.
struct Namespace(std::process::Child);

impl Namespace {
    fn new() -> Self {
        // `cat` starts only after the namespace exists, and echoes what it gets.
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn pod_veths_are_seen_as_they_come_and_go() {
    in_namespace(async || {
        let mut states = watch(Overrides::default()).await.unwrap();
        assert!(has(&states.borrow(), "lo"));

        let pod = Namespace::new();
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            ip(&format!(
                "link add pod1 type veth peer name eth0 netns {}",
                pod.0.id()
            ));
            let took = until(&mut states, "pod1 is a pod's", |s| {
                role(s, "pod1") == Some(Role::Pod)
            })
            .await;
            fastest = fastest.min(took);
            ip("link del pod1");
            until(&mut states, "pod1 is gone", |s| !has(s, "pod1")).await;
        }
        assert!(
            fastest < Duration::from_millis(50),
            "seen after {fastest:?}"
        );
    });
}

#[test]
fn veth_becomes_a_pods_when_its_peer_moves_away() {
    in_namespace(async || {
        let mut states = watch(Overrides::default()).await.unwrap();
        ip("link add pod1 type veth peer name eth0");
        until(&mut states, "pod1 is there", |s| has(s, "pod1")).await;
        assert_eq!(role(&states.borrow(), "pod1"), None);

        let pod = Namespace::new();
        ip(&format!("link set eth0 netns {}", pod.0.id()));
        until(&mut states, "pod1 is a pod's", |s| {
            role(s, "pod1") == Some(Role::Pod)
        })
        .await;

        drop(pod);
        until(&mut states, "pod1 is gone with its peer", |s| {
            !has(s, "pod1")
        })
        .await;
    });
}

#[test]
fn default_route_and_addresses_make_an_uplink() {
    in_namespace(async || {
        let mut states = watch(Overrides::default()).await.unwrap();
        ip("link add up0 type veth peer name up1");
        ip("link set up1 up");
        ip("link set up0 up");
        ip("address add 192.0.2.1/24 dev up0");
        ip("address add 2001:db8::1/64 dev up0 nodad");
        ip("route add default via 192.0.2.254");
        until(&mut states, "up0 is an uplink", |s| {
            role(s, "up0") == Some(Role::Uplink)
        })
        .await;
        let v4: Addr = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
        let v6: Addr = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into();
        until(&mut states, "both addresses are known", |s| {
            s.interfaces()
                .values()
                .any(|i| (i.snat4, i.snat6) == (v4, v6))
        })
        .await;
        assert_eq!(
            states.borrow().node_addresses,
            [v4.to_ip(), v6.to_ip()].into()
        );

        ip("route del default");
        until(&mut states, "up0 has no role", |s| role(s, "up0").is_none()).await;

        ip("-6 route add default nexthop via 2001:db8::2 dev up0 nexthop via 2001:db8::3 dev up0");
        until(&mut states, "up0 is an uplink for IPv6", |s| {
            role(s, "up0") == Some(Role::Uplink)
        })
        .await;
    });
}

#[test]
fn tunnel_is_found_by_its_kind() {
    in_namespace(async || {
        let mut states = watch(Overrides::default()).await.unwrap();
        ip("link add over0 type vxlan id 7 dstport 4789");
        until(&mut states, "over0 is a tunnel", |s| {
            role(s, "over0") == Some(Role::Tunnel)
        })
        .await;
    });
}

#[test]
fn storm_of_devices_ends_in_the_true_state() {
    in_namespace(async || {
        let mut states = watch(Overrides::default()).await.unwrap();
        let mut batch = String::new();
        for i in 0..60 {
            batch += &format!("link add a{i} type veth peer name b{i}\n");
        }
        for i in 0..59 {
            batch += &format!("link del a{i}\n");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        ip(&format!("-batch {}", file.path().display()));
        until(&mut states, "only the last pair is left", |s| {
            has(s, "a59") && s.devices.len() == 3
        })
        .await;
    });
}

#[test]
fn many_routes_do_not_hinder_the_reading() {
    in_namespace(async || {
        ip("link add uplink type veth peer name wire");
        ip("addr add 192.0.2.1/24 dev uplink");
        ip("link set wire up");
        ip("link set uplink up");
        // So many that the kernel hands them out in pieces.
        let mut batch = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = String::from("route add default via 192.0.2.254\n");
        for number in 0..4000 {
            let (high, low) = (number / 256, number % 256);
            lines += &format!("route add 10.{high}.{low}.0/24 via 192.0.2.2\n");
        }
        let mut input = batch.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        assert!(batch.wait().unwrap().success());

        for _ in 0..20 {
            let states = watch(Overrides::default()).await.unwrap();
            assert_eq!(role(&states.borrow(), "uplink"), Some(Role::Uplink));
        }
    });
}

#[test]
fn rules_and_routes_that_ask_for_more_than_destinations_are_seen_as_they_come_and_go() {
    in_namespace(async || {
        for command in [
            "link add uplink type veth peer name wire",
            "addr add 192.0.2.1/24 dev uplink",
            "addr add 2001:db8::1/64 dev uplink nodad",
            "link set wire up",
            "link set uplink up",
            "route add default via 192.0.2.254",
            // Programs do not ask for packets with marks.
            "rule add fwmark 0x80/0x80 lookup main",
        ] {
            ip(command);
        }
        let mut states = watch(Overrides::default()).await.unwrap();
        let is = |v4, v6| {
            move |state: &State| {
                let mut interfaces = state.interfaces().into_values();
                interfaces
                    .any(|uplink| [true, false].map(|v| uplink.is_by_destination(v)) == [v4, v6])
            }
        };
        until(&mut states, "destinations alone decide", is(true, true)).await;
        for (more, [v4, v6]) in [
            ("rule add from 198.51.100.0/24 lookup 77", [false, true]),
            ("-6 rule add ipproto udp dport 53 lookup 77", [true, false]),
            (
                "route add 203.0.113.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3",
                [false, true],
            ),
            (
                "route add 2001:db8:2::/48 from 2001:db8:3::/48 via 2001:db8::2",
                [true, false],
            ),
        ] {
            ip(more);
            until(&mut states, more, is(v4, v6)).await;
            ip(&more.replace(" add ", " del "));
            until(&mut states, "it is gone", is(true, true)).await;
        }
    });
}

#[test]
fn s21_an_address_of_any_device_is_known_while_it_is_there() {
    in_namespace(async || {
        ip("link set lo up");
        let mut states = watch(Overrides::default()).await.unwrap();
        let added = "192.0.2.7".parse().unwrap();
        assert!(!states.borrow().local_addresses.contains(&added));
        ip("addr add 192.0.2.7/32 dev lo");
        until(&mut states, "the address is there", |state| {
            state.local_addresses.contains(&added)
        })
        .await;
        ip("addr del 192.0.2.7/32 dev lo");
        until(&mut states, "the address is gone", |state| {
            !state.local_addresses.contains(&added)
        })
        .await;
    });
}
