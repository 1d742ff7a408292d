//! Says when others' programs run before ours: one that ends the chain leaves a Service's address
//! untranslated, and nothing else would tell.

use std::{collections::BTreeSet, time::Duration};

use tracing::{info, warn};

use crate::{
    dataplane::bpf::Foreign,
    event::{Event, Events},
    model::Reference,
};

/// How often that is looked for: the kernel tells nobody.
pub(super) const PERIOD: Duration = Duration::from_secs(30);

/// What has been said.
#[derive(Debug)]
pub(super) struct Chains {
    node: Reference,
    events: Events,
    said: BTreeSet<Foreign>,
}

impl Chains {
    /// Nothing has been said yet.
    pub(super) fn new(node_name: &str, events: Events) -> Self {
        Self {
            node: Reference::node(node_name),
            events,
            said: BTreeSet::new(),
        }
    }

    /// Says what is new in `now`, which is all that there is, and what is gone.
    pub(super) fn tell(&mut self, now: BTreeSet<Foreign>) {
        for foreign in now.difference(&self.said) {
            let note =
                format!("{foreign}: if it ends the chain, packets for Services go on untranslated");
            warn!("{note}");
            let event = Event::warning(self.node.clone(), "ForeignProgramAhead", note);
            self.events.send(event);
        }
        for foreign in self.said.difference(&now) {
            let note = format!("no longer: {foreign}");
            info!("{note}");
            let event = Event::normal(self.node.clone(), "ForeignProgramGone", note);
            self.events.send(event);
        }
        self.said = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::bpf::{Attachment, Hook},
        event::{self, Kind},
    };

    fn foreign(id: u32) -> Foreign {
        Foreign {
            device: "eth0".to_owned(),
            attachment: Attachment {
                ifindex: 2,
                hook: Hook::WireIngress,
            },
            id,
            name: "policy".to_owned(),
        }
    }

    #[test]
    fn a_program_ahead_is_told_once_and_again_when_it_is_gone() {
        let (events, mut receiver) = event::channel();
        let mut chains = Chains::new("node1", events);
        let mut tell = |ids: &[u32]| {
            chains.tell(ids.iter().map(|id| foreign(*id)).collect());
            let told = std::iter::from_fn(|| receiver.try_recv().ok());
            let told = told.map(|event| (event.regarding.to_string(), event.kind, event.reason));
            told.collect::<Vec<_>>()
        };
        let ahead = |kind, reason: &str| ("Node node1".to_owned(), kind, reason.to_owned());
        let warned = ahead(Kind::Warning, "ForeignProgramAhead");
        let gone = ahead(Kind::Normal, "ForeignProgramGone");
        assert_eq!(tell(&[]), []);
        assert_eq!(tell(&[7]), std::slice::from_ref(&warned));
        assert_eq!(tell(&[7]), []);
        assert_eq!(tell(&[7, 8]), std::slice::from_ref(&warned));
        assert_eq!(tell(&[9]), [warned, gone.clone(), gone.clone()]);
        assert_eq!(tell(&[]), [gone]);
    }
}
