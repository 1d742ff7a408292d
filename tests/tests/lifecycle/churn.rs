//! Backends that come and go all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lb_agent::dataplane::bpf;
use lb_common::{Frontend, FrontendKey, protocol};
use lb_tests::apiserver::ApiServer;
use lb_tests::lab::{Agent, Place as _};
use lb_tests::tool::{Contact, TrafficOptions, now_ns};
use serde_json::json;

use crate::stage::{Backend, IN_STEP, PORT, SERVERS, Stage, cluster_ips, finish, service};
use crate::times;

/// Services.
const COUNT: u16 = 100;
/// Where the agent finds the API server.
const API_PORT: u16 = 6443;
const SEED: u64 = 7;

/// When which backends were a Service's: from when on they could be, and until when.
#[derive(Default)]
struct History(Vec<(u64, u64, BTreeSet<u32>)>);

impl History {
    /// A set begins to take the place of the last one.
    fn begin(&mut self, set: &BTreeSet<Backend>) {
        let numbers = set.iter().map(|backend| backend.number()).collect();
        self.0.push((now_ns(), u64::MAX, numbers));
    }

    /// It has taken that place.
    fn done(&mut self) {
        if let [.., before, _] = self.0.as_mut_slice() {
            before.1 = now_ns();
        }
    }

    /// Whether the server of a contact was a backend at some moment of it.
    fn allows(&self, contact: &Contact) -> bool {
        self.0.iter().any(|(from, until, set)| {
            contact.answered_ns >= *from
                && contact.asked_ns <= *until
                && set.contains(&contact.server)
        })
    }
}

/// A cluster whose Services are changed through its API.
struct Cluster {
    stage: Stage,
    server: ApiServer,
    sets: BTreeMap<u16, BTreeSet<Backend>>,
    history: BTreeMap<u16, History>,
    rng: Rng,
}

impl Cluster {
    fn new() -> Self {
        let stage = Stage::new(2, &[0, 0, 1, 1]);
        let outside = stage.cluster.client();
        let ip = IpAddr::from(outside.ipv4());
        let server = ApiServer::builder().start().expect("an API server");
        let listener = outside.netns().run(|| TcpListener::bind((ip, API_PORT)));
        let listener = listener.expect("a namespace").expect("a free port");
        let address = server.listen(listener).expect("another socket");
        let kubeconfig = stage.cluster.dir().join("kubeconfig");
        fs::write(kubeconfig, server.kubeconfig_at(address)).expect("a kubeconfig");
        let mut cluster = Self {
            stage,
            server,
            sets: BTreeMap::new(),
            history: BTreeMap::new(),
            rng: Rng::with_seed(SEED),
        };
        for number in 1..=COUNT {
            let set = cluster.choose();
            cluster.apply(service(number, false));
            cluster.put(number, &set, None);
            cluster.history.entry(number).or_default().begin(&set);
            cluster.sets.insert(number, set);
        }
        cluster
    }

    fn apply(&self, object: serde_json::Value) {
        self.server.apply(object).expect("a good object");
    }

    /// A set with somebody in it.
    fn choose(&mut self) -> BTreeSet<Backend> {
        let pods = self.stage.pods.len();
        let count = self.rng.usize(1..6);
        let any = |_| Backend {
            pod: self.rng.usize(..pods),
            server: self.rng.u16(..SERVERS),
        };
        (0..count).map(any).collect()
    }

    /// Writes the slices of a Service; of one server's port only, if it is said.
    fn put(&self, number: u16, set: &BTreeSet<Backend>, only: Option<u16>) {
        for slice in self.stage.slices(number, set) {
            let port = &slice["ports"][0]["port"];
            if only.is_none_or(|server| *port == json!(9000 + server)) {
                self.apply(slice);
            }
        }
    }

    fn start_agent(&mut self) {
        let kubeconfig = self.stage.cluster.dir().join("kubeconfig");
        let kubeconfig = kubeconfig.to_str().expect("a path in UTF-8");
        let flags = ["--kubeconfig", kubeconfig, "--min-sync-period", "0"];
        let agent = Agent::start(self.stage.cluster.node(0), &flags).expect("an agent");
        self.stage.agents.push(agent);
        self.agent().wait_for_log(IN_STEP, 0).expect("maps in step");
    }

    fn agent(&mut self) -> &mut Agent {
        &mut self.stage.agents[0]
    }

    /// Changes the backends of a Service that have one port, and waits until that is in force.
    fn change(&mut self) {
        let number = self.rng.u16(1..=COUNT);
        let server = self.rng.u16(..SERVERS);
        let mut set = self.sets[&number].clone();
        set.retain(|backend| backend.server != server);
        let pods = self.stage.pods.len();
        for pod in 0..pods {
            if self.rng.bool() {
                set.insert(Backend { pod, server });
            }
        }
        if set.is_empty() || set == self.sets[&number] {
            return;
        }
        let keys = keys(number);
        let before = frontends(self.agent(), &keys);
        let mark = fs::metadata(self.agent().log()).map_or(0, |log| log.len());
        self.history.entry(number).or_default().begin(&set);
        self.put(number, &set, Some(server));
        let changed = self.agent().wait_for("the tables are other ones", |all| {
            keys.iter().all(|key| all.get(key).copied() != before[key])
        });
        changed.expect("maps in step");
        // What follows the tables, among it that a backend is gone.
        self.agent()
            .wait_for_log(IN_STEP, mark)
            .expect("maps in step");
        self.history.entry(number).or_default().done();
        self.sets.insert(number, set);
    }
}

/// Its frontends.
fn keys(number: u16) -> Vec<FrontendKey> {
    let addresses = cluster_ips(number).into_iter();
    let both = |address: std::net::SocketAddr| {
        [protocol::TCP, protocol::UDP].map(|p| FrontendKey::new(address.ip().into(), PORT, p))
    };
    addresses.flat_map(both).collect()
}

fn frontends(agent: &Agent, keys: &[FrontendKey]) -> BTreeMap<FrontendKey, Option<Frontend>> {
    let all = bpf::pinned_frontends(agent.pin_dir()).expect("frontends");
    keys.iter()
        .map(|key| (*key, all.get(key).copied()))
        .collect()
}

#[test]
fn backends_that_come_and_go_get_no_packet_before_or_after_and_none_is_lost() {
    let mut cluster = Cluster::new();
    cluster.start_agent();
    let options = TrafficOptions {
        flows: 100,
        connections_per_second: 200,
        streams: 100,
        interval_ms: 50,
        streams_may_move: true,
        lists_contacts: true,
        ..cluster.stage.inside(1..=COUNT)
    };
    let traffic = cluster.stage.client.traffic(&options).expect("traffic");
    let began = Instant::now();
    let changes = times(200, 10_000);
    for _ in 0..changes {
        cluster.change();
    }
    let took: Duration = began.elapsed();
    let report = finish(traffic, "inside");
    println!(
        "{changes} changes in {took:.1?}, {} contacts",
        report.contacts.len()
    );
    assert_eq!(report.lost(), 0, "datagrams");
    let strangers: Vec<_> = report
        .contacts
        .iter()
        .filter(|contact| {
            let number = 1 + (contact.target / 2) as u16;
            !cluster.history[&number].allows(contact)
        })
        .collect();
    assert_eq!(strangers, Vec::<&Contact>::new(), "of {changes} changes");
}
