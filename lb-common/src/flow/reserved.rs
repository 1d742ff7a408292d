//! Records that only keep a place: earlier programs look after the connection still.

use super::Flow;
use crate::{Addr, Tuple};

impl Flow {
    /// Makes this say no more than that its port is taken: no packet belongs to it.
    pub fn reserve(&mut self) {
        (self.client, self.snat) = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);
    }

    /// Whether it says no more than that. No client outside has this address: its packets are dropped.
    #[inline(always)]
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        let [a, b, c, d] = self.client.to_wire_words();
        a | b | c | d == 0
    }

    /// Whether its port is taken by the connection of this forward tuple: by what can be told.
    #[inline(always)]
    #[must_use]
    pub fn is_reserved_for(&self, tuple: &Tuple) -> bool {
        let ports = u32::from(self.client_port ^ tuple.src_port)
            | u32::from(self.frontend_port ^ tuple.dst_port);
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) =
            (self.frontend.to_wire_words(), tuple.dst.to_wire_words());
        let frontends = (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3);
        self.is_reserved() && ports | frontends == 0
    }
}
