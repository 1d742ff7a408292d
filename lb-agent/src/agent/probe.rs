//! Whether this node serves Services: asked of the kernel, not of our memory.

use tracing::{debug, warn};

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

/// What went wrong in the last turn of the loop.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Why programs could not be put on devices.
    pub(super) attach: Vec<String>,
    /// Why the maps could not be brought in step.
    pub(super) sync: Option<String>,
}

impl Agent {
    /// Answers a probe. True if something is to be put right.
    pub(super) fn answer(&mut self, probe: Probe) -> bool {
        let (readiness, broken) = self.readiness();
        debug!(ready = readiness.ready, "asked whether this node serves");
        // Who has asked may not wait any more.
        let _gone = probe.send(readiness);
        broken
    }

    fn readiness(&mut self) -> (Readiness, bool) {
        let mut sync = Vec::from_iter(self.faults.sync.clone());
        if self.first {
            sync.push("the source has not been heard yet".to_owned());
        }
        let (mut links, broken) = match self.reconciler.dataplane().broken_links() {
            Ok(broken) => (broken, None),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        for link in &links {
            warn!(%link, "a link is not as it was made; making it anew");
        }
        let again = !links.is_empty();
        let reasons = links.drain(..).map(|link| link.to_string());
        let reasons = reasons
            .chain(broken)
            .chain(self.faults.attach.iter().cloned());
        let checks = vec![
            Check::new("sync", sync),
            Check::new("links", reasons.collect()),
            Check::new("canary", self.canaries()),
        ];
        (checks.into(), again)
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
