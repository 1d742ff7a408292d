//! One turn of the loop: compile, plan, apply.

use std::{collections::BTreeMap, time::Instant};

use lb_common::{Flow, FlowKey, Frontend, FrontendKey, Phase, Slot};

use super::{Op, Programmed, plan};
use crate::{
    dataplane::{Dataplane, Error},
    desired::{Ids, NodeView, Rejection, compile},
    model::Model,
};

/// Keeps the maps of a data plane what they ought to be.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    programmed: Programmed,
    ids: Ids,
    /// Seed of the flow hash.
    seed: u32,
}

/// What a turn did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Operations on maps.
    pub operations: usize,
    /// What cannot be served.
    pub rejections: Vec<Rejection>,
    /// Whether something was rejected for lack of room, which may come by itself: places of
    /// replaced tables are free again after a moment.
    pub no_room: bool,
}

impl<D: Dataplane> Reconciler<D> {
    /// Takes over a data plane as it is: numbers and tables stay what they were. `seed` is that
    /// of the programs' flow hash.
    ///
    /// # Errors
    ///
    /// Those of [`Dataplane::observe`].
    pub fn new(dataplane: D, seed: u32) -> Result<Self, Error> {
        let observation = dataplane.observe()?;
        let ids = Ids::restore(
            &observation.frontends,
            &observation.backends,
            &observation.source_ranges,
            observation.backends_max,
        );
        let programmed = Programmed::new(observation, dataplane.slots());
        Ok(Self {
            dataplane,
            programmed,
            ids,
            seed,
        })
    }

    /// Makes the maps serve `model` on this node.
    ///
    /// # Errors
    ///
    /// Of the operation that failed. What was done before it stands; the next turn starts from
    /// what the maps hold.
    pub fn reconcile(
        &mut self,
        model: &Model,
        node: &NodeView,
        now: Instant,
    ) -> Result<Outcome, Error> {
        let (desired, mut rejections) = compile(model, node, &mut self.ids);
        let kept = !desired.kept.is_empty();
        let plan = plan(&self.programmed, self.dataplane.slots(), &desired, now);
        let no_room = kept || !plan.rejections.is_empty();
        rejections.extend(plan.rejections);
        for op in &plan.ops {
            if let Err(error) = self.apply(op) {
                self.observe()?;
                return Err(error);
            }
        }
        self.programmed = plan.next;
        Ok(Outcome {
            operations: plan.ops.len(),
            rejections,
            no_room,
        })
    }

    /// Reads the maps, where they may not hold what we wrote: the next turn starts from there.
    ///
    /// # Errors
    ///
    /// Those of [`Dataplane::observe`].
    pub fn observe(&mut self) -> Result<(), Error> {
        let observation = self.dataplane.observe()?;
        self.programmed = Programmed::new(observation, self.dataplane.slots());
        Ok(())
    }

    /// What the maps hold.
    #[must_use]
    pub fn programmed(&self) -> &Programmed {
        &self.programmed
    }

    /// The data plane.
    pub fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        let dataplane = &mut self.dataplane;
        match op {
            Op::Put(element) => dataplane.put(element),
            Op::Remove(key) => dataplane.remove(key),
            Op::WriteSlots(offset, slots) => dataplane.write_slots(*offset, slots),
            Op::PinFlows(frontends) => {
                let seed = self.seed;
                dataplane.pin_flows(&|slots, key, flow| is_lost(frontends, seed, slots, key, flow))
            }
        }
    }
}

/// Whether the tables of `frontends` lead a flow elsewhere than where it is.
fn is_lost(
    frontends: &BTreeMap<FrontendKey, Frontend>,
    seed: u32,
    slots: &[Slot],
    key: &FlowKey,
    flow: &Flow,
) -> bool {
    let tuple = flow.tuple();
    let Some(frontend) = frontends.get(&tuple.frontend()) else {
        return false;
    };
    if matches!(flow.phase(), Phase::Closed | Phase::Reset) {
        return false;
    }
    let extent = if key.is_of_the_wire() {
        frontend.outside
    } else {
        frontend.inside
    };
    if extent.is_empty() {
        return true;
    }
    let slot = slots.get(extent.slot_index(tuple.hash(seed)) as usize);
    slot.is_none_or(|slot| slot.current != flow.backend && slot.previous != flow.backend)
}

#[cfg(test)]
mod tests;
