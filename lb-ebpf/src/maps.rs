//! The maps, named and sized as `lb_common::maps` says.

use aya_ebpf::{
    Global,
    bindings::bpf_fib_lookup,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    Backend, Counter, DatapathConfig, Flow, FlowKey, Frontend, FrontendKey, Interface, Pin, PinKey,
    Slot, maps,
    path::Scratch,
    socket::{SocketKey, SocketPeer},
};

#[btf_map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend, { maps::FRONTENDS_MAX }> =
    HashMap::new();
#[btf_map]
pub(crate) static SLOTS: Array<Slot, { maps::SLOTS_MAX }, { maps::MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { maps::BACKENDS_MAX }> = Array::new();
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, { maps::FLOWS_MAX }> = LruHashMap::new();
#[btf_map]
pub(crate) static PINS: LruHashMap<PinKey, Pin, { maps::PINS_MAX }> = LruHashMap::new();
#[btf_map]
pub(crate) static INTERFACES: HashMap<u32, Interface, { maps::INTERFACES_MAX }> = HashMap::new();
#[btf_map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketPeer, { maps::SOCKETS_MAX }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::ELEMENTS as usize }> = PerCpuArray::new();

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
