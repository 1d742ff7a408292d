//! Discarded packets: why, how they are counted, and what is kept of a few of them.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, BackendRef,
    counter::{Hook, Outcome},
    path::Scratch,
};

/// Key of `DROPS`: where, why, and on the way to whom.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct DropKey {
    /// Interface index of the device; 0 for socket calls.
    pub ifindex: u32,
    /// A [`Hook`] as a number.
    pub hook: u8,
    /// An [`Outcome`] as a number.
    pub reason: u8,
    /// Zero.
    pub pad: u16,
    /// The backend, if the reason is [about one](Outcome::is_about_backend).
    pub backend: BackendRef,
}

const _: () = assert!(size_of::<DropKey>() == 12);

/// A sample of the packets that are dropped: an element of `LAST_DROPS`, and what `EVENTS` carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Event {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`; 0 where there is no sample.
    pub time_ns: u64,
    /// Source address; unspecified if the packet was not parsed.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Interface index of the device.
    pub ifindex: u32,
    /// As in [`DropKey`].
    pub backend: BackendRef,
    /// Source port, host byte order; 0 in protocols without ports.
    pub src_port: u16,
    /// Destination port, host byte order.
    pub dst_port: u16,
    /// Length of IP header and payload in bytes.
    pub ip_len: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// A [`Hook`] as a number.
    pub hook: u8,
    /// An [`Outcome`] as a number.
    pub reason: u8,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub pad_word: u32,
}

const _: () = assert!(size_of::<Event>() == 64);

impl DropKey {
    /// The key of a drop; `scratch` belongs to the packet, if it was parsed.
    #[inline(always)]
    #[must_use]
    pub fn new(ifindex: u32, hook: Hook, reason: Outcome, scratch: Option<&Scratch>) -> Self {
        let backend = match scratch {
            Some(scratch) if reason.is_about_backend() => scratch.leg.reference,
            _ => BackendRef::NONE,
        };
        Self {
            ifindex,
            hook: hook as u8,
            reason: reason as u8,
            pad: 0,
            backend,
        }
    }

    /// Where it was.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_number(self.hook)
    }

    /// Why it was.
    #[must_use]
    pub fn reason(&self) -> Option<Outcome> {
        Outcome::from_number(self.reason)
    }
}

impl Event {
    /// Describes a drop, word by word; `scratch` belongs to the packet, if it was parsed.
    #[inline(always)]
    pub fn fill(&mut self, time_ns: u64, key: &DropKey, scratch: Option<&Scratch>) {
        self.time_ns = time_ns;
        self.ifindex = key.ifindex;
        self.backend = key.backend;
        self.hook = key.hook;
        self.reason = key.reason;
        (self.pad, self.pad_word) = (0, 0);
        let Some(Scratch { parsed, .. }) = scratch else {
            // Many zeros in a row would become a call of `memset`.
            let zero = core::hint::black_box(0);
            (self.src, self.dst) = (Addr::unspecified(), Addr::unspecified());
            (self.src_port, self.dst_port, self.ip_len) = (zero, zero, zero);
            (self.protocol, self.tcp_flags) = (zero as u8, zero as u8);
            return;
        };
        (self.src, self.dst) = (parsed.tuple.src.by_words(), parsed.tuple.dst.by_words());
        (self.src_port, self.dst_port) = (parsed.tuple.src_port, parsed.tuple.dst_port);
        self.ip_len = parsed.ip_len;
        self.protocol = parsed.tuple.protocol;
        self.tcp_flags = parsed.tcp_flags;
    }

    /// Where it was.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_number(self.hook)
    }

    /// Why it was.
    #[must_use]
    pub fn reason(&self) -> Option<Outcome> {
        Outcome::from_number(self.reason)
    }
}

/// What a drop means to whoever looks into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What has happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

impl Outcome {
    /// Whether the backend in question belongs to the reason: it differs from backend to backend.
    #[inline(always)]
    #[must_use]
    pub fn is_about_backend(self) -> bool {
        matches!(self, Self::NoSnatPort | Self::Unroutable)
    }

    /// Why a packet with this outcome goes no further; none if it does.
    #[must_use]
    pub fn drop_reason(self) -> Option<Reason> {
        let (meaning, advice) = match self {
            Self::Seen
            | Self::ToStack
            | Self::Redirected
            | Self::Replied
            | Self::Deferred
            | Self::NewFlow
            | Self::Finished
            | Self::Echoed
            | Self::Direct
            | Self::FragmentHeld
            | Self::TableFull
            | Self::Untold => return None,
            Self::NoBackend => (
                "a traffic policy, or the source ranges, leave this client nobody on this node",
                "see internalTrafficPolicy, externalTrafficPolicy and where the Service's pods run; \
                 outside clients should be led to nodes that pass the health check",
            ),
            Self::NoSnatPort => (
                "every port that was tried towards this backend is in use by another connection",
                "give the Service more backends, spread its clients over more nodes, or let them \
                 keep connections open for longer",
            ),
            Self::TornTable => (
                "the Service's table was replaced while the packet was looking into it",
                "nothing if it is rare: the sender repeats the packet. If it goes on, restart the \
                 agent and report it",
            ),
            Self::NotWritable => (
                "the kernel did not let the packet be changed",
                "see whether another program on the device clones or cuts packets; report it",
            ),
            Self::Unroutable => (
                "there is no route to the backend or the client, or no address to send from",
                "look at `ip route get` for the backend, and whether --uplink and --tunnel name \
                 the devices that lead there",
            ),
            Self::Rejected => (
                "nobody serves this port: the client was refused (or was not to be answered)",
                "see whether the Service has ready endpoints (`kubectl get endpointslices`), and \
                 whether it has this port",
            ),
            Self::NotAllowed => (
                "the client is not in the Service's loadBalancerSourceRanges",
                "add the client's network to the ranges, if it should be served",
            ),
            Self::Unallocated
            | Self::Martian
            | Self::UnknownFlow
            | Self::FragmentLost
            | Self::TooBig
            | Self::TtlExceeded
            | Self::Malformed
            | Self::BackendGone => return self.rare_reason(),
        };
        Some(Reason { meaning, advice })
    }

