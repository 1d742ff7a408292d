//! Whose connections a Service takes (SEMANTICS G).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_common::{Addr, FrontendKey, SourceRange, frontend::flags};

use super::{FrontendSpec, NodeView};
use crate::{flat::FlatSet, model::Service};

/// The source ranges of a Service in one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Networks whose clients are served; with none, all are.
    ranges: BTreeSet<IpNet>,
    node_denied: bool,
}

impl Filter {
    /// Ranges of the other family do not count, and one that holds everybody is none (item 46).
    pub(super) fn new(service: &Service, is_v4: bool, node: &NodeView) -> Self {
        let ranges: BTreeSet<IpNet> = service
            .source_ranges
            .iter()
            .filter(|range| range.addr().is_ipv4() == is_v4)
            .map(IpNet::trunc)
            .collect();
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return Self::default();
        }
        // Addresses of the other family lie in none of them.
        let holds = |addr: &IpAddr| ranges.iter().any(|range| range.contains(addr));
        Self {
            node_denied: !node.own_addresses.iter().any(holds),
            ranges,
        }
    }

    /// Bits of a frontend that takes the connections of these clients only.
    pub(super) fn flags(&self) -> u32 {
        match (self.ranges.is_empty(), self.node_denied) {
            (true, _) => 0,
            (false, false) => flags::SOURCE_RANGES,
            (false, true) => flags::SOURCE_RANGES | flags::NODE_DENIED,
        }
    }

    /// What `SOURCE_RANGES` holds for the port `id`, which has these frontends.
    ///
    /// A node that is admitted may also dial with the VIP itself as its source: that is what its
    /// packets carry where the address is bound to one of its devices (item 47).
    pub(super) fn keys<'a>(
        &self,
        id: u32,
        frontends: impl IntoIterator<Item = (&'a FrontendKey, &'a FrontendSpec)>,
    ) -> FlatSet<SourceRange> {
        let mut vips = frontends
            .into_iter()
            .filter(|(_, spec)| {
                spec.flags & flags::SOURCE_RANGES != 0 && spec.flags & flags::NODE_PORT == 0
            })
            .map(|(key, _)| key.addr)
            .peekable();
        if self.ranges.is_empty() {
            return FlatSet::default();
        }
        let ranges = self.ranges.iter().map(|range| key(id, range));
        if self.node_denied || vips.peek().is_none() {
            return ranges.collect();
        }
        let vips = vips.map(|vip| SourceRange::of_client(id, &vip));
        ranges.chain(vips).collect()
    }
}

fn key(id: u32, range: &IpNet) -> SourceRange {
    let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
    SourceRange {
        prefix_len: SourceRange::SERVICE_BITS + mapped + u32::from(range.prefix_len()),
        service: id,
        addr: Addr::from(range.addr()),
    }
}

#[cfg(test)]
mod tests;
