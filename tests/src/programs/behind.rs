//! A bench on which others run behind these programs.

use lb_common::{Pin, PinKey, ServiceNets};

use super::Bench;

impl Bench {
    /// Makes every record say no more than that its port is taken, as while connections are carried over.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn reserve_ports(&mut self) {
        for (key, mut flow) in self.flows() {
            flow.reserve();
            let put = self.store.put_flow(&key, &flow);
            put.expect("change a record");
        }
    }

    /// Leaves the connections of these clients to netfilter.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn leave(&mut self, clients: &[PinKey]) {
        for client in clients {
            let put = self.store.put_pin(client, &Pin::ELSEWHERE);
            put.expect("change a pin");
        }
        self.renew_known();
    }

    /// Forgets the records of all connections, but not their marks: only a packet that goes by its mark is not
    /// a new connection's then.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn forget_all_but_marks(&mut self) {
        self.store.clear_records().expect("forget the records");
    }

    /// Forgets the marks of connections, as after a moment: the next packet of each asks its record.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn forget_marks(&mut self) {
        self.store.clear_marks().expect("forget marks");
    }

    /// Lets every connection be idle for as long as it may be, and a second longer.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn expire(&mut self) {
        self.expire_all_but_marks();
        self.forget_marks();
    }

    /// The same, while the marks of connections still hold.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn expire_all_but_marks(&mut self) {
        for (key, mut flow) in self.flows() {
            // Of all ticks, only their differences count.
            let ago = u64::from(self.config().ticks_per_second);
            let idle = flow.expires_tick - flow.seen_tick + ago;
            flow.expires_tick = flow.seen_tick - ago;
            flow.seen_tick = flow.seen_tick.wrapping_sub(idle);
            self.store
                .put_record(&key, &flow)
                .expect("let a connection expire");
        }
    }

    /// Lets `test` meet the programs as long as earlier ones run behind them.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn before_others(&mut self, test: impl FnOnce(&mut Self)) {
        let swap = |bench: &mut Self, nets| bench.store.swap_service_nets(nets);
        let nets = swap(self, &ServiceNets::PREDECESSORS).expect("change the networks");
        test(self);
        swap(self, &nets).expect("restore the networks");
    }
}
