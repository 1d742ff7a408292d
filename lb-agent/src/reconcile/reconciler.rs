//! One turn of the loop: compile, plan, apply.

use std::{collections::BTreeMap, time::Instant};

use lb_common::{Flow, FlowKey, Frontend, FrontendKey, Phase, Slot};

use super::{Op, Programmed, plan};
use crate::{
    dataplane::{Dataplane, Error},
    desired::{Changes, Compiler, Ids, NodeView, Rejection},
    model::Model,
};

/// Keeps the maps of a data plane what they ought to be.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    programmed: Programmed,
    compiler: Compiler,
    /// What there was no room for.
    pending: Changes,
    /// How far what is programmed can be trusted.
    knowledge: Knowledge,
    /// Seed of the flow hash.
    seed: u32,
}

/// What the agent knows of the maps' content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// It is what was desired, but for what there was no room for.
    Desired,
    /// It was read, and may be anything.
    Read,
    /// An operation failed: it has to be read again.
    Unknown,
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
            compiler: Compiler::new(ids),
            pending: Changes::default(),
            knowledge: Knowledge::Read,
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
        let mut changes = self.compiler.update(model, node);
        if self.knowledge == Knowledge::Unknown {
            self.observe()?;
        }
        let desired = self.compiler.tables();
        if self.knowledge == Knowledge::Read {
            changes = self.programmed.everything(desired);
        } else {
            changes.ports.append(&mut self.pending.ports);
            changes.vips.append(&mut self.pending.vips);
        }
        let slots = self.dataplane.slots();
        let plan = plan(&mut self.programmed, slots, desired, &changes, now);
        let mut rejections: Vec<_> = self.compiler.rejections().cloned().collect();
        rejections.extend(plan.rejections);
        let no_room = !desired.kept.is_empty() || plan.pending != Changes::default();
        // Until all is done.
        self.knowledge = Knowledge::Unknown;
        let mut operations = 0;
        for phase in plan.phases {
            for ops in phase.chunk_by(Op::goes_with) {
                self.apply(ops)?;
            }
            operations += phase.len();
        }
        self.knowledge = Knowledge::Desired;
        self.pending = plan.pending;
        Ok(Outcome {
            operations,
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
        self.dataplane.mend()?;
        let observation = self.dataplane.observe()?;
        self.programmed = Programmed::new(observation, self.dataplane.slots());
        self.knowledge = Knowledge::Read;
        Ok(())
    }

    /// What the maps hold; after a turn that failed, what they would if it had not.
    #[must_use]
    pub fn programmed(&self) -> &Programmed {
        &self.programmed
    }

    /// The data plane.
    pub fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// Does what can be done at once: either one operation, or elements of one map.
    fn apply(&mut self, ops: &[Op]) -> Result<(), Error> {
        if let [op] = ops {
            return self.apply_one(op);
        }
        let elements = ops.iter().filter_map(|op| match op {
            Op::Put(element) => Some(element),
            _ => None,
        });
        let elements: Vec<_> = elements.collect();
        self.dataplane.put_all(&elements)
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), Error> {
        let dataplane = &mut self.dataplane;
        match op {
            Op::Put(element) => dataplane.put(element),
            Op::Remove(key) => dataplane.remove(key),
            Op::WriteTable(table) => {
                let slots = table.content(dataplane.slots());
                dataplane.write_slots(table.offset(), &slots)
            }
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
    if matches!(flow.phase(), Phase::Closed | Phase::Reset | Phase::Left) {
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
