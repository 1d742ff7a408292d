//! SYNs from nobody: a generator for live frames, and the sink of what they are answered with.

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::Array,
    helpers::generated::bpf_get_prandom_u32,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// A SYN: Ethernet, IPv4 and TCP headers without options, as words of two bytes on the wire.
const WORDS: usize = 27;
/// So often the generator waits for an answer; then those that are missing do not come.
const PATIENCE: u64 = 50_000;

/// Offsets in words.
const IP_CHECKSUM: usize = 12;
const SOURCE: usize = 13;
const PORT: usize = 17;
const TCP_CHECKSUM: usize = 25;

/// The SYN of `lab_xdp_flood`, with right checksums.
#[btf_map]
static FLOOD: Array<[u16; WORDS], 1> = Array::new();

/// What the two programs and the lab tell each other: `lab::flood::State`.
#[repr(C)]
struct State {
    /// SYNs sent.
    sent: u64,
    /// Answers that came.
    answered: u64,
    /// SYNs whose answers do not come.
    lost: u64,
    /// How often in a row the generator has waited.
    waits: u64,
    /// SYNs that may be under way at once.
    in_flight: u64,
}

#[btf_map]
static FLOOD_STATE: Array<State, 1> = Array::new();

/// Sends the SYN of `FLOOD` from a source by chance, for live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`):
/// of its source, it adds to the lower half of the address, and to the port.
///
/// Frames come back as others have left them, so that all of it is written every time.
#[xdp]
fn lab_xdp_flood(ctx: XdpContext) -> u32 {
    flood(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn flood(ctx: &XdpContext) -> Option<u32> {
    let state = FLOOD_STATE.get_ptr_mut(0)?;
    // SAFETY: there is one generator, and the sink writes to a number that is read only.
    let state = unsafe { &mut *state };
    if !state.may_send() {
        return Some(XDP_DROP);
    }
    let frame = FLOOD.get(0)?;
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<[u16; WORDS]>() > end {
        return None;
    }
    // SAFETY: takes no argument.
    let chance = unsafe { bpf_get_prandom_u32() };
    let (address, port) = (chance as u16, (chance >> 16) as u16);
    let out = start as *mut u16;
    for (at, word) in frame.iter().enumerate() {
        let word = if at == SOURCE + 1 {
            address
        } else if at == PORT {
            port
        } else if at == IP_CHECKSUM {
            // The template has zeros there, and the checksums of that.
            super::add(*word, address, 0)
        } else if at == TCP_CHECKSUM {
            super::add(*word, address, port)
        } else {
            *word
        };
        // SAFETY: the frame is as long as that.
        unsafe { ptr::write_unaligned(out.add(at), word) };
    }
    state.sent += 1;
    Some(XDP_TX)
}

impl State {
    #[inline(always)]
    fn may_send(&mut self) -> bool {
        // An answer may come after it was given up.
        let under_way = self
            .sent
            .wrapping_sub(self.lost)
            .wrapping_sub(self.answered);
        let may = under_way.cast_signed() < self.in_flight.cast_signed();
        if may {
            self.waits = 0;
        } else {
            self.waits += 1;
            if self.waits > PATIENCE {
                self.lost += under_way;
                self.waits = 0;
            }
        }
        may
    }
}

/// Ends answers to the SYNs, and counts them; passes everything else.
#[xdp(frags)]
fn lab_xdp_flood_sink(ctx: XdpContext) -> u32 {
    sink(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn sink(ctx: &XdpContext) -> Option<u32> {
    const TYPE: usize = 6;
    const DESTINATION: usize = 15;
    let frame = FLOOD.get(0)?;
    let start = ctx.data();
    if start + size_of::<[u16; WORDS]>() > ctx.data_end() {
        return None;
    }
    let word = |at: usize| {
        // SAFETY: the frame is as long as that.
        unsafe { ptr::read_unaligned((start as *const u16).add(at)) }
    };
    if word(TYPE) != frame[TYPE] || word(DESTINATION) != frame[SOURCE] {
        return None;
    }
    let state = FLOOD_STATE.get_ptr_mut(0)?;
    // SAFETY: the device has one queue, so that the sink runs on one CPU at a time; the generator only
    // reads this number.
    unsafe { (*state).answered += 1 };
    Some(XDP_DROP)
}
