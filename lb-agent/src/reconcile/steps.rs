//! Operations, and their order.

use std::collections::BTreeMap;

use lb_common::{Frontend, FrontendKey};

use super::tables::NewTable;
use crate::dataplane::{Element, Key};

/// One operation on the maps.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An element appears, or changes.
    Put(Element),
    /// An element goes.
    Remove(Key),
    /// A table is written where nobody looks yet.
    WriteTable(Box<NewTable>),
    /// Flows that these frontends' new tables lead elsewhere are pinned to where they are.
    PinFlows(BTreeMap<FrontendKey, Frontend>),
}

impl Op {
    /// Whether both can be done at once: elements of one map that come, or change.
    pub(super) fn goes_with(&self, next: &Self) -> bool {
        matches!((self, next), (Self::Put(one), Self::Put(other)) if one.map() == other.map())
    }
}

/// The operations of a plan by what they are.
///
/// Devices, backends and source ranges come first, then tables (and pins for the flows that these
/// would lead elsewhere), then the frontends that lead to them, which are what a Service port is
/// committed by. Then addresses come: an address without its frontends would reject everybody. On
/// the way out the order is the reverse. Before all of it, what is not known is left to whoever has
/// translated it until then. So while a port exchanges its source ranges, clients of
/// either are served, and never one that is in neither.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) predecessors_in: Vec<Op>,
    pub(super) interfaces_in: Vec<Op>,
    pub(super) backends_in: Vec<Op>,
    pub(super) source_ranges_in: Vec<Op>,
    pub(super) tables: Vec<Op>,
    pub(super) pinned: BTreeMap<FrontendKey, Frontend>,
    pub(super) frontends_in: Vec<Op>,
    pub(super) vips_in: Vec<Op>,
    pub(super) service_nets: Vec<Op>,
    pub(super) vips_out: Vec<Op>,
    pub(super) frontends_out: Vec<Op>,
    pub(super) source_ranges_out: Vec<Op>,
    pub(super) backends_out: Vec<Op>,
    pub(super) interfaces_out: Vec<Op>,
}

impl Steps {
    pub(super) fn in_order(self) -> Vec<Vec<Op>> {
        let Self {
            predecessors_in,
            interfaces_in,
            backends_in,
            source_ranges_in,
            tables,
            pinned,
            frontends_in,
            vips_in,
            service_nets,
            vips_out,
            frontends_out,
            source_ranges_out,
            backends_out,
            interfaces_out,
        } = self;
        let pin_flows = if pinned.is_empty() {
            Vec::new()
        } else {
            vec![Op::PinFlows(pinned)]
        };
        [
            predecessors_in,
            interfaces_in,
            backends_in,
            source_ranges_in,
            tables,
            pin_flows,
            frontends_in,
            vips_in,
            service_nets,
            vips_out,
            frontends_out,
            source_ranges_out,
            backends_out,
            interfaces_out,
        ]
        .into()
    }
}
