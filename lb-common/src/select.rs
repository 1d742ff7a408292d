//! Which slot, which source port: the choices that follow from a flow's hash.

use crate::{DatapathConfig, Tuple, hash};

/// Source ports, or slots, that are tried for a new flow before it is given up.
pub const PROBES: u32 = 8;

/// The source port of a SNATed flow at the `attempt`-th try, host byte order.
///
/// First the client's own port, if it lies in the range: then what the backend logs is of use.
/// Else the lower half of the hash, which differs for every port of a client.
#[inline(always)]
#[must_use]
pub fn snat_port(config: &DatapathConfig, tuple: &Tuple, flow_hash: u32, attempt: u32) -> u16 {
    if attempt == 0 && config.is_snat_port(tuple.src_port) {
        return tuple.src_port;
    }
    let ports = u32::from(config.snat_port_last.saturating_sub(config.snat_port_first)) + 1;
    let point = flow_hash.wrapping_add(attempt.wrapping_mul(hash::GOLDEN >> 3)) & 0xffff;
    let index = (point * ports) >> 16;
    config.snat_port_first.wrapping_add(index as u16)
}

/// The hash that selects another slot of the same table at the `attempt`-th try.
#[inline(always)]
#[must_use]
pub fn probe(flow_hash: u32, attempt: u32) -> u32 {
    flow_hash.wrapping_add(attempt.wrapping_mul(hash::GOLDEN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Addr, protocol};

    proptest! {
        #[test]
        fn snat_ports_lie_in_the_range(
            first in 1..=u16::MAX, span: u16, src_port: u16, hash: u32, attempt in 0..PROBES,
        ) {
            let config = DatapathConfig {
                snat_port_first: first,
                snat_port_last: first.saturating_add(span),
                ..DatapathConfig::DEFAULT
            };
            let tuple = Tuple {
                src: Addr::UNSPECIFIED, dst: Addr::UNSPECIFIED,
                src_port, dst_port: 80, protocol: protocol::TCP,
            };
            let port = snat_port(&config, &tuple, hash, attempt);
            prop_assert!(config.is_snat_port(port));
            if attempt == 0 && config.is_snat_port(src_port) {
                prop_assert_eq!(port, src_port);
            }
        }
    }
}
