//! What the agent does for connections when it changes what is served.

use lb_common::{FlowKey, Phase, Pin, PinKey};

use super::{Connection, Model, Tables};

impl Model {
    /// Connections to which the tables do not lead: where they may be pinned, and whether they have
    /// to be, because the tables `before` led there (item 58). One that is over, was reset, or was
    /// left for another backend, need not stay.
    pub fn lost(&self, before: &Tables) -> Vec<(PinKey, Pin, bool)> {
        let living = self.memory.connections.iter().filter(|(_, connection)| {
            !matches!(
                connection.phase(),
                Phase::Closed | Phase::Reset | Phase::Left
            )
        });
        let seed = self.config.seed;
        let lost = living.filter(|(key, connection)| !self.tables.lead_to(key, connection, seed));
        let lost = lost.map(|(key, connection)| {
            let pin = Pin {
                backend: connection.backend,
                source_port: key.dst_port,
                pad: 0,
            };
            let was_found = before.lead_to(key, connection, seed);
            (connection.client.pin(), pin, was_found)
        });
        lost.collect()
    }
}

impl Tables {
    /// Whether the slot of a connection names its backend, now or before.
    fn lead_to(&self, key: &FlowKey, connection: &Connection, seed: u32) -> bool {
        let Some(frontend) = self.frontends.get(&connection.client.frontend()) else {
            return false;
        };
        let extent = if key.is_of_the_wire() {
            frontend.outside
        } else {
            frontend.inside
        };
        let slot = self.slot(extent, connection.client.hash(seed));
        slot.is_some_and(|slot| [slot.current, slot.previous].contains(&connection.backend))
    }
}
