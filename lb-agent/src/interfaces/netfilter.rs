//! Whether bridges show netfilter what they pass on between their ports.

use std::{fs, time::Duration};

use tokio::time::sleep;

/// How often the settings are looked at: the kernel does not tell of their changes. Until they are
/// known, and the slow tick of a connection has come, netfilter sees half of it.
const LOOK: Duration = Duration::from_millis(200);

/// The settings for all bridges of the network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Netfilter {
    /// Whether the kernel can do it at all (the module `br_netfilter`).
    is_there: bool,
    /// `net.bridge.bridge-nf-call-iptables`, and `…-ip6tables`.
    all: [bool; 2],
}

impl Netfilter {
    /// What is set now.
    pub(super) fn read() -> Self {
        let switches = ["iptables", "ip6tables"]
            .map(|name| fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{name}")));
        Self {
            is_there: switches.iter().any(Result::is_ok),
            all: switches.map(|switch| switch.is_ok_and(|value| value.trim() != "0")),
        }
    }

    /// Whether netfilter sees what a bridge with these settings of its own passes on.
    pub(super) fn sees(self, own: [bool; 2]) -> [bool; 2] {
        let [v4, v6] = self.all;
        let [own4, own6] = own;
        [v4 || own4, v6 || own6].map(|sees| sees && self.is_there)
    }

    /// Waits until something else is set.
    pub(super) async fn changed(self) {
        while Self::read() == self {
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_shows_netfilter_its_packets_if_either_switch_is_on() {
        let sees = |is_there, all, own| Netfilter { is_there, all }.sees(own);
        let (on, off) = ([true, true], [false, false]);
        assert_eq!(sees(true, off, off), off);
        assert_eq!(sees(true, [true, false], off), [true, false]);
        assert_eq!(sees(true, off, [false, true]), [false, true]);
        assert_eq!(sees(true, on, off), on);
        assert_eq!(sees(true, off, on), on);
        assert_eq!(sees(false, off, on), off);
    }
}
