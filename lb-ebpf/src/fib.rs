//! The kernel's routing table.

use core::ffi::c_void;

use crate::maps::fib_query;
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::generated,
};
use lb_common::{Addr, Hop, packet::Parsed};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Answer of the routing table.
pub(crate) enum Answer {
    /// The neighbour is known.
    Neighbour(Hop),
    /// The device is known, the neighbour not yet.
    Device(u32),
    /// The packet is the node's own, or has no way.
    None,
}

/// Asks where a packet leaves that came in by `ifindex`, once its destination is `dst`. Its source is the one that it
/// came with, and so are the ports that rules and paths are chosen by, as where netfilter translates: that masquerades when
/// the route is known.
///
/// The packet's size is not asked about: that has a check of its own, with an answer for the
/// sender.
#[inline(always)]
pub(crate) fn look_up(ctx: *mut c_void, ifindex: u32, parsed: &Parsed, dst: Addr) -> Answer {
    let Some(query) = fib_query() else {
        return Answer::None;
    };
    // What the kernel has written into it since, and reads again.
    query.__bindgen_anon_1.tot_len = 0;
    query.__bindgen_anon_2.flowinfo = 0;
    let tuple = &parsed.tuple;
    let src = tuple.src.by_words();
    query.l4_protocol = tuple.protocol;
    query.sport = tuple.src_port.to_be();
    query.dport = tuple.dst_port.to_be();
    query.ifindex = ifindex;
    if dst.is_v4() {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = src.to_wire_v4();
        query.__bindgen_anon_4.ipv4_dst = dst.to_wire_v4();
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = src.to_wire_words();
        query.__bindgen_anon_4.ipv6_dst = dst.to_wire_words();
    }
    // SAFETY: `query` is a valid structure of the size that is passed.
    let answer = unsafe {
        generated::bpf_fib_lookup(ctx, &raw mut *query, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    match answer as u32 {
        // tc compares the skb with the device's MTU, unasked, once it has found all: the answer
        // is as complete as the other.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            Answer::Neighbour(Hop::neighbour(query.ifindex, &query.dmac, &query.smac))
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Answer::Device(query.ifindex),
        _ => Answer::None,
    }
}

/// Sends a packet out by a device, to the next hop that the last answer named. The kernel resolves the neighbour, and
/// does not ask for the route again: it would ask with what has become of the packet, and no ports.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> Option<i32> {
    let query = fib_query()?;
    if query.ifindex != ifindex {
        return None;
    }
    // SAFETY: words of the structure, which the kernel has filled; of IPv4, it reads the first one only.
    let [a, b, c, d] = unsafe { query.__bindgen_anon_4.ipv6_dst };
    let mut next = bpf_redir_neigh {
        nh_family: query.family.into(),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: [a, b, c, d],
        },
    };
    // SAFETY: `next` is a valid structure of the size that is passed.
    let verdict = unsafe {
        generated::bpf_redirect_neigh(
            ifindex,
            &raw mut next,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        )
    };
    Some(verdict as i32)
}

/// Largest IP packet that every link takes (RFC 8200, section 5): smaller ones need no check.
const ALWAYS_FITS: u16 = 1280;

/// How large a packet may be that the device of `hop` takes, if this one (of a GSO packet, one of its
/// segments) is larger; else 0.
#[inline(always)]
pub(crate) fn too_big_for(ctx: *mut c_void, parsed: &Parsed, hop: &Hop, flags: u64) -> u32 {
    if parsed.ip_len <= ALWAYS_FITS && parsed.ip_len != 0 {
        return 0;
    }
    let mut mtu = 0_u32;
    // SAFETY: `mtu` is a valid place for the answer.
    let fits = unsafe { generated::bpf_check_mtu(ctx, hop.ifindex, &raw mut mtu, 0, flags) == 0 };
    if fits { 0 } else { mtu }
}
