//! Frames with other ends, built anew.

use std::ops::Range;

use lb_common::{protocol, rewrite::Endpoint};

use super::{
    headers::{L3, Reading, Shape, half},
    sums,
};

/// What becomes of a packet's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// New source.
    pub(super) src: Option<Endpoint>,
    /// New destination.
    pub(super) dst: Option<Endpoint>,
    /// Whether this is a hop of its own.
    pub(super) is_routed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Src,
    Dst,
}

/// An IP packet within a frame.
#[derive(Clone, Copy)]
struct Packet {
    is_v4: bool,
    l3: usize,
    l4: usize,
}

impl Packet {
    fn put_addr(&self, frame: &mut [u8], side: Side, new: Endpoint) {
        let second = usize::from(side == Side::Dst);
        if self.is_v4 {
            let at = self.l3 + 12 + 4 * second;
            frame[at..at + 4].copy_from_slice(&new.addr.octets[12..]);
        } else {
            let at = self.l3 + 8 + 16 * second;
            frame[at..at + 16].copy_from_slice(&new.addr.octets);
        }
    }

    fn put_port(&self, frame: &mut [u8], side: Side, new: Endpoint) {
        let at = self.l4 + 2 * usize::from(side == Side::Dst);
        frame[at..at + 2].copy_from_slice(&new.port.to_be_bytes());
    }

    /// Where both addresses are.
    fn addresses(&self) -> Range<usize> {
        if self.is_v4 {
            self.l3 + 12..self.l3 + 20
        } else {
            self.l3 + 8..self.l3 + 40
        }
    }

    /// IPv4's header has a checksum.
    fn carry_header(&self, new: &mut [u8], old: &[u8]) -> Option<()> {
        if !self.is_v4 {
            return Some(());
        }
        let header_len = usize::from(old[self.l3] & 15) * 4;
        let header = self.l3..self.l3 + header_len;
        carry(new, old, self.l3 + 10, [header])
    }

    /// So have TCP and UDP, whose 0 means "none". SCTP's covers neither addresses nor, since they
    /// stay, other ports. Nothing if the frame ends before it.
    fn carry_transport(&self, new: &mut [u8], old: &[u8], protocol: u8) -> Option<()> {
        let at = match protocol {
            protocol::TCP => self.l4 + 16,
            protocol::UDP => self.l4 + 6,
            _ => return Some(()),
        };
        let is_udp = protocol == protocol::UDP;
        if is_udp && half(old, at)? == 0 {
            return Some(());
        }
        carry(new, old, at, [self.addresses(), self.l4..old.len()])?;
        if is_udp && half(new, at)? == 0 {
            new[at..at + 2].fill(0xff);
        }
        Some(())
    }
}

impl Reading<'_> {
    fn packet(&self) -> Packet {
        Packet {
            is_v4: self.is_v4,
            l3: L3,
            l4: self.l4,
        }
    }

    /// The packet with other ends. Nothing if it is cut off before its checksum: then it cannot be
    /// changed.
    pub(super) fn changed(&self, ends: Ends) -> Option<Vec<u8>> {
        let mut frame = self.frame.to_vec();
        if ends.is_routed {
            frame[if self.is_v4 { L3 + 8 } else { L3 + 7 }] = self.ttl.saturating_sub(1);
        }
        if let Shape::Error { l3, l4 } = self.shape {
            self.change_error(&mut frame, ends, l3, l4)?;
            return Some(frame);
        }
        let packet = self.packet();
        for (side, new) in [(Side::Src, ends.src), (Side::Dst, ends.dst)] {
            let Some(new) = new else { continue };
            packet.put_addr(&mut frame, side, new);
            if self.shape == Shape::Whole {
                packet.put_port(&mut frame, side, new);
            }
        }
        packet.carry_header(&mut frame, self.frame)?;
        if self.shape == Shape::Whole {
            packet.carry_transport(&mut frame, self.frame, self.carries)?;
        }
        Some(frame)
    }

    /// Changes what an error quotes, and from whom and to whom it is. `ends` are those of the packet
    /// that would answer the quoted one, which goes the other way.
    fn change_error(&self, frame: &mut [u8], ends: Ends, l3: usize, l4: usize) -> Option<()> {
        let (outer, is_v4) = (self.packet(), self.is_v4);
        let quoted = Packet { is_v4, l3, l4 };
        let is_from_the_end = {
            let at = if is_v4 { L3 + 12 } else { L3 + 8 };
            let len = if is_v4 { 4 } else { 16 };
            self.frame[at..at + len] == self.tuple.src.octets[16 - len..]
        };
        if let Some(new) = ends.src {
            quoted.put_addr(frame, Side::Dst, new);
            quoted.put_port(frame, Side::Dst, new);
            // Where the node sends an error on, nobody may know of the routers behind it.
            if ends.is_routed || is_from_the_end {
                outer.put_addr(frame, Side::Src, new);
            }
        }
        if let Some(new) = ends.dst {
            quoted.put_addr(frame, Side::Src, new);
            quoted.put_port(frame, Side::Src, new);
            outer.put_addr(frame, Side::Dst, new);
        }
        quoted.carry_header(frame, self.frame)?;
        // Errors mostly quote less than all; and behind the packet's end there is only padding.
        let field = if self.is_tcp() { l4 + 16 } else { l4 + 6 };
        if field + 2 <= (L3 + self.ip_len).min(frame.len()) {
            quoted.carry_transport(frame, self.frame, self.tuple.protocol)?;
        }
        let is_touched = ends.dst.is_some() || ends.is_routed || is_from_the_end;
        if is_touched {
            outer.carry_header(frame, self.frame)?;
        }
        let message = self.l4..frame.len();
        // ICMP for IPv4 alone has no pseudo-header.
        let pseudo = if is_v4 { 0..0 } else { outer.addresses() };
        carry(frame, self.frame, self.l4 + 2, [pseudo, message])
    }
}

/// Writes the checksum at `at`, which covers these stretches of the frame. Nothing if the frame ends
/// before it.
pub(super) fn carry<const N: usize>(
    new: &mut [u8],
    old: &[u8],
    at: usize,
    covered: [Range<usize>; N],
) -> Option<()> {
    let field = half(old, at)?;
    // A header may be longer than what there is of its frame.
    let covered = covered.map(|range| range.start.min(old.len())..range.end.min(old.len()));
    let sum = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + 2].fill(0);
        let sums = covered.iter().map(|range| sums::sum(&frame[range.clone()]));
        sums.fold(0, sums::add)
    };
    let field = sums::carried(field, sum(old), sum(new));
    new[at..at + 2].copy_from_slice(&field.to_be_bytes());
    Some(())
}

/// Sends a frame back to where it came from.
pub(super) fn exchange_macs(frame: &mut [u8]) {
    let (dst, src) = frame[..12].split_at_mut(6);
    dst.swap_with_slice(src);
}
