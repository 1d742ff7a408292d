//! Whether this node serves Services: asked of the kernel, not of our memory.

use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use super::Agent;
use crate::{
    dataplane::bpf::{BpfDataplane, Error},
    health::{Canary, Check, Probe, Readiness},
    reconcile::Reconciler,
};

/// The program that canaries go through: what pods of this node send.
const PROGRAM: &str = "lb_pod_ingress";
/// The device that they are met at: the loopback device of every network namespace, which is no
/// pod's, so that their records are nobody else's.
const IFINDEX: u32 = 1;
/// What the program returns for a packet that goes on: `TCX_NEXT`, −1.
const NEXT: u32 = u32::MAX;

/// How long after the maps were read they are not read again: whoever asks must not keep the loop
/// busy with what it cannot mend.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// What went wrong in the last turn of the loop.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Why programs could not be put on devices.
    pub(super) attach: Vec<String>,
    /// Why the maps could not be brought in step.
    pub(super) sync: Option<String>,
    /// When the maps were last read because they did not translate as they should.
    read: Option<Instant>,
}

impl Agent {
    /// Answers a probe. True if something is to be put right.
    pub(super) fn answer(&mut self, probe: Probe) -> bool {
        let (links, mend_links) = self.links();
        let canaries = self.canaries();
        let mend_maps = !canaries.is_empty() && self.read_maps(&canaries);
        let readiness = Readiness::from(vec![
            Check::new("sync", self.sync()),
            Check::new("links", links),
            Check::new("canary", canaries),
        ]);
        debug!(ready = readiness.ready, "asked whether this node serves");
        // Who has asked may not wait any more.
        let _gone = probe.send(readiness);
        mend_links || mend_maps
    }

    /// Why the maps are not in step.
    fn sync(&self) -> Vec<String> {
        let mut sync = Vec::from_iter(self.faults.sync.clone());
        if self.first {
            sync.push("the source has not been heard yet".to_owned());
        }
        sync
    }

    /// What is wrong with the links, and whether they can be made anew.
    fn links(&mut self) -> (Vec<String>, bool) {
        let (links, unknown) = match self.reconciler.dataplane().broken_links() {
            Ok(broken) => (broken, None),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        for link in &links {
            warn!(%link, "a link is not as it was made; making it anew");
        }
        let reasons = links.iter().map(ToString::to_string);
        let reasons = reasons
            .chain(unknown)
            .chain(self.faults.attach.iter().cloned());
        (reasons.collect(), !links.is_empty())
    }

    /// Reads the maps again, unless that was done a moment ago. True if it was done now.
    fn read_maps(&mut self, canaries: &[String]) -> bool {
        let soon = |read: Instant| read.elapsed() < READ_AGAIN;
        if self.faults.read.is_some_and(soon) {
            return false;
        }
        self.faults.read = Some(Instant::now());
        warn!(
            ?canaries,
            "packets are not translated as they should be; reading the maps"
        );
        if let Err(error) = self.reconciler.observe() {
            let error: &dyn std::error::Error = &error;
            error!(error, "cannot read the maps");
        }
        true
    }

    /// What is wrong with the translation of packets.
    fn canaries(&mut self) -> Vec<String> {
        let Some(model) = self.monitor.programmed() else {
            return Vec::new();
        };
        let canaries = Canary::choose(&model, self.reconciler.programmed());
        let results = canaries
            .iter()
            .map(|canary| send(&mut self.reconciler, canary));
        results.filter_map(Result::err).collect()
    }
}

/// Sends a canary through the program that pods' devices have, and takes its record away.
fn send(reconciler: &mut Reconciler<BpfDataplane>, canary: &Canary) -> Result<(), String> {
    let dataplane = reconciler.dataplane();
    let run = dataplane.run_program(PROGRAM, &canary.packet(), IFINDEX);
    let run = run.map_err(|error: Error| chain(&error))?;
    if let Some(record) = canary.record(&run.packet, IFINDEX) {
        let removed = dataplane.remove_flow(&record);
        removed.map_err(|error| chain(&error))?;
    }
    if run.verdict != NEXT {
        return Err(format!("{canary} got the verdict {}", run.verdict));
    }
    canary.judge(&run.packet)
}

/// An error with all that it stems from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}
