//! Connections that another proxy has translated: netfilter goes on with them, until they end.
//!
//! They are told by a list of the node's connections (conntrack). Between the list and what the maps serve
//! from then on, there can be more. So where there may be any, the programs first leave all that they do
//! not know to netfilter; a moment later, when there can be no more, a second list says which those are.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use lb_common::{FrontendKey, Phase, protocol};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::{
    dataplane::bpf::{self, Elsewhere, kernel},
    kube_proxy,
};

/// How long kube-proxy's rules may go on translating after we serve: where a packet was on its way already,
/// or a device has no program yet. After a failure, it is tried again as late.
const MOMENT: Duration = Duration::from_secs(10);

/// Who else translates connections to Services.
#[derive(Debug)]
pub(super) struct Predecessor {
    /// Whether there are rules of kube-proxy.
    has_rules: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is not known yet.
    Unknown,
    /// Netfilter may; from then on, if there is a time, it can be told what.
    Shared(Option<Instant>),
    /// Nobody does, but for connections that are marked.
    Alone,
}

impl Predecessor {
    /// Nobody has looked yet.
    pub(super) fn new(has_rules: bool) -> Self {
        Self {
            has_rules,
            state: State::Unknown,
        }
    }

    /// Whether all that the programs do not know is left to netfilter.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.state, State::Shared(_))
    }

    /// When to [`settle`](Self::settle), if ever.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.state {
            State::Shared(due) => due,
            State::Unknown | State::Alone => None,
        }
    }

    /// Looks for the first time: before what we serve is in the maps. `serves` says whether an earlier agent
    /// has served; `was_shared`, whether it had not settled this yet.
    pub(super) async fn begin(&mut self, serves: bool, was_shared: bool) {
        if self.state != State::Unknown {
            return;
        }
        let may_share = self.has_rules || !serves && list().await.is_ok_and(|all| !all.is_empty());
        let is_shared = was_shared || !serves && may_share;
        self.state = if is_shared {
            State::Shared(None)
        } else {
            State::Alone
        };
    }

    /// What we serve is in the maps.
    pub(super) fn served(&mut self, now: Instant) {
        if self.state == State::Shared(None) {
            let moment = if self.has_rules {
                MOMENT
            } else {
                Duration::ZERO
            };
            self.state = State::Shared(Some(now + moment));
        }
    }

    /// Marks the connections of netfilter to what is served, and leaves it nothing else.
    pub(super) async fn settle(
        &mut self,
        pin_dir: &Path,
        is_served: impl Fn(&FrontendKey) -> bool,
    ) {
        let marked = match list().await {
            Ok(mut all) => {
                all.retain(|connection| is_served(&connection.forward.frontend()));
                mark(pin_dir, &all)
            }
            Err(error) => Err(error.into()),
        };
        self.state = match marked {
            Ok(()) => State::Alone,
            Err(error) => unsettled(&error, Instant::now()),
        };
    }
}

/// What follows from a list that there is not.
fn unsettled(error: &BoxedError, now: Instant) -> State {
    let is_unsupported = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::Unsupported);
    let error: &dyn std::error::Error = &**error;
    if is_unsupported {
        warn!(
            error,
            "the kernel does not list connections: those of kube-proxy may be reset"
        );
        State::Alone
    } else {
        warn!(
            error,
            "cannot tell which connections are kube-proxy's: what is not known is left to netfilter; \
             trying again"
        );
        State::Shared(Some(now + MOMENT))
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Leaves these connections to netfilter.
fn mark(pin_dir: &Path, connections: &[Elsewhere]) -> Result<(), BoxedError> {
    if connections.is_empty() {
        return Ok(());
    }
    let lifetime_s = Phase::Established.lifetime_s(protocol::TCP);
    // Nobody notes the packets of these: they keep their ports for so long.
    let expires_tick = kernel::tick_in(lifetime_s)?;
    let left = bpf::leave(pin_dir, connections, expires_tick)?;
    info!(
        connections = left,
        "connections that netfilter translates (kube-proxy's) are left to it until they end"
    );
    if left < connections.len() {
        let others = connections.len() - left;
        warn!(
            others,
            "there is no room to note more of them: others may be reset"
        );
    }
    Ok(())
}

/// A node can have a million connections: other tasks go on meanwhile.
async fn list() -> io::Result<Vec<Elsewhere>> {
    spawn_blocking(kube_proxy::translated)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What netfilter has while nobody has served yet, or while somebody has, is up to this machine: only
    /// the other cases are told here.
    fn begun(has_rules: bool, serves: bool, was_shared: bool) -> Predecessor {
        let mut predecessor = Predecessor::new(has_rules);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(predecessor.begin(serves, was_shared));
        predecessor
    }

    #[test]
    fn rules_count_only_where_nobody_of_us_has_served() {
        assert!(begun(true, false, false).is_there());
        assert!(!begun(true, true, false).is_there());
        assert!(!begun(false, true, false).is_there());
    }

    #[test]
    fn what_an_earlier_agent_has_not_settled_is_settled_by_the_next() {
        assert!(begun(false, true, true).is_there());
    }

    #[test]
    fn it_is_settled_once_everything_is_served_and_where_there_are_rules_a_moment_later() {
        let now = Instant::now();
        for (has_rules, due) in [(true, now + MOMENT), (false, now)] {
            let mut predecessor = begun(has_rules, true, true);
            assert_eq!(predecessor.next(), None, "nothing is served yet");
            predecessor.served(now);
            predecessor.served(now + MOMENT);
            assert_eq!(predecessor.next(), Some(due));
        }
        let mut alone = begun(true, true, false);
        alone.served(now);
        assert_eq!(alone.next(), None);
    }

    #[test]
    fn who_cannot_list_connections_tries_again_unless_the_kernel_never_will() {
        let now = Instant::now();
        let denied: BoxedError = io::Error::from_raw_os_error(libc::EPERM).into();
        assert_eq!(unsettled(&denied, now), State::Shared(Some(now + MOMENT)));
        let never: BoxedError = io::Error::from(io::ErrorKind::Unsupported).into();
        assert_eq!(unsettled(&never, now), State::Alone);
    }
}
