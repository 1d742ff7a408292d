//! Capabilities: those that maps and devices take.

use caps::{CapSet, Capability, CapsHashSet};

use super::Error;

/// Maps, and links of sockets; devices, and the ends of sockets.
const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Drops all others, for good.
pub(super) fn drop_all_but_needed() -> Result<String, Error> {
    let held = caps::read(None, CapSet::Permitted)?;
    let needed: CapsHashSet = NEEDED
        .into_iter()
        .filter(|cap| held.contains(cap))
        .collect();
    // Of no consequence for a process that starts no other, and it takes a capability itself.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    // In this order: what is inheritable or ambient must be permitted.
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &needed)?;
    caps::set(None, CapSet::Permitted, &needed)?;
    let mut left: Vec<_> = needed.iter().map(ToString::to_string).collect();
    left.sort_unstable();
    Ok(format!(
        "{} of {} are left: {}",
        needed.len(),
        held.len(),
        left.join(", ")
    ))
}
