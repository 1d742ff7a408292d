//! Client and backend on one bridge, where the node drops what its conntrack takes for invalid.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Cluster, Place as _, Pod, Request, Requests};
use lb_tests::tool::Protocol;

use lb_tests::scene::{Scene, Stage, reach_all_ways};

/// How long the agent and the programs may take to follow a switch.
const DEADLINE: Duration = Duration::from_secs(10);

/// Settings of `net.bridge.bridge-nf-call-ip(6)tables`, and of the bridge itself.
#[derive(Clone, Copy, Debug)]
struct Switches {
    all: bool,
    own: bool,
}

impl Switches {
    fn set(self, scene: &Scene) {
        let netns = scene.cluster.node(0).netns();
        let (all, own) = (u8::from(self.all).to_string(), u8::from(self.own));
        let all =
            ["iptables", "ip6tables"].map(|name| (format!("bridge/bridge-nf-call-{name}"), &all));
        for (name, value) in all {
            netns
                .sysctl(&[(name.as_str(), value.as_str())])
                .expect("a switch");
        }
        let own =
            format!("link set cni0 type bridge nf_call_iptables {own} nf_call_ip6tables {own}");
        netns.ip(&[own]).expect("the bridge's switches");
    }

    fn is_direct(self) -> bool {
        !(self.all || self.own)
    }
}

/// Both on and off, each for its own reason.
const SWITCHES: [Switches; 5] = [
    Switches {
        all: true,
        own: false,
    },
    Switches {
        all: false,
        own: false,
    },
    Switches {
        all: false,
        own: true,
    },
    Switches {
        all: false,
        own: false,
    },
    Switches {
        all: true,
        own: true,
    },
];

fn scene() -> (Scene, Pod) {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder()
            .nodes(1)
            .drop_invalid()
            .host_tx_offload(false),
        backends: &[0, 0],
        flags: &[],
    });
    let client = scene.pod("client-pod", 0);
    (scene, client)
}

fn direct(scene: &Scene) -> u64 {
    scene.count(0, Hook::PodIngress, Outcome::Direct)
}

fn by_stack(scene: &Scene) -> u64 {
    scene.count(0, Hook::PodIngress, Outcome::ToStack)
}

/// Waits until `work`, which sends packets for both families, sends all of them by the bridge, or none.
#[track_caller]
fn until(scene: &Scene, is_direct: bool, work: impl Fn()) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let before = (direct(scene), by_stack(scene));
        work();
        let moved = (direct(scene) > before.0, by_stack(scene) > before.1);
        if moved == (is_direct, !is_direct) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "direct: {is_direct}, moved: {moved:?}"
        );
    }
}

fn ask(client: &Pod) {
    for to in Scene::cluster_ips() {
        client.request(Protocol::Udp, to).expect("an answer");
    }
}

#[test]
fn pods_of_one_bridge_reach_each_other_whatever_netfilter_sees() {
    let (scene, client) = scene();
    for switches in SWITCHES {
        switches.set(&scene);
        until(&scene, switches.is_direct(), || ask(&client));
        let deadline = Instant::now() + DEADLINE;
        // A client that gets a port of a moment ago goes the way of the flow that was there, for a second.
        while is_direct_all_ways(&scene, &client) != switches.is_direct() {
            assert!(Instant::now() < deadline, "{switches:?}");
        }
    }
}

/// Whether one of the requests of all ways, each of which is answered, goes by the bridge.
fn is_direct_all_ways(scene: &Scene, client: &Pod) -> bool {
    let before = direct(scene);
    reach_all_ways(client, Scene::cluster_ips(), &scene.names(), |reply| {
        assert!(
            client.addresses().contains(&reply.seen_client.ip()),
            "{reply:?}"
        );
    });
    direct(scene) > before
}

/// A connection that asks every 20 ms. Until a switch is followed, conntrack may see half of it, and
/// stop it: TCP sends again.
fn hold(client: &Pod, protocol: Protocol, to: SocketAddr) -> Requests {
    let request = Request {
        hold: true,
        count: 0,
        connect: true,
        interval: Duration::from_millis(20),
        timeout: DEADLINE,
        ..Request::new(protocol, to)
    };
    client.start(&request).expect("a client")
}

/// Lets each of them have ten answers, none of which fails.
#[track_caller]
fn exchange(connections: &mut [Requests]) {
    for connection in connections {
        for reply in connection.take(10) {
            reply.expect("no exchange fails");
        }
    }
}

/// From one setting to another. Not to and fro: what netfilter knows of a connection from before it was
/// hidden is wrong afterwards, and that takes its packets for invalid, whoever hid them.
#[test]
fn connections_within_a_bridge_outlive_a_change_of_what_netfilter_sees() {
    let (scene, client) = scene();
    let [by_all, off, by_own, ..] = SWITCHES;
    for [before, after] in [[by_all, off], [off, by_own], [by_own, off], [off, by_all]] {
        before.set(&scene);
        until(&scene, before.is_direct(), || ask(&client));
        let ways = Scene::cluster_ips().map(|to| Protocol::ALL.map(|protocol| (protocol, to)));
        let mut connections: Vec<_> = ways
            .concat()
            .into_iter()
            .map(|(protocol, to)| hold(&client, protocol, to))
            .collect();
        exchange(&mut connections);
        after.set(&scene);
        let connections = RefCell::new(connections);
        // Each of them has packets in that time, and its slow tick.
        until(&scene, after.is_direct(), || {
            exchange(&mut connections.borrow_mut())
        });
        for connection in connections.into_inner() {
            for reply in connection.finish() {
                reply.expect("no exchange fails");
            }
        }
    }
}
