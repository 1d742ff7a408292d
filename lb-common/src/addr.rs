//! An address of either family in sixteen bytes.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytemuck::{Pod, Zeroable};

/// The first twelve bytes of an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).
const V4_MAPPED: [u32; 3] = [0, 0, 0xffff];

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form, in network byte order.
///
/// One form for both families lets every map, and every process socket that dials a VIP through
/// its mapped address, share one key.
#[repr(C, align(4))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Addr {
    /// The bytes as they stand on the wire; IPv4 in the last four.
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// The unspecified IPv6 address, `::`.
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// [`UNSPECIFIED`](Self::UNSPECIFIED), written word by word.
    ///
    /// In a program, sixteen bytes that the compiler knows to be zero become a call of `memset`,
    /// a loop over bytes.
    #[inline(always)]
    #[must_use]
    pub fn unspecified() -> Self {
        let zero = core::hint::black_box(0);
        Self::from_wire_words([zero, zero, zero, zero])
    }

    /// An address from four words that hold its bytes in wire order.
    #[inline(always)]
    #[must_use]
    pub fn from_wire_words(words: [u32; 4]) -> Self {
        bytemuck::cast(words)
    }

    /// The address as four words that hold its bytes in wire order.
    #[inline(always)]
    #[must_use]
    pub fn to_wire_words(self) -> [u32; 4] {
        bytemuck::cast(self)
    }

    /// The same address, read word by word.
    ///
    /// In a program, a copy from one map's memory to another's becomes a call of `memmove`, a
    /// loop over bytes, unless it goes through registers.
    #[inline(always)]
    #[must_use]
    pub fn by_words(&self) -> Self {
        let [a, b, c, d] = self.to_wire_words();
        Self::from_wire_words([a, b, c, d])
    }

    /// An IPv4 address from a word that holds its bytes in wire order.
    #[inline(always)]
    #[must_use]
    pub fn from_wire_v4(word: u32) -> Self {
        let [a, b, c] = V4_MAPPED;
        Self::from_wire_words([a, b, c.to_be(), word])
    }

    /// The last four bytes in wire order: the whole of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub fn to_wire_v4(self) -> u32 {
        let [_, _, _, word] = self.to_wire_words();
        word
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub fn is_v4(self) -> bool {
        let [a, b, c, _] = self.to_wire_words();
        let [ma, mb, mc] = V4_MAPPED;
        (a, b, c) == (ma, mb, mc.to_be())
    }

    /// Whether this is 127.0.0.0/8 or `::1`.
    #[inline(always)]
    #[must_use]
    pub fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.to_wire_words();
        if self.is_v4() {
            u32::from_be(d) >> 24 == 127
        } else {
            (a | b | c) == 0 && u32::from_be(d) == 1
        }
    }

    /// Whether a packet of a wire can come from here: it is somebody's address in particular, of
    /// another host. Not so are 0.0.0.0/8, 127.0.0.0/8 and all from 224.0.0.0 on (RFC 1812, 5.3.7),
    /// `::`, `::1` and ff00::/8.
    #[inline(always)]
    #[must_use]
    pub fn is_of_a_host(self) -> bool {
        let [a, b, c, d] = self.to_wire_words();
        if self.is_v4() {
            let first = u32::from_be(d) >> 24;
            first != 0 && first != 127 && first < 224
        } else {
            let is_unspecified_or_loopback = (a | b | c) == 0 && u32::from_be(d) <= 1;
            u32::from_be(a) >> 24 != 0xff && !is_unspecified_or_loopback
        }
    }

    /// 0 if both are the same address. Without a comparison: the verifier follows every branch on its own.
    #[inline(always)]
    #[must_use]
    pub fn differs_from(self, other: Self) -> u32 {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.to_wire_words(), other.to_wire_words());
        (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3)
    }

    /// Whether it is of one link only: fe80::/10, from which nobody forwards (RFC 4291, 2.5.6).
    #[inline(always)]
    #[must_use]
    pub fn is_of_a_link(self) -> bool {
        let [a, ..] = self.to_wire_words();
        !self.is_v4() && u32::from_be(a) >> 22 == 0xfe80 >> 6
    }

    /// The address in the standard library's type.
    #[must_use]
    pub fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.octets);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(v4: Ipv4Addr) -> Self {
        Self {
            octets: v4.to_ipv6_mapped().octets(),
        }
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(v6: Ipv6Addr) -> Self {
        Self {
            octets: v6.octets(),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_address_survives_the_round_trip(bits: u128, v4: bool) {
            let ip: IpAddr = if v4 {
                Ipv4Addr::from_bits(bits as u32).into()
            } else {
                Ipv6Addr::from_bits(bits).into()
            };
            prop_assert_eq!(Addr::from(ip).to_ip(), ip.to_canonical());
            prop_assert_eq!(Addr::from(ip).is_v4(), ip.to_canonical().is_ipv4());
            prop_assert_eq!(Addr::from(ip).is_loopback(), ip.to_canonical().is_loopback());
            let is_of_a_host = match ip.to_canonical() {
                IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
                IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified()),
            };
            prop_assert_eq!(Addr::from(ip).is_of_a_host(), is_of_a_host);
        }

        #[test]
        fn what_is_of_no_host_is_found_at_its_bounds(low: u32) {
            let bounds = [0, 1, 126, 127, 128, 223, 224, 239, 240, 255];
            for first in bounds {
                let v4 = Ipv4Addr::from_bits(first << 24 | low >> 8);
                let is_of_a_host = matches!(first, 1..=126 | 128..=223);
                prop_assert_eq!(Addr::from(v4).is_of_a_host(), is_of_a_host, "{}", v4);
            }
            for (addr, is_of_a_host) in [
                ("::", false), ("::1", false), ("::2", true), ("ff02::1", false), ("ff0e::1", false),
                ("fe80::1", true), ("fd00::1", true), ("2001:db8::1", true),
            ] {
                let v6: Ipv6Addr = addr.parse().unwrap();
                prop_assert_eq!(Addr::from(v6).is_of_a_host(), is_of_a_host, "{}", v6);
            }
        }

        #[test]
        fn wire_words_hold_the_octets_in_order(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let word = u32::from_ne_bytes(v4.octets());
            prop_assert_eq!(Addr::from_wire_v4(word), Addr::from(v4));
            prop_assert_eq!(Addr::from(v4).to_wire_v4(), word);
        }
    }
}
