//! Connections that another proxy has translated: netfilter goes on with them, until they end.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use lb_common::{Frontend, FrontendKey};
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::kube_proxy;

/// How often it is looked whether they have ended. A look lists all connections of the node.
const PERIOD: Duration = Duration::from_secs(10);

/// Whether there are such connections.
#[derive(Debug)]
pub(super) struct Predecessor {
    /// Whether kube-proxy's rules were there at the start: it may translate connections until what we
    /// serve is in the maps.
    has_rules: bool,
    /// When it was looked; never again once there are none, because nobody makes new ones.
    looked: Option<Instant>,
    is_there: bool,
}

impl Predecessor {
    /// Nobody has looked yet.
    pub(super) fn new(has_rules: bool) -> Self {
        Self {
            has_rules,
            looked: None,
            is_there: false,
        }
    }

    /// Whether what the programs do not know is left to netfilter.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// When to look again, if ever.
    pub(super) fn next(&self) -> Option<Instant> {
        let looked = self.looked.filter(|_| self.is_there)?;
        Some(looked + PERIOD)
    }

    /// Looks for the first time: before what we serve is in the maps. `frontends` are what the last agent
    /// served; where there was none, every connection that netfilter translates may be one to a Service.
    pub(super) async fn begin(&mut self, frontends: &BTreeMap<FrontendKey, Frontend>) {
        if self.looked.is_none() {
            let translated = list().await;
            self.saw(translated, Instant::now(), |dialled| {
                frontends.is_empty() || frontends.contains_key(dialled)
            });
        }
    }

    /// Looks again. True if there is nobody any more.
    pub(super) async fn look(&mut self, frontends: &BTreeMap<FrontendKey, Frontend>) -> bool {
        let translated = list().await;
        let is_served = |dialled: &FrontendKey| frontends.contains_key(dialled);
        self.saw(translated, Instant::now(), is_served);
        !self.is_there
    }

    fn saw(
        &mut self,
        translated: io::Result<BTreeMap<FrontendKey, usize>>,
        now: Instant,
        is_served: impl Fn(&FrontendKey) -> bool,
    ) {
        // Once what we serve is in the maps, kube-proxy gets no new ones.
        let has_rules = self.looked.replace(now).is_none() && self.has_rules;
        match translated {
            Ok(translated) => {
                let served = translated.iter().filter(|(dialled, _)| is_served(dialled));
                let connections = served.map(|(_, count)| count).sum();
                self.turn(has_rules || connections > 0, connections);
            }
            Err(error) if has_rules => {
                self.is_there = true;
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell which connections kube-proxy has translated: all that are not known are \
                     left to netfilter"
                );
            }
            Err(error) => debug!(
                error = &error as &dyn std::error::Error,
                "cannot tell which connections netfilter translates"
            ),
        }
    }

    fn turn(&mut self, is_there: bool, connections: usize) {
        match (std::mem::replace(&mut self.is_there, is_there), is_there) {
            (false, true) => info!(
                connections,
                "connections that netfilter translates (kube-proxy's) are left to it until they end"
            ),
            (true, false) => info!("connections that netfilter has translated have ended"),
            (true, true) => debug!(connections, "connections are left to netfilter"),
            (false, false) => {}
        }
    }
}

/// A node can have a million connections, for which the loop does not wait.
async fn list() -> io::Result<BTreeMap<FrontendKey, usize>> {
    spawn_blocking(kube_proxy::translated)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lb_common::protocol;

    use super::*;

    fn dialled(port: u16) -> FrontendKey {
        FrontendKey::new(Ipv4Addr::new(10, 96, 0, 1).into(), port, protocol::TCP)
    }

    fn seen(ports: &[u16]) -> io::Result<BTreeMap<FrontendKey, usize>> {
        Ok(ports.iter().map(|port| (dialled(*port), 2)).collect())
    }

    fn is_served(key: &FrontendKey) -> bool {
        *key == dialled(80)
    }

    #[test]
    fn rules_count_for_connections_until_the_second_look() {
        let mut predecessor = Predecessor::new(true);
        let now = Instant::now();
        assert_eq!((predecessor.next(), predecessor.is_there()), (None, false));
        predecessor.saw(seen(&[]), now, is_served);
        assert!(predecessor.is_there());
        assert_eq!(predecessor.next(), Some(now + PERIOD));
        predecessor.saw(seen(&[]), now + PERIOD, is_served);
        assert_eq!((predecessor.next(), predecessor.is_there()), (None, false));
    }

    #[test]
    fn connections_to_what_is_served_are_left_until_they_end_and_no_others() {
        let now = Instant::now();
        let mut predecessor = Predecessor::new(false);
        predecessor.saw(seen(&[8080]), now, is_served);
        assert!(!predecessor.is_there(), "a port of a pod is no Service");
        let mut predecessor = Predecessor::new(false);
        predecessor.saw(seen(&[80, 8080]), now, is_served);
        assert!(predecessor.is_there());
        predecessor.saw(seen(&[80]), now, is_served);
        assert!(predecessor.is_there());
        predecessor.saw(seen(&[8080]), now, is_served);
        assert!(!predecessor.is_there());
    }

    #[test]
    fn who_cannot_look_leaves_it_as_it_is() {
        let failed = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let now = Instant::now();
        for has_rules in [false, true] {
            let mut predecessor = Predecessor::new(has_rules);
            for _ in 0..2 {
                predecessor.saw(failed(), now, is_served);
                assert_eq!(predecessor.is_there(), has_rules);
            }
        }
    }
}
