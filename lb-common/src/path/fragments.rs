//! Pieces of packets: the first one tells the ports of all.

use super::{FragmentStore, Scratch, Tables};
use crate::{
    counter::Hook,
    fragment::{FragmentKey, Fragments, HELD_MAX},
    packet::{Headers, Parsed},
    vip,
};

/// What is to be done about a piece that is not the first one.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// Its ports are known: it can be decided about.
    Decide,
    /// It comes before the first one, and is to be held back as [`Scratch::held_key`] says.
    Hold,
    /// It comes before the first one, and there is no room for it.
    Lost,
    /// It comes before the first one, and is nobody's business here.
    Pass,
}

/// Notes the first piece of a packet, which `scratch.parsed` is. How many pieces were waiting for it.
#[inline(always)]
pub fn first<E: Tables + FragmentStore>(
    env: &E,
    scratch: &mut Scratch,
    headers: Headers,
    hook: Hook,
) -> u32 {
    set_key(scratch, headers, hook);
    scratch.now = env.now();
    let waiting = match env.fragments(&scratch.held_key.packet) {
        Some(known) if known.is_known == 0 && !known.is_expired(scratch.now) => known.held,
        _ => 0,
    };
    scratch.fragments = Fragments {
        seen_tick: scratch.now.tick,
        src_port: scratch.parsed.tuple.src_port,
        dst_port: scratch.parsed.tuple.dst_port,
        held: 0,
        is_known: 1,
    };
    env.insert_fragments(&scratch.held_key.packet, &scratch.fragments);
    u32::from(waiting)
}

/// Gives a later piece its ports. `may_hold` says whether one that comes too early can wait here.
///
/// Whoever gets the pieces can do nothing without the first one: waiting for it does no harm.
#[inline(always)]
pub fn later<E: Tables + FragmentStore>(
    env: &E,
    scratch: &mut Scratch,
    headers: Headers,
    hook: Hook,
    may_hold: bool,
) -> Later {
    set_key(scratch, headers, hook);
    scratch.now = env.now();
    let mut held = 0;
    if let Some(known) = env.fragments(&scratch.held_key.packet)
        && !known.is_expired(scratch.now)
    {
        if known.is_known != 0 {
            let Parsed { tuple, .. } = &mut scratch.parsed;
            (tuple.src_port, tuple.dst_port) = (known.src_port, known.dst_port);
            return Later::Decide;
        }
        held = u32::from(known.held);
    }
    if !may_hold {
        return Later::Pass;
    }
    if held >= HELD_MAX {
        return Later::Lost;
    }
    scratch.held_key.index = held;
    scratch.fragments = Fragments {
        seen_tick: scratch.now.tick,
        src_port: 0,
        dst_port: 0,
        held: held as u16 + 1,
        is_known: 0,
    };
    Later::Hold
}

/// Whether a packet that enters here may be for a Service, or be a reply to an SNAT address.
#[inline(always)]
pub fn may_be_ours<E: Tables>(env: &E, scratch: &Scratch, ifindex: u32) -> bool {
    let dst = &scratch.parsed.tuple.dst;
    if env.vip(dst).is_some() {
        return true;
    }
    let Some(interface) = env.interface(ifindex) else {
        return false;
    };
    let snat = if dst.is_v4() {
        interface.snat4
    } else {
        interface.snat6
    };
    // A device without an address has the unspecified one, which no packet is for.
    let [a, b, c, d] = dst.to_wire_words();
    a | b | c | d != 0 && snat.to_wire_words() == [a, b, c, d]
}

/// Whether a piece that came too early, and cannot wait, can be nobody's but a Service's. What is for
/// the node's own address, the node can put together.
#[inline(always)]
pub fn is_ours<E: Tables>(env: &E, scratch: &Scratch) -> bool {
    let vip = env.vip(&scratch.parsed.tuple.dst);
    vip.is_some_and(|vip| !vip.has(vip::flags::NODE))
}

/// Whether the first piece has come, on another CPU, while this one was being held back. Then its
/// ports are known, and it need not wait.
#[inline(always)]
pub fn has_come<E: FragmentStore>(env: &E, scratch: &mut Scratch) -> bool {
    match env.fragments(&scratch.held_key.packet) {
        Some(known) if known.is_known != 0 => {
            let Parsed { tuple, .. } = &mut scratch.parsed;
            (tuple.src_port, tuple.dst_port) = (known.src_port, known.dst_port);
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn set_key(scratch: &mut Scratch, headers: Headers, hook: Hook) {
    let tuple = &scratch.parsed.tuple;
    scratch.held_key.packet = FragmentKey {
        src: tuple.src.by_words(),
        dst: tuple.dst.by_words(),
        id: headers.fragment_id(),
        protocol: tuple.protocol,
        hook: hook as u8,
        pad_half: 0,
    };
}
