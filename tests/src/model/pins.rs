//! Connections whose backend the tables do not say.

use lb_common::{BackendRef, Pin};

use super::{
    Model,
    clients::{Call, Leg},
};

impl Model {
    /// The connection of this client that is not where the table says: with the slot's previous
    /// owner, or where its pin says.
    pub(super) fn recall(&mut self, call: Call<'_>, previous: BackendRef) -> Option<Leg> {
        if let Some(leg) = self.leg(call, previous)
            && self.goes_on(call, &leg)
        {
            let key = call.reply_key(&leg);
            let connection = self.memory.connections.get_mut(&key)?;
            if !connection.pinned {
                connection.pinned = true;
                self.pin(call, &leg);
            }
            return Some(leg);
        }
        let pin = *self.memory.pins.get(&call.tuple().pin())?;
        let leg = Leg {
            source_port: pin.source_port,
            ..self.leg(call, pin.backend)?
        };
        self.goes_on(call, &leg).then_some(leg)
    }

    /// Whether netfilter goes on with the packet's connection, which it has translated until now.
    pub(super) fn is_elsewhere(&self, call: Call<'_>) -> bool {
        let pin = self.memory.pins.get(&call.tuple().pin());
        pin == Some(&Pin::ELSEWHERE) && !call.packet.opens()
    }

    pub(super) fn pin(&mut self, call: Call<'_>, leg: &Leg) {
        let pin = Pin {
            backend: leg.reference,
            source_port: leg.source_port,
            pad: 0,
        };
        self.memory.pins.insert(call.tuple().pin(), pin);
    }
}
