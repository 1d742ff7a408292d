//! A bench whose programs know which connections there can be.

use std::sync::Arc;

use lb_agent::dataplane::bpf::Known;

use super::Bench;

impl Bench {
    /// Makes anew what programs can know of connections, as the agent does now and then. None may run.
    ///
    /// # Panics
    ///
    /// If a map cannot be read.
    pub fn renew_known(&mut self) {
        assert!(self.known.begin(), "nobody notes nothing");
        self.known.finish().expect("find out what there is");
    }

    /// What makes that anew, for another thread.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }
}
