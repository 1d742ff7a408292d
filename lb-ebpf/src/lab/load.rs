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
    /// So many frames are answered, the first ones to arrive.
    answers: u64,
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
        let port = mixed as u16;
        // An answer is none of what is to arrive.
        let ports = u16::from(self.is_to_arrive(port)) * self.ports as u16;
        ((mixed >> 16) as u16, port.wrapping_add(ports).to_be())
    }

    #[inline(always)]
    fn is_to_arrive(&self, port: u16) -> bool {
        u32::from(port).wrapping_sub(self.port) < self.ports
    }
}

/// Ends the load's frames, and counts them; answers the first ones, and ends what becomes of these answers. Passes everything
/// else.
#[xdp(frags)]
fn lab_xdp_sink(ctx: XdpContext) -> u32 {
    sink(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn sink(ctx: &XdpContext) -> Option<u32> {
    let destination = udp_destination(ctx)?;
    // SAFETY: as in `load`.
    let state = unsafe { &mut *LOAD.get_ptr_mut(0)? };
    if !state.is_to_arrive(destination.port) {
        return (state.answers != 0).then_some(XDP_DROP);
    }
    state.arrived += 1;
    if state.arrived > state.answers {
        return Some(XDP_DROP);
    }
    answer(ctx, &destination)
}

/// Sends a frame back to whom it came from. A checksum is a sum, which does not change when two words of it do.
#[inline(always)]
fn answer(ctx: &XdpContext, destination: &Destination) -> Option<u32> {
    if destination.is_v4 {
        swap::<[u16; 2]>(ctx, 26, 30)?;
    } else {
        swap::<[u16; 8]>(ctx, 22, 38)?;
    }
    swap::<u16>(ctx, destination.offset - 2, destination.offset)?;
    swap::<[u16; 3]>(ctx, 0, 6)?;
    Some(XDP_TX)
}

#[inline(always)]
fn swap<T: Copy>(ctx: &XdpContext, one: usize, other: usize) -> Option<()> {
    let (first, second) = (read::<T>(ctx, one)?, read::<T>(ctx, other)?);
    let start = ctx.data();
    // SAFETY: both have been read there.
    unsafe {
        ptr::write_unaligned((start + one) as *mut T, second);
        ptr::write_unaligned((start + other) as *mut T, first);
    }
    Some(())
}

/// Sends back what is UDP, as it came: what no balancer can be faster than.
#[xdp]
fn lab_xdp_bounce(ctx: XdpContext) -> u32 {
    bounce(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn bounce(ctx: &XdpContext) -> Option<u32> {
    udp_destination(ctx)?;
    swap::<[u16; 3]>(ctx, 0, 6)?;
    Some(XDP_TX)
}

/// A destination port.
struct Destination {
    /// In host byte order.
    port: u16,
    /// Where it stands in the frame.
    offset: usize,
    is_v4: bool,
}

/// The destination port, if the packet is UDP without options or extension headers.
#[inline(always)]
fn udp_destination(ctx: &XdpContext) -> Option<Destination> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const UDP: u8 = 17;
    let (protocol, offset, is_v4) = match u16::from_be(read(ctx, 12)?) {
        IPV4 => (read::<u8>(ctx, 23)?, 36, true),
        IPV6 => (read::<u8>(ctx, 20)?, 56, false),
        _ => return None,
    };
    if protocol != UDP {
        return None;
    }
    let port = u16::from_be(read(ctx, offset)?);
    Some(Destination {
        port,
        offset,
        is_v4,
    })
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are within the packet; `T` is made of integers.
    Some(unsafe { ptr::read_unaligned(at as *const T) })
}
