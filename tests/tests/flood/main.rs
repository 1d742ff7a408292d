//! What floods and full tables do to the connections that there are: nothing.
//!
//! They run by themselves: what veths hand to a processor waits in one queue, whichever namespace it is
//! from, so a flood in one lab makes packets of all others get lost.

mod snat;

use std::collections::{BTreeSet, VecDeque};
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use lb_agent::dataplane::bpf::pinned_entries;
use lb_common::counter::{Hook, Outcome};
use lb_common::maps::{FLOWS, LAYOUT_VERSION};
use lb_common::{Flow, FlowKey};
use lb_tests::lab::{Cluster, Flood, Flooded, Pace, Place as _};

use lb_tests::scene::{NODE_PORT, Scene, Stage};

/// How long a flood goes on, in seconds, if nothing else is said.
const SECONDS: u64 = 10;
/// Says something else.
const SECONDS_VARIABLE: &str = "LB_FLOOD_SECONDS";
/// A SYN, or a segment, that is lost may be sent again a few times.
const PATIENCE: Duration = Duration::from_secs(40);

/// One flood at a time.
static FLOODING: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns, and
// `Raw` has the layout of its only field.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// The connections that no flood displaces.
fn kept(pin_dir: &Path) -> BTreeSet<FlowKey> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{FLOWS}"));
    let data = MapData::from_pin(path).expect("FLOWS");
    let map = Map::from_map_data(data).expect("a map");
    let map: HashMap<_, Raw<FlowKey>, Raw<Flow>> = map.try_into().expect("a hash map");
    map.keys().map(|key| key.expect("a key").0).collect()
}

/// A connection from outside.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(scene: &Scene, to: SocketAddr) -> io::Result<Self> {
        let client = scene.cluster.client().netns();
        let opened = client.run(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok::<_, io::Error>(stream)
        });
        let stream = BufReader::new(opened.expect("the client's namespace")?);
        Ok(Self { stream })
    }

    fn ask(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"is anybody there?\n")
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn exchange(&mut self) -> io::Result<()> {
        self.ask()?;
        self.hear()
    }
}

/// Every connection asks, then every one is answered.
#[track_caller]
fn exchange_all(connections: &mut [Connection]) {
    for connection in &mut *connections {
        connection.ask().expect("no connection is reset");
    }
    for connection in connections {
        connection.hear().expect("every connection goes on");
    }
}

#[track_caller]
fn open(scene: &Scene, to: SocketAddr, count: usize) -> Vec<Connection> {
    let mut connections: Vec<_> = (0..count)
        .map(|_| Connection::open(scene, to).expect("a connection"))
        .collect();
    exchange_all(&mut connections);
    connections
}

/// Sets it at the end of a scope, however that ends: whoever waits for it would wait for ever.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thousand connections exchange data, and new ones begin, while SYNs from nobody fill what there
/// is for connections that nobody has confirmed.
fn flood(nodes: usize, backends: &'static [usize], pace: Pace) {
    const CONNECTIONS: usize = 1000;
    let _one = FLOODING.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(nodes),
        backends,
        flags: &[],
    });
    let node_port = SocketAddrV4::new(scene.cluster.node(0).ipv4(), NODE_PORT);
    let to = SocketAddr::from(node_port);
    let mut connections = open(&scene, to, CONNECTIONS);
    let pin_dir = scene.agents[0].pin_dir();
    let before = kept(pin_dir);
    assert_eq!(before.len(), CONNECTIONS);
    let seconds = env::var(SECONDS_VARIABLE).ok();
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"));

    let count = |outcome| scene.count(0, Hook::Xdp, outcome);
    let opened_before = count(Outcome::NewFlow);
    let flood = Flood::start(&scene.cluster, 0, node_port, pace).expect("a flood");
    let is_over = AtomicBool::new(false);
    let (rounds, new) = thread::scope(|scope| {
        let new = scope.spawn(|| open_until(&scene, to, &is_over));
        let _ending = Ending(&is_over);
        let mut rounds = 0;
        while flood.elapsed() < Duration::from_secs(seconds) {
            exchange_all(&mut connections);
            rounds += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        (rounds, new.join().expect("new connections"))
    });
    let Flooded {
        sent,
        answered,
        took,
    } = flood.stop().expect("a flood to the end");
    let per_second = |count: u64| count as f64 / took.as_secs_f64() / 1000.0;
    println!(
        "{sent} SYNs sent ({:.1}k/s), {:.1}k/s opened a flow, {:.1}k/s found no port, {:.1}k/s were \
         answered; {CONNECTIONS} connections exchanged data {rounds} times, {new} new ones began",
        per_second(sent),
        per_second(count(Outcome::NewFlow) - opened_before),
        per_second(count(Outcome::NoSnatPort)),
        per_second(answered),
    );
    assert!(rounds > 0 && new > 0);
    let after = kept(pin_dir);
    let evicted: Vec<_> = before.difference(&after).collect();
    assert_eq!(evicted, Vec::<&FlowKey>::new());
    assert!(after.len() <= CONNECTIONS + new, "nobody else is kept");
    exchange_all(&mut connections);
}

/// Opens one connection after the other, each of which exchanges data and stays while so many others
/// come; how many there were.
fn open_until(scene: &Scene, to: SocketAddr, is_over: &AtomicBool) -> usize {
    /// The server has a thread for each.
    const STAY: usize = 2000;
    let (mut new, mut count) = (VecDeque::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let mut connection = Connection::open(scene, to).expect("a new connection");
        connection.exchange().expect("a new connection goes on");
        new.push_back(connection);
        if new.len() > STAY {
            new.pop_front();
        }
        count += 1;
    }
    for connection in &mut new {
        connection.exchange().expect("a new connection stays");
    }
    count
}

#[test]
fn syn_flood_for_a_local_backend_hurts_nobody() {
    flood(1, &[0], Pace::Answered);
}

#[test]
fn syn_flood_for_a_remote_backend_hurts_nobody() {
    flood(2, &[1], Pace::Answered);
}

#[test]
fn syn_flood_that_overruns_the_node_hurts_nobody() {
    flood(1, &[0], Pace::Unlimited);
}

#[test]
fn syn_flood_that_overruns_the_node_of_a_remote_backend_hurts_nobody() {
    flood(2, &[1], Pace::Unlimited);
}

/// Ten times as many connections as there is room for.
#[test]
fn full_tables_hurt_nobody_and_are_told() {
    const ROOM: usize = 50;
    let mut scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(1),
        backends: &[0],
        flags: &["--flows-max", "50", "--opening-max", "1000"],
    });
    let [to, _] = scene.node_ports(0);
    let mut old = open(&scene, to, ROOM);
    let pin_dir = scene.agents[0].pin_dir();
    let before = kept(pin_dir);
    assert_eq!(before.len(), ROOM);
    let full = || scene.count(0, Hook::Xdp, Outcome::TableFull);
    assert_eq!(full(), 0);

    let mut new = open(&scene, to, 9 * ROOM);
    for _ in 0..3 {
        exchange_all(&mut old);
        exchange_all(&mut new);
    }
    assert!(full() >= 9 * ROOM as u64, "each was refused: {}", full());
    assert_eq!(kept(pin_dir), before);
    let entries = pinned_entries(pin_dir, FLOWS).expect("a count");
    assert_eq!(entries, ROOM as u64);
    let agent = &mut scene.agents[0];
    let log = agent.log().to_owned();
    let is_told = |_: &_| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("raise --flows-max")
    };
    agent
        .wait_for("the agent says so", is_told)
        .expect("a warning");
}
