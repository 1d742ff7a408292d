//! Which slot, which source port: the choices that follow from a flow's hash.

use crate::{Tuple, config::Ports, hash};

/// Source ports, or slots, that are tried for a new flow before it is given up.
pub const PROBES: u32 = 8;
/// Ports of SNAT that are looked at for each of them: a backend's range is all but full before a
/// flow finds none.
pub const LOOKS: u32 = 16;

/// The source port of a flow at the `attempt`-th try, host byte order.
///
/// First the client's own port, if it lies in the range: then what the backend logs is of use.
#[inline(always)]
#[must_use]
pub fn source_port(ports: Ports, tuple: &Tuple, flow_hash: u32, attempt: u32) -> u16 {
    if attempt == 0 && ports.contains(tuple.src_port) {
        tuple.src_port
    } else {
        any_port(ports, flow_hash, attempt)
    }
}

/// A port of the range: at first by the lower half of the hash, which differs for every port of a
/// client, then by all of it.
///
/// Each try is by chance. Steps of the same length, whatever the hash makes of it, are too short for
/// some flows: their tries would lie together, where all may be taken.
#[inline(always)]
#[must_use]
pub fn any_port(ports: Ports, flow_hash: u32, attempt: u32) -> u16 {
    let point = if attempt == 0 {
        flow_hash & 0xffff
    } else {
        let hash = probe(flow_hash, attempt);
        (hash ^ hash >> 15).wrapping_mul(hash::GOLDEN) >> 16
    };
    let index = (point * ports.count()) >> 16;
    ports.first.wrapping_add(index as u16)
}

/// The hash that selects another slot of the same table at the `attempt`-th try.
#[inline(always)]
#[must_use]
pub fn probe(flow_hash: u32, attempt: u32) -> u32 {
    flow_hash.wrapping_add(attempt.wrapping_mul(hash::GOLDEN))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{Addr, DatapathConfig, protocol};

    fn tuple(src_port: u16) -> Tuple {
        Tuple {
            src: Addr::UNSPECIFIED,
            dst: Addr::UNSPECIFIED,
            src_port,
            dst_port: 80,
            protocol: protocol::TCP,
        }
    }

    /// All of the range that nodes share, but for some that are met twice.
    #[track_caller]
    fn check_tries(hash: u32) {
        let ports = DatapathConfig::DEFAULT.ports(Addr::UNSPECIFIED, true);
        let tries = (0..PROBES * LOOKS).map(|attempt| any_port(ports, hash, attempt));
        let tries: BTreeSet<u16> = tries.collect();
        assert!(tries.len() > 110, "{hash:#x}: {}", tries.len());
    }

    #[test]
    fn flows_try_ports_all_over_the_range_whatever_their_hash() {
        for hash in [0, 1, 0xffff, 0x1_0000, 0xffff_0000, u32::MAX] {
            check_tries(hash);
        }
    }

    proptest! {
        #[test]
        fn flows_try_ports_all_over_the_range(hash: u32) {
            check_tries(hash);
        }

        #[test]
        fn source_ports_lie_in_the_range(
            first in 1..=u16::MAX, span: u16, src_port: u16, hash: u32, attempt in 0..PROBES * LOOKS,
        ) {
            let ports = Ports { first, last: first.saturating_add(span) };
            let port = source_port(ports, &tuple(src_port), hash, attempt);
            prop_assert!(ports.contains(port));
            if attempt == 0 && ports.contains(src_port) {
                prop_assert_eq!(port, src_port);
            }
        }
    }
}
