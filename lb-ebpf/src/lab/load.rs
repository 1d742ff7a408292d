//! Load in a closed loop: a generator for live frames, and the sink that tells it what arrived.

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::Array,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Words of two bytes in the longest frame: Ethernet, IPv6 and UDP headers.
const WORDS: usize = 31;
/// Frames that may be under way at once: more would overrun the queue of a veth.
const IN_FLIGHT: u64 = 128;
/// So often the generator waits for the sink; then what is under way is lost.
const PATIENCE: u64 = 50_000;

/// Where things are in a frame, in words of two bytes.
struct Layout {
    words: usize,
    ip_checksum: usize,
    /// The last word of the source address.
    address: usize,
    port: usize,
    checksum: usize,
}

/// UDP over IPv4, 60 bytes.
const V4: Layout = Layout {
    words: 30,
    ip_checksum: 12,
    address: 14,
    port: 17,
    checksum: 20,
};

/// UDP over IPv6, whose header has no checksum.
const V6: Layout = Layout {
    words: WORDS,
    ip_checksum: usize::MAX,
    address: 18,
    port: 27,
    checksum: 30,
};

/// The frame of no flow in particular: the words that vary are zero, with the checksums of that.
#[btf_map]
static LOAD_FRAME: Array<[u16; WORDS], 1> = Array::new();

/// What the two programs and the lab tell each other: `lab::load::State`.
#[repr(C)]
struct State {
    /// Frames sent.
    sent: u64,
    /// Frames that have arrived, or are lost.
    arrived: u64,
    /// Of those, the lost ones.
    lost: u64,
    /// How often in a row the generator has waited.
    waits: u64,
    /// The last flow.
    flow: u32,
    /// Flows are numbers below this power of two, less one.
    mask: u32,
    /// Destination ports of what is to arrive: this one, and as many as there are.
    port: u32,
    ports: u32,
}

#[btf_map]
static LOAD: Array<State, 1> = Array::new();

/// Sends `LOAD_FRAME`, UDP over IPv4, from one of the flows.
#[xdp]
fn lab_xdp_load4(ctx: XdpContext) -> u32 {
    load(&ctx, &V4).unwrap_or(XDP_ABORTED)
}

/// Sends `LOAD_FRAME`, UDP over IPv6, from one of the flows.
#[xdp]
fn lab_xdp_load6(ctx: XdpContext) -> u32 {
    load(&ctx, &V6).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn load(ctx: &XdpContext, layout: &Layout) -> Option<u32> {
    let state = LOAD.get_ptr_mut(0)?;
    // SAFETY: the lab reads it only; the generator and the sink run on one CPU, one after the other.
    let state = unsafe { &mut *state };
    if state.sent - state.arrived >= IN_FLIGHT {
        state.wait();
        return Some(XDP_DROP);
    }
    let frame = LOAD_FRAME.get(0)?;
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + layout.words * size_of::<u16>() > end {
        return None;
    }
    let (address, port) = state.next_flow();
    let out = start as *mut u16;
    for (at, word) in frame.iter().take(layout.words).enumerate() {
        let word = if at == layout.address {
            address
        } else if at == layout.port {
            port
        } else if at == layout.ip_checksum {
            super::add(*word, address, 0)
        } else if at == layout.checksum {
            super::add(*word, address, port)
        } else {
            *word
        };
        // SAFETY: the frame is as long as that.
        unsafe { ptr::write_unaligned(out.add(at), word) };
    }
    state.waits = 0;
    state.sent += 1;
    Some(XDP_TX)
}

impl State {
    #[inline(always)]
    fn wait(&mut self) {
        self.waits += 1;
        if self.waits > PATIENCE {
            self.lost += self.sent - self.arrived;
            self.arrived = self.sent;
            self.waits = 0;
        }
    }

    /// Source address (its last two bytes) and port of the next frame.
    ///
    /// All flows have their turn before one is met again, in an order that no prefetcher foresees.
    #[inline(always)]
    fn next_flow(&mut self) -> (u16, u16) {
        self.flow = self
            .flow
            .wrapping_mul(0x5851_f42d)
            .wrapping_add(0x1405_7b7f)
            & self.mask;
        let mut mixed = self.flow.wrapping_mul(0x9e37_79b1);
        mixed ^= mixed >> 16;
        mixed = mixed.wrapping_mul(0x85eb_ca6b);
        ((mixed >> 16) as u16, mixed as u16)
    }
}

/// Ends the load's frames, and counts them; passes everything else.
#[xdp(frags)]
fn lab_xdp_sink(ctx: XdpContext) -> u32 {
    sink(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn sink(ctx: &XdpContext) -> Option<u32> {
    let port = udp_destination(ctx)?;
    // SAFETY: as in `load`.
    let state = unsafe { &mut *LOAD.get_ptr_mut(0)? };
    if u32::from(port).wrapping_sub(state.port) >= state.ports {
        return None;
    }
    state.arrived += 1;
    Some(XDP_DROP)
}

/// Sends back what is UDP, as it came: what no balancer can be faster than.
#[xdp]
fn lab_xdp_bounce(ctx: XdpContext) -> u32 {
    bounce(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn bounce(ctx: &XdpContext) -> Option<u32> {
    udp_destination(ctx)?;
    let start = ctx.data();
    if start + 12 > ctx.data_end() {
        return None;
    }
    let macs = start as *mut [u16; 3];
    // SAFETY: both addresses are within the packet.
    unsafe {
        let (to, from) = (ptr::read_unaligned(macs), ptr::read_unaligned(macs.add(1)));
        ptr::write_unaligned(macs, from);
        ptr::write_unaligned(macs.add(1), to);
    }
    Some(XDP_TX)
}

/// The destination port, if the packet is UDP without options or extension headers.
#[inline(always)]
fn udp_destination(ctx: &XdpContext) -> Option<u16> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const UDP: u8 = 17;
    let (protocol, port) = match u16::from_be(read(ctx, 12)?) {
        IPV4 => (read::<u8>(ctx, 23)?, 36),
        IPV6 => (read::<u8>(ctx, 20)?, 56),
        _ => return None,
    };
    if protocol != UDP {
        return None;
    }
    read(ctx, port).map(u16::from_be)
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are within the packet; `T` is an integer.
    Some(unsafe { ptr::read_unaligned(at as *const T) })
}