    /// The same for packets that are not as most are.
    fn rare_reason(self) -> Option<Reason> {
        let (meaning, advice) = match self {
            Self::Unallocated => (
                "no Service has this cluster address",
                "find who dials an address of a Service that is gone; a stale DNS entry or \
                 configuration names it",
            ),
            Self::Martian => (
                "an address that no packet of a wire may have",
                "find the sender by its MAC address: it is misconfigured, or an attacker",
            ),
            Self::UnknownFlow => (
                "an ICMP error about a connection that no Service has here",
                "nothing if it is rare: the connection has ended, or somebody guesses",
            ),
            Self::FragmentLost => (
                "a later piece of a packet came before the first one, and there was no room to keep it",
                "find out why the network reorders pieces, or lower the sender's packet size",
            ),
            Self::TooBig => (
                "the packet is too big for the way to the backend: its sender was told what fits",
                "nothing if the sender adapts; if it goes on, a firewall keeps ICMP from it",
            ),
            Self::TtlExceeded => (
                "the packet's time to live has passed: its sender was told",
                "nothing if somebody traces the route; else look for a routing loop",
            ),
            Self::Malformed => (
                "the headers of a packet for a Service make no sense",
                "find the sender by its MAC address: it is broken, or an attacker",
            ),
            Self::BackendGone => (
                "the connection's backend is gone: the client was told that it is over",
                "nothing: --reset-vanished-backends asks for it",
            ),
            _ => return None,
        };
        Some(Reason { meaning, advice })
    }

    /// The outcome with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        let is_it = |outcome: &Self| *outcome as u8 == number;
        Self::ALL.into_iter().find(is_it)
    }
}

impl Hook {
    /// The hook with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| *hook as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, packet::Parsed, protocol};

    fn scratch() -> Scratch {
        let mut scratch = Scratch::zeroed();
        scratch.leg.reference = BackendRef::new(3, 1);
        scratch.parsed = Parsed {
            ip_len: 60,
            tcp_flags: 2,
            ..scratch.parsed
        };
        scratch.parsed.tuple.protocol = protocol::TCP;
        scratch.parsed.tuple.src_port = 40_000;
        scratch
    }

    #[test]
    fn only_reasons_about_a_backend_name_it() {
        let scratch = scratch();
        let backend = |reason| DropKey::new(7, Hook::PodIngress, reason, Some(&scratch)).backend;
        assert_eq!(backend(Outcome::NoSnatPort), BackendRef::new(3, 1));
        assert_eq!(backend(Outcome::Martian), BackendRef::NONE);
        let unparsed = DropKey::new(7, Hook::PodIngress, Outcome::NoSnatPort, None);
        assert_eq!(unparsed.backend, BackendRef::NONE);
    }

    #[test]
    fn an_event_keeps_nothing_of_the_one_before() {
        let key = DropKey::new(7, Hook::Xdp, Outcome::Martian, None);
        let (mut event, mut fresh) = (Event::zeroed(), Event::zeroed());
        event.fill(1, &key, Some(&scratch()));
        assert_eq!(
            (event.src_port, event.ip_len, event.tcp_flags),
            (40_000, 60, 2)
        );
        event.fill(2, &key, None);
        fresh.fill(2, &key, None);
        assert_eq!(event, fresh);
    }

    #[test]
    fn numbers_are_read_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_number(outcome as u8), Some(outcome));
            let counter = Counter {
                hook: Hook::Xdp,
                outcome,
            };
            assert!(
                counter.index() < Counter::COLUMNS,
                "a row has room for {outcome:?}"
            );
        }
        for hook in Hook::ALL {
            assert_eq!(Hook::from_number(hook as u8), Some(hook));
        }
        assert_eq!(Outcome::from_number(u8::MAX), None);
    }

    #[test]
    fn a_reason_is_told_in_a_line() {
        let reasons = Outcome::ALL.into_iter().filter_map(Outcome::drop_reason);
        for Reason { meaning, advice } in reasons {
            for text in [meaning, advice] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
                assert!(!text.contains("  "), "{text}");
            }
        }
    }
}
