//! The maps, named and sized as `lb_common::maps` says.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::bpf_fib_lookup,
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie,
    },
    macros::btf_map,
};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, Counter, DatapathConfig, DropKey, Flow, FlowKey,
    FragmentKey, Fragments, Frontend, FrontendKey, Held, HeldKey, Interface, Pin, PinKey,
    ServiceNets, Slot, SourceRange, Vip, addresses,
    drops::Event,
    flow::{CachedRoute, Marks, opening, opening_pins},
    frontend::index::{Bucket, Listed},
    maps,
    path::Scratch,
    socket::{SocketKey, SocketPeer},
};

#[btf_map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend, { maps::FRONTENDS_MAX }> =
    HashMap::new();
#[btf_map]
pub(crate) static FRONTEND_INDEX: Array<
    Bucket,
    { maps::FRONTEND_INDEX_MAX },
    { maps::MMAPABLE as usize },
> = Array::new();
#[btf_map]
pub(crate) static FRONTEND_COPIES: Array<
    Listed,
    { maps::FRONTEND_COPIES_MAX },
    { maps::MMAPABLE as usize },
> = Array::new();
#[btf_map]
pub(crate) static SLOTS: Array<Slot, { maps::SLOTS_MAX }, { maps::MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { maps::BACKENDS_MAX }> = Array::new();
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow, { maps::FLOWS_MAX }> = HashMap::new();
#[btf_map]
pub(crate) static OPENING: Array<
    opening::Record,
    { maps::OPENING_MAX },
    { maps::MMAPABLE as usize },
> = Array::new();
#[btf_map]
pub(crate) static OPENING_WORDS: Array<
    opening::Line,
    { maps::OPENING_LINES },
    { maps::MMAPABLE as usize },
> = Array::new();
#[btf_map]
pub(crate) static ESTABLISHED: Array<Marks, { maps::ESTABLISHED_MAX }> = Array::new();
#[btf_map]
pub(crate) static KNOWN: Array<u64, { maps::KNOWN_MAX }, { maps::MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub(crate) static PINS: LruHashMap<PinKey, Pin, { maps::PINS_MAX }> = LruHashMap::new();
#[btf_map]
pub(crate) static OPENING_PINS: Array<
    opening_pins::Line,
    { maps::OPENING_PINS_MAX },
    { maps::MMAPABLE as usize },
> = Array::new();
#[btf_map]
pub(crate) static INTERFACES: HashMap<u32, Interface, { maps::INTERFACES_MAX }> = HashMap::new();
#[btf_map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketPeer, { maps::SOCKETS_MAX }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, { maps::AFFINITY_MAX }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static VIPS: HashMap<Addr, Vip, { maps::VIPS_MAX }> = HashMap::new();
#[btf_map]
pub(crate) static ADDRESSES: Array<u64, { addresses::ELEMENTS }, { maps::MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub(crate) static SERVICE_NETS: Array<ServiceNets, 1> = Array::new();

#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Fragments, { maps::FRAGMENTS_MAX }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static HELD: LruHashMap<HeldKey, Held, { maps::HELD_MAX }> = LruHashMap::new();

/// A key of `SOURCE_RANGES` without its length: the trie's own type has that.
#[repr(C)]
struct Prefix {
    service: u32,
    addr: Addr,
}

const _: () = assert!(size_of::<lpm_trie::Key<Prefix>>() == size_of::<SourceRange>());

#[btf_map]
static SOURCE_RANGES: LpmTrie<
    Prefix,
    u32,
    { maps::SOURCE_RANGES_MAX },
    { maps::NO_PREALLOC as usize },
> = LpmTrie::new();

/// Whether a network of `SOURCE_RANGES` contains the client of `key`.
#[inline(always)]
pub(crate) fn is_in_source_ranges(key: &SourceRange) -> bool {
    // SAFETY: both types are the same words in the same order, and the trie's key may lie anywhere.
    let key = unsafe { &*ptr::from_ref(key).cast::<lpm_trie::Key<Prefix>>() };
    SOURCE_RANGES.get(key).is_some()
}

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::ELEMENTS as usize }> = PerCpuArray::new();

/// A plain hash, not one that forgets: a count must not go back.
#[btf_map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, u64, { maps::DROPS_MAX }> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static LAST_DROPS: PerCpuArray<Event, { Counter::COLUMNS as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { maps::EVENTS_MAX }> = RingBuf::new();

/// The tick of the last sample by reason, and at `Outcome::Seen` of any reason.
#[btf_map]
pub(crate) static SAMPLED: PerCpuArray<u64, { Counter::COLUMNS as usize }> = PerCpuArray::new();

/// Working memory of the packet that this CPU is at. A packet program is not interrupted by another
/// one: all of them run with bottom halves off. The programs of sockets do not, and have none.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's working memory.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own, map memory outlives the program's run, and every
    // program takes it once.
    Some(unsafe { &mut *scratch })
}

/// A frame on its way into `HELD`, or one that has lent its skb to others.
#[btf_map]
static HELD_BUFFER: PerCpuArray<Held, 1> = PerCpuArray::new();

/// This CPU's buffer for a frame.
#[inline(always)]
pub(crate) fn held_buffer() -> Option<&'static mut Held> {
    let held = HELD_BUFFER.get_ptr_mut(0)?;
    // SAFETY: as for `scratch`. Programs that run while pieces are put in again hold nothing back:
    // the first piece of their packet has come.
    Some(unsafe { &mut *held })
}

/// How packets for backends elsewhere have left, for a second. Not pinned: other programs have other marks.
#[btf_map]
pub(crate) static ROUTES: Array<CachedRoute, { CachedRoute::ELEMENTS }> = Array::new();

/// A query to the routing table, all zero at first. Kept between packets because sixty-four
/// zero bytes on the stack become a call of `memset`.
#[btf_map]
static FIB_QUERY: PerCpuArray<bpf_fib_lookup, 1> = PerCpuArray::new();

/// This CPU's query.
#[inline(always)]
pub(crate) fn fib_query() -> Option<&'static mut bpf_fib_lookup> {
    let query = FIB_QUERY.get_ptr_mut(0)?;
    // SAFETY: as for `scratch`: a query is finished before the next one begins.
    Some(unsafe { &mut *query })
}

/// Set by the agent before the verifier sees the programs.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Global<DatapathConfig> = Global::new(DatapathConfig::DEFAULT);

/// Words of a side of `KNOWN`, which whoever loads the programs knows. By itself: all of `CONFIG` is read at once, and
/// lies on the stack.
#[unsafe(no_mangle)]
pub(crate) static KNOWN_WORDS: Global<u32> = Global::new(0);

/// Buckets of `OPENING`, and the seed by which flows are found there. By themselves, as `KNOWN_WORDS` is.
#[unsafe(no_mangle)]
pub(crate) static OPENING_BUCKETS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OPENING_SEED: Global<u64> = Global::new(0);
