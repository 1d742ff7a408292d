//! Programs that only the test lab attaches.
#![no_std]
#![no_main]
// The compiler offers no atomic operations for BPF, but for these.
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "see above")]

mod bucket;
mod drive;
mod reference;

use aya_ebpf::{
    Global,
    bindings::{__sk_buff, xdp_action::XDP_PASS},
    helpers::generated::{bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[path = "lab/flood.rs"]
mod flood;
#[path = "lab/load.rs"]
mod load;
#[path = "lab/ways.rs"]
mod ways;

/// The next program of the chain, then the stack (`TCX_NEXT`).
const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;

/// A VLAN: protocol and number of its tag, the device that frames with the tag pass, and the one
/// that they pass without. The lab sets it.
#[unsafe(no_mangle)]
static VLAN: Global<[u32; 4]> = Global::new([0; 4]);

/// Passes everything. A veth delivers what its peer sends by `XDP_TX` only if it has an XDP
/// program of its own.
#[xdp(frags)]
fn lab_xdp_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// The checksum of a packet to which two words were added (RFC 1624).
#[inline(always)]
fn add(checksum: u16, one: u16, other: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(one) + u32::from(other);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Leaves everything to the next program of the chain (`TCX_NEXT`): one of others, for ours.
#[classifier]
fn lab_tc_next(_: TcContext) -> i32 {
    NEXT
}

/// At ingress of the device of tagged frames: hands those of the VLAN over.
#[classifier]
fn lab_untag(ctx: TcContext) -> i32 {
    let [protocol, id, _, inner] = VLAN.load();
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    let (present, found, tci) =
        unsafe { ((*skb).vlan_present, (*skb).vlan_proto, (*skb).vlan_tci) };
    let is_member = present != 0 && found == wire(protocol).into() && tci & 0xfff == id;
    if !is_member {
        return NEXT;
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_vlan_pop(skb) } != 0 {
        return DROP;
    }
    // SAFETY: takes an interface index and flags by value.
    unsafe { bpf_redirect(inner, 0) as i32 }
}

/// At ingress of the device of untagged frames: gives them the VLAN's tag, and hands them over.
#[classifier]
fn lab_tag(ctx: TcContext) -> i32 {
    let [protocol, id, outer, _] = VLAN.load();
    // SAFETY: the kernel passes a valid context.
    if unsafe { bpf_skb_vlan_push(ctx.skb.skb, wire(protocol), id as u16) } != 0 {
        return DROP;
    }
    // SAFETY: takes an interface index and flags by value.
    unsafe { bpf_redirect(outer, 0) as i32 }
}

/// A protocol as it stands in a frame.
fn wire(protocol: u32) -> u16 {
    (protocol as u16).to_be()
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
