//! The connections that the programs know, wherever they have them.

use aya::Ebpf;
use lb_common::{
    Flow, FlowKey,
    maps::{FLOWS, OPENING},
};

use super::{error::Error, maps::Table, table::FlowTable};
use crate::dataplane::Error as DataplaneError;

/// Their records.
pub(super) struct Flows {
    opening: Table<FlowKey, Flow>,
    kept: Table<FlowKey, Flow>,
    /// Where they are instead, if it is used.
    table: Option<FlowTable>,
}

impl Flows {
    pub(super) fn take(ebpf: &mut Ebpf, table: Option<FlowTable>) -> Result<Self, Error> {
        Ok(Self {
            opening: Table::take(ebpf, OPENING)?,
            kept: Table::take(ebpf, FLOWS)?,
            table,
        })
    }

    /// Shows all of them to `look`, many at a time. Those that come and go meanwhile may be missed.
    pub(super) fn for_each(
        &self,
        mut look: impl FnMut(&FlowKey, &Flow),
    ) -> Result<(), DataplaneError> {
        for map in [&self.opening, &self.kept] {
            map.read_batches(|keys, flows| {
                for (key, flow) in keys.iter().zip(flows) {
                    look(key, flow);
                }
            })?;
        }
        for (key, flow, _) in self.table.iter().flat_map(FlowTable::records) {
            look(&key, &flow);
        }
        Ok(())
    }

    /// All of them, in no order. Some may be missed, others come twice.
    pub(super) fn iter(
        &self,
    ) -> impl Iterator<Item = Result<(FlowKey, Flow), DataplaneError>> + '_ {
        let table = self.table.iter().flat_map(FlowTable::records);
        let table = table.map(|(key, flow, _)| Ok((key, flow)));
        self.opening.iter().chain(self.kept.iter()).chain(table)
    }

    /// Removes one; that it is not there is no error.
    pub(super) fn remove(&mut self, key: &FlowKey) -> Result<(), DataplaneError> {
        if let Some(table) = &self.table {
            table.remove(key);
        }
        self.opening.remove(key)?;
        self.kept.remove(key)
    }
}
