//! Changing addresses and ports, with every checksum that covers them.

pub mod quoted;

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr,
    checksum::{self, Delta},
    packet::{Family, Offsets, Packet, Parsed},
    protocol,
    wire::{ethernet, ipv4, ipv6, tcp, udp},
};

/// A packet that can be changed.
pub trait PacketMut: Packet {
    /// Overwrites the bytes at `offset`. Nothing if the frame ends before.
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()>;
}

/// A packet with a transport checksum.
///
/// How its field takes a [`Delta`] is the implementor's business: XDP and the host compute
/// it, an skb may have left its checksum to the device and needs the kernel's help.
pub trait Checksummed: PacketMut {
    /// Updates a transport checksum: `pseudo` for what the pseudo-header covers, `rest` for what
    /// the segment itself covers.
    fn update_l4_checksum(&mut self, update: L4Checksum) -> Option<()>;
}

/// An update of a transport checksum.
#[derive(Clone, Copy, Debug)]
pub struct L4Checksum {
    /// Where the field is, in bytes from the frame's start.
    pub offset: usize,
    /// Change of the addresses.
    pub pseudo: Delta,
    /// Change of the ports.
    pub ports: Delta,
    /// Whether 0 means "none".
    pub is_udp: bool,
    /// Whether the packet is IPv6, where no header checksum balances the addresses.
    pub is_v6: bool,
}

impl L4Checksum {
    /// The field's new value, computed here.
    #[inline(always)]
    #[must_use]
    pub fn apply(&self, field: u16) -> u16 {
        let delta = self.pseudo.and(self.ports);
        if self.is_udp {
            checksum::apply_udp(field, delta)
        } else {
            checksum::apply(field, delta)
        }
    }
}

/// An address and a port in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The same endpoint, read word by word, for the reason of [`Addr::by_words`].
    #[inline(always)]
    #[must_use]
    pub fn by_words(&self) -> Self {
        Self {
            addr: self.addr.by_words(),
            port: self.port,
        }
    }
}

/// What a packet's source and destination become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// New source, if it changes.
    pub src: Option<Endpoint>,
    /// New destination, if it changes.
    pub dst: Option<Endpoint>,
    /// Whether this is a hop of its own: the packet does not go through the node's stack, so
    /// its time to live is taken down here.
    pub routed: bool,
}

/// Carries out `rewrite` on the packet that was parsed as `parsed`.
///
/// Nothing if the frame ends before a header does, which `parsed` rules out.
#[inline(always)]
pub fn apply<F: Family, P: Checksummed>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
    rewrite: &Rewrite,
) -> Option<()> {
    let mut change = Change::default();
    let (src, dst) = (parsed.tuple.source(), parsed.tuple.destination());
    // A later piece has no ports.
    let l4 = parsed.has_ports().then_some(offsets.l4);
    if let Some(new) = rewrite.src {
        replace::<F, P>(packet, (offsets.l3, l4), Side::Src, [src, new], &mut change)?;
    }
    if let Some(new) = rewrite.dst {
        replace::<F, P>(packet, (offsets.l3, l4), Side::Dst, [dst, new], &mut change)?;
    }
    finish_ip::<F, P>(packet, parsed, offsets.l3, rewrite.routed, change.addrs)?;
    if parsed.no_checksum {
        return Some(());
    }
    let is_udp = parsed.tuple.protocol == protocol::UDP;
    let field = if is_udp {
        udp::field::CHECKSUM
    } else {
        tcp::field::CHECKSUM
    };
    packet.update_l4_checksum(L4Checksum {
        offset: offsets.l4 + field,
        pseudo: change.addrs,
        ports: change.ports,
        is_udp,
        is_v6: !F::IS_V4,
    })
}

/// Overwrites the MAC addresses: destination, then source.
#[inline(always)]
pub fn set_macs<P: PacketMut>(packet: &mut P, macs: [u32; 3]) -> Option<()> {
    packet.store(ethernet::field::ADDRESSES, &macs)
}

/// Exchanges the MAC addresses: the frame goes back to where it came from.
#[inline(always)]
pub fn swap_macs<P: PacketMut>(packet: &mut P) -> Option<()> {
    let [dst, mid, src]: [u32; 3] = packet.read(ethernet::field::ADDRESSES)?;
    let [d0, d1, d2, d3] = dst.to_ne_bytes();
    let [d4, d5, s0, s1] = mid.to_ne_bytes();
    let [s2, s3, s4, s5] = src.to_ne_bytes();
    set_macs(
        packet,
        [
            u32::from_ne_bytes([s0, s1, s2, s3]),
            u32::from_ne_bytes([s4, s5, d0, d1]),
            u32::from_ne_bytes([d2, d3, d4, d5]),
        ],
    )
}

