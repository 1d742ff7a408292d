//! What the shipped programs are measured against: single operations, and two programs that no load
//! balancer can be faster than.

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_TX},
    btf_maps::{Array, HashMap, LruHashMap},
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_meta},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Offsets in a frame of Ethernet, IPv4 without options, and TCP.
mod at {
    pub(super) const IP_CHECKSUM: usize = 24;
    pub(super) const SRC: usize = 26;
    pub(super) const DST: usize = 30;
    pub(super) const DST_PORT: usize = 36;
    pub(super) const TCP_CHECKSUM: usize = 50;
    pub(super) const END: usize = 54;
}

/// An address and a port in wire order, and a protocol number.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dialled {
    addr: u32,
    port: u16,
    protocol: u16,
}

/// Where a frontend's backends are, and how many: a power of two, less one.
#[repr(C)]
#[derive(Clone, Copy)]
struct Place {
    first: u32,
    mask: u32,
}

/// An address and a port in wire order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Target {
    addr: u32,
    port: u32,
}

#[btf_map]
static REF_FRONTENDS: HashMap<Dialled, Place, 131_072> = HashMap::new();
#[btf_map]
static REF_BACKENDS: Array<Target, 4096> = Array::new();
/// By a flow's source address and ports.
#[btf_map]
static REF_FLOWS: LruHashMap<u64, u64, 1> = LruHashMap::new();

/// Only returns.
#[xdp(frags)]
fn lab_xdp_return(_: XdpContext) -> u32 {
    XDP_TX
}

/// Only returns.
#[classifier]
fn lab_tc_return(_: TcContext) -> i32 {
    -1
}

/// Marks the packet, as a program does that hands it to the stack.
#[xdp(frags)]
fn lab_xdp_mark(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let done = unsafe { bpf_xdp_adjust_meta(ctx.ctx, -4) };
    if done == 0 { XDP_TX } else { XDP_ABORTED }
}

/// Sends the frame out of the device that it came in by, its MAC addresses swapped.
#[xdp(frags)]
fn lab_xdp_redirect(ctx: XdpContext) -> u32 {
    let Some(frame) = frame(&ctx) else {
        return XDP_ABORTED;
    };
    swap_macs(frame);
    // SAFETY: the kernel passes a valid context; the helper takes numbers.
    unsafe { bpf_redirect((*ctx.ctx).ingress_ifindex, 0) as u32 }
}

/// One look-up in a hash map, with a key of eight bytes.
#[xdp(frags)]
fn lab_xdp_hash(ctx: XdpContext) -> u32 {
    let Some(key) = frame(&ctx).map(dialled) else {
        return XDP_ABORTED;
    };
    // SAFETY: nobody changes the map.
    let found = unsafe { REF_FRONTENDS.get(&key) }.is_some();
    if found { XDP_TX } else { XDP_ABORTED }
}

/// One look-up in an LRU hash map, by the flow.
#[xdp(frags)]
fn lab_xdp_lru(ctx: XdpContext) -> u32 {
    let Some(key) = frame(&ctx).map(flow) else {
        return XDP_ABORTED;
    };
    // SAFETY: nobody changes the map.
    let found = unsafe { REF_FLOWS.get(&key) }.is_some();
    if found { XDP_TX } else { XDP_ABORTED }
}

/// One insertion into an LRU hash map, by the flow.
#[xdp(frags)]
fn lab_xdp_insert(ctx: XdpContext) -> u32 {
    let Some(key) = frame(&ctx).map(flow) else {
        return XDP_ABORTED;
    };
    let done = REF_FLOWS.insert(&key, &key, 0);
    if done.is_ok() { XDP_TX } else { XDP_ABORTED }
}

/// One element of an array.
#[xdp(frags)]
fn lab_xdp_array(ctx: XdpContext) -> u32 {
    let Some(key) = frame(&ctx).map(flow) else {
        return XDP_ABORTED;
    };
    let found = REF_BACKENDS.get(key as u32 & 4095);
    if found.is_some_and(|target| target.addr != 0) {
        XDP_TX
    } else {
        XDP_ABORTED
    }
}

/// The least that DNAT can be: of IPv4 and TCP, without a memory of flows, to whom the flow's hash
/// says.
#[xdp(frags)]
fn lab_xdp_dnat(ctx: XdpContext) -> u32 {
    frame(&ctx).and_then(dnat).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn dnat(frame: usize) -> Option<u32> {
    let is_plain = read::<u16>(frame + 12) == u16::to_be(0x0800)
        && read::<u8>(frame + 14) == 0x45
        && read::<u16>(frame + 20) & u16::to_be(0x3fff) == 0
        && read::<u8>(frame + 23) == 6;
    if !is_plain {
        return None;
    }
    let dialled = dialled(frame);
    // SAFETY: nobody changes the map.
    let place = unsafe { REF_FRONTENDS.get(&dialled) }?;
    let hash = (flow(frame).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    let target = *REF_BACKENDS.get(place.first.wrapping_add(hash & place.mask))?;
    let changed = difference(dialled.addr, target.addr);
    fix(frame + at::IP_CHECKSUM, changed);
    let port = target.port as u16;
    let changed = changed + u64::from(!dialled.port) + u64::from(port);
    fix(frame + at::TCP_CHECKSUM, changed);
    write(frame + at::DST, target.addr);
    write(frame + at::DST_PORT, port);
    swap_macs(frame);
    Some(XDP_TX)
}

/// What tells the flow of a frame from all others.
#[inline(always)]
pub(crate) fn key(ctx: &XdpContext) -> Option<u64> {
    frame(ctx).map(flow)
}

/// The frame, if it is as long as all that is read here.
#[inline(always)]
fn frame(ctx: &XdpContext) -> Option<usize> {
    let (start, end) = (ctx.data(), ctx.data_end());
    (start + at::END <= end).then_some(start)
}

#[inline(always)]
fn dialled(frame: usize) -> Dialled {
    Dialled {
        addr: read(frame + at::DST),
        port: read(frame + at::DST_PORT),
        protocol: 6,
    }
}

#[inline(always)]
fn flow(frame: usize) -> u64 {
    let (addr, ports): (u32, u32) = (read(frame + at::SRC), read(frame + at::DST + 4));
    u64::from(addr) << 32 | u64::from(ports)
}

/// What a checksum has to take in if a word is replaced (RFC 1624).
#[inline(always)]
fn difference(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

#[inline(always)]
fn fix(checksum: usize, change: u64) {
    let sum = u64::from(!read::<u16>(checksum)) + change;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    write(checksum, !(sum as u16));
}

#[inline(always)]
fn swap_macs(frame: usize) {
    let (dst, src): ([u16; 3], [u16; 3]) = (read(frame), read(frame + 6));
    write(frame, src);
    write(frame + 6, dst);
}

#[inline(always)]
fn read<T>(at: usize) -> T {
    // SAFETY: `frame` has compared the frame's end with all that is read.
    unsafe { ptr::read_unaligned(at as *const T) }
}

#[inline(always)]
fn write<T>(at: usize, value: T) {
    // SAFETY: as in `read`.
    unsafe { ptr::write_unaligned(at as *mut T, value) }
}
