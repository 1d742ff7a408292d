//! A pod is replaced, the way Kubernetes does it, under continuous requests.

use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Cell;

use super::scene::Scene;
use super::show::Show;
use super::tally::{Tally, ms};
use super::traffic::{Asker, await_rounds, paths};
use crate::tool::Protocol;

/// The pod that goes, and the node (by its index) that its successor starts on.
const OLD: &str = "alpaca-2";
const NEW_NODE: usize = 2;

/// How long every client waits after an answer.
const PAUSE: Duration = Duration::from_millis(10);
/// How many requests of every client there are before, between and after the changes.
const ROUNDS: u64 = 30;
/// As many requests later, those that were under way have ended.
const DRAINED: u64 = 2;

/// The clients, and what those who have left have counted.
struct Crowd {
    askers: Vec<Asker>,
    left: Vec<(bool, Protocol, Tally)>,
}

/// Replaces a pod; counts what everybody's requests came to.
pub(super) fn run(show: &Show, scene: &mut Scene) -> Result<Tally> {
    let started = Instant::now();
    let say = |text: &str| println!("{:>6.2} s  {text}", started.elapsed().as_secs_f64());

    let mut crowd = Crowd::start(scene)?;
    await_rounds(&mut crowd.askers, ROUNDS)?;
    let clients = crowd.askers.len();
    let held = crowd.holding(OLD);
    say(&format!(
        "{clients} clients ask; {held} connections lead to {OLD}"
    ));

    let new = scene.start_pod(NEW_NODE)?;
    let ((), took) = timed(|| scene.publish())?;
    say(&format!(
        "{new} is ready; every node gives it new connections {took} later"
    ));
    await_rounds(&mut crowd.askers, ROUNDS)?;

    let ((), took) = timed(|| scene.terminate(OLD))?;
    say(&format!(
        "{OLD} is marked terminating; no node gives it new connections {took} later"
    ));
    // Requests that were under way end, while the pod still serves the connections it has.
    await_rounds(&mut crowd.askers, DRAINED)?;
    let before = crowd.new_connections(OLD);
    await_rounds(&mut crowd.askers, ROUNDS)?;
    let (new, held) = (crowd.new_connections(OLD) - before, crowd.holding(OLD));
    say(&format!(
        "{OLD} has got {new} new connections since, and serves the {held} that it has; they end"
    ));
    crowd.leave(OLD);
    await_rounds(&mut crowd.askers, DRAINED)?;

    let ((), took) = timed(|| scene.remove_pod(OLD))?;
    say(&format!(
        "{OLD} has been withdrawn; gone from every node and deleted {took} later"
    ));
    await_rounds(&mut crowd.askers, ROUNDS)?;
    crowd.leave_all();
    say("everybody has stopped");
    Ok(crowd.sum_up(show))
}

/// Does something, and says how long it took.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    let started = Instant::now();
    let done = work()?;
    Ok((done, format!("{} ms", started.elapsed().as_millis())))
}

impl Crowd {
    /// Over every path: a client with a new connection for each request, and one that holds its
    /// connection (or socket).
    fn start(scene: &Scene) -> Result<Self> {
        let mut askers = Vec::new();
        for path in paths(scene) {
            for held in [false, true] {
                askers.push(Asker::start(&path, held, PAUSE)?);
            }
        }
        let left = Vec::new();
        Ok(Self { askers, left })
    }

    /// How many TCP connections lead to `server`.
    fn holding(&self, server: &str) -> usize {
        let askers = self.askers.iter();
        askers.filter(|asker| asker.holds(server)).count()
    }

    /// How many TCP connections to `server` were made for one request.
    fn new_connections(&self, server: &str) -> u64 {
        let askers = self.askers.iter();
        let new = askers.filter(|asker| !asker.held && asker.protocol == Protocol::Tcp);
        new.filter_map(|asker| asker.tally.answered.get(server))
            .sum()
    }

    /// Ends the TCP connections that lead to `server`. Sockets of UDP go on: theirs is no
    /// connection, and a datagram can go anywhere.
    fn leave(&mut self, server: &str) {
        for asker in self.askers.extract_if(.., |asker| asker.holds(server)) {
            self.left.push((asker.held, asker.protocol, asker.finish()));
        }
    }

    fn leave_all(&mut self) {
        // All at once: one whose request fails takes its time.
        self.askers.iter_mut().for_each(Asker::stop);
        for asker in self.askers.drain(..) {
            self.left.push((asker.held, asker.protocol, asker.finish()));
        }
    }

    /// Shows what all have counted.
    fn sum_up(self, show: &Show) -> Tally {
        let mut total = Tally::default();
        let mut table = show.new_table(&[
            "CLIENTS",
            "",
            "REQUESTS",
            "ANSWERED BY",
            "FAILED",
            "MEDIAN MS",
            "SLOWEST MS",
        ]);
        for (held, name) in [
            (false, "new connection each"),
            (true, "one connection held"),
        ] {
            for protocol in Protocol::ALL {
                let mut sum = Tally::default();
                let mut clients = 0;
                for (_, _, tally) in self.left.iter().filter(|l| (l.0, l.1) == (held, protocol)) {
                    clients += 1;
                    sum.add(tally.clone());
                }
                table.add_row([
                    Cell::new(format!("{clients} × {name}")),
                    Cell::new(protocol.name()),
                    Cell::new(sum.requests),
                    Cell::new(sum.answered_text("  ")),
                    show.failed_cell(sum.failed),
                    Cell::new(ms(sum.median_ms())),
                    Cell::new(ms(sum.slowest_ms())),
                ]);
                total.add(sum);
            }
        }
        show.table(table);
        total
    }
}

impl Asker {
    /// Whether its connection leads to `server`.
    fn holds(&self, server: &str) -> bool {
        self.held && self.protocol == Protocol::Tcp && self.server.as_deref() == Some(server)
    }
}