#[derive(Clone, Copy)]
enum Side {
    Src,
    Dst,
}

#[derive(Default)]
struct Change {
    addrs: Delta,
    ports: Delta,
}

/// Replaces one end by another, in the IP header and, if there is one, in the transport header.
#[inline(always)]
fn replace<F: Family, P: PacketMut>(
    packet: &mut P,
    (l3, l4): (usize, Option<usize>),
    side: Side,
    [old, new]: [Endpoint; 2],
    change: &mut Change,
) -> Option<()> {
    replace_addr::<F, P>(packet, l3, side, old.addr, new.addr, change)?;
    match l4 {
        Some(l4) => replace_port(packet, l4, side, old.port, new.port, change),
        None => Some(()),
    }
}

#[inline(always)]
fn replace_addr<F: Family, P: PacketMut>(
    packet: &mut P,
    l3: usize,
    side: Side,
    old: Addr,
    new: Addr,
    change: &mut Change,
) -> Option<()> {
    let (v4, v6) = match side {
        Side::Src => (ipv4::field::SRC, ipv6::field::SRC),
        Side::Dst => (ipv4::field::DST, ipv6::field::DST),
    };
    if F::IS_V4 {
        let (from, to) = (old.to_wire_v4(), new.to_wire_v4());
        packet.store(l3 + v4, &to)?;
        change.addrs = change.addrs.replace_word(from, to);
    } else {
        packet.store(l3 + v6, &new.to_wire_words())?;
        change.addrs = change.addrs.replace_addr(old, new);
    }
    Some(())
}

#[inline(always)]
fn replace_port<P: PacketMut>(
    packet: &mut P,
    l4: usize,
    side: Side,
    old: u16,
    new: u16,
    change: &mut Change,
) -> Option<()> {
    let field = match side {
        Side::Src => udp::field::SRC_PORT,
        Side::Dst => udp::field::DST_PORT,
    };
    let (from, to) = (old.to_be(), new.to_be());
    packet.store(l4 + field, &to)?;
    change.ports = change.ports.replace_half(from, to);
    Some(())
}

/// Takes down the time to live, and updates IPv4's header checksum.
#[inline(always)]
fn finish_ip<F: Family, P: PacketMut>(
    packet: &mut P,
    parsed: &Parsed,
    l3: usize,
    routed: bool,
    addrs: Delta,
) -> Option<()> {
    let ttl = parsed.ttl.saturating_sub(1);
    if !F::IS_V4 {
        if routed {
            packet.store(l3 + ipv6::field::HOP_LIMIT, &ttl)?;
        }
        return Some(());
    }
    let mut delta = addrs;
    if routed {
        // The checksum's word holds the time to live before the protocol.
        let word = |ttl: u8| u16::from_ne_bytes([ttl, parsed.tuple.protocol]);
        packet.store(l3 + ipv4::field::TTL, &ttl)?;
        delta = delta.replace_half(word(parsed.ttl), word(ttl));
    }
    // The header's checksum is never left to a device, so it is computed here in skbs, too.
    let field: u16 = packet.read(l3 + ipv4::field::CHECKSUM)?;
    packet.store(l3 + ipv4::field::CHECKSUM, &checksum::apply(field, delta))
}

#[cfg(any(test, feature = "alloc"))]
mod frame {
    use super::{Checksummed, L4Checksum, Packet, PacketMut, Pod};

    /// A frame in host memory.
    pub struct Frame<'a>(pub &'a mut [u8]);

    impl Packet for Frame<'_> {
        fn read<T: Pod>(&self, offset: usize) -> Option<T> {
            let bytes = self.0.get(offset..offset.checked_add(size_of::<T>())?)?;
            Some(bytemuck::pod_read_unaligned(bytes))
        }
    }

    impl PacketMut for Frame<'_> {
        fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
            let bytes = self
                .0
                .get_mut(offset..offset.checked_add(size_of::<T>())?)?;
            bytes.copy_from_slice(bytemuck::bytes_of(value));
            Some(())
        }
    }

    impl Checksummed for Frame<'_> {
        fn update_l4_checksum(&mut self, update: L4Checksum) -> Option<()> {
            let field = self.read(update.offset)?;
            self.store(update.offset, &update.apply(field))
        }
    }
}
#[cfg(any(test, feature = "alloc"))]
pub use frame::Frame;

#[cfg(test)]
mod tests;
