//! The kernel's tables, as `lb-common` wants to see them.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64},
};
use lb_common::{
    Addr, Affinity, AffinityKey, Backend, BackendRef, Counter, DatapathConfig, Flow, FlowKey,
    FragmentKey, Fragments, Frontend, FrontendKey, Hop, Interface, Pin, PinKey, Slot, SourceRange,
    Vip,
    addresses::Place,
    counter::{Hook, Outcome},
    flow::{CachedRoute, Mark, Marks, Now},
    packet::Parsed,
    path::{Device, FlowStore, FragmentStore, Route, Tables},
};

use crate::{
    index, known,
    maps::{
        self, ADDRESSES, AFFINITY, BACKENDS, CONFIG, COUNTERS, FLOWS, FRAGMENTS, INTERFACES,
        ROUTES, SERVICE_NETS, SLOTS, VIPS,
    },
    marks, opening, pins,
};

/// `EEXIST` as helpers return it.
const EEXIST: i32 = -17;

/// Where a program counts what it does.
pub(crate) trait AtHook {
    const HOOK: Hook;
}

/// One run of the program `P` on the context `C`, with the maps.
pub(crate) struct Run<C, P> {
    pub(crate) ctx: C,
    program: PhantomData<P>,
}

impl<C, P> Run<C, P> {
    #[inline(always)]
    pub(crate) fn new(ctx: C) -> Self {
        Self {
            ctx,
            program: PhantomData,
        }
    }
}

impl<C, P: AtHook> Tables for Run<C, P> {
    #[inline(always)]
    fn config(&self) -> DatapathConfig {
        CONFIG.load()
    }

    #[inline(always)]
    fn now(&self) -> Now {
        Now {
            // SAFETY: takes no argument and has no effect.
            tick: unsafe { bpf_jiffies64() },
            ticks_per_second: CONFIG.load().ticks_per_second,
        }
    }

    #[inline(always)]
    fn may_be(&self, place: Place) -> bool {
        ADDRESSES
            .get(place.index)
            .is_some_and(|bits| *bits & place.mask != 0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        index::frontend(key)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Backend> {
        BACKENDS.get(index).copied()
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        // SAFETY: copied at once; the agent changes an element only with the device's address.
        unsafe { INTERFACES.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn pin(&self, key: &PinKey) -> Option<Pin> {
        pins::kept(key)
    }

    #[inline(always)]
    fn opening_pin(&self, key: &PinKey) -> Option<Pin> {
        pins::opening(key)
    }

    #[inline(always)]
    fn insert_pin(&self, key: &PinKey, pin: &Pin) {
        pins::note(key, pin);
    }

    #[inline(always)]
    fn keep_pin(&self, key: &PinKey, pin: &Pin) {
        pins::keep(key, pin);
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: copied at once. An element recycled meanwhile binds a client to a backend of
        // another Service port for one connection at worst, and only if the two hold the same index.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        // Best effort: without it, the client gets whom its slot says.
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn is_in_source_ranges(&self, key: &SourceRange) -> bool {
        maps::is_in_source_ranges(key)
    }

    #[inline(always)]
    fn vip(&self, addr: &Addr) -> Option<Vip> {
        // SAFETY: copied at once; a single word.
        unsafe { VIPS.get(addr) }.copied()
    }

    #[inline(always)]
    fn service_net(&self, addr: Addr) -> u32 {
        SERVICE_NETS.get(0).map_or(0, |nets| nets.flags_of(addr))
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes no argument.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, outcome: Outcome) {
        let counter = Counter {
            hook: P::HOOK,
            outcome,
        };
        if let Some(counter) = COUNTERS.get_ptr_mut(counter.index()) {
            // SAFETY: the element is this CPU's own.
            unsafe { *counter = (*counter).wrapping_add(1) };
        }
    }
}

/// A record in the memory of its map.
#[inline(always)]
fn in_place<'a>(flow: Option<*mut Flow>) -> Option<&'a mut Flow> {
    // SAFETY: the pointer was checked, and map memory outlives the program's run. Programs
    // on other CPUs may write the same record: every field stands on its own and is written
    // whole but for the next hop's addresses, which two writers agree on. A record that another
    // CPU removes or promotes meanwhile may be a new flow's before this run ends: what is
    // written then is a note of one packet too many, which the flow's own next packets outdo.
    flow.map(|flow| unsafe { &mut *flow })
}

impl<C, P> FlowStore for Run<C, P> {
    #[inline(always)]
    fn look_up(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        let flow = FLOWS
            .get_ptr_mut(key)
            .or_else(|| opening::get(key))
            // Another CPU may have promoted it between the two.
            .or_else(|| FLOWS.get_ptr_mut(key));
        in_place(flow)
    }

    #[inline(always)]
    fn glance(&mut self, key: &FlowKey, is_new: bool) -> Option<&mut Flow> {
        let found = if is_new {
            opening::find_alone(key)
        } else {
            opening::ELSEWHERE
        };
        in_place(if found == opening::ELSEWHERE {
            FLOWS.get_ptr_mut(key).or_else(|| opening::get(key))
        } else {
            opening::at(found)
        })
    }

    #[inline(always)]
    fn insert_if_absent(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        let inserted = opening::insert(key, flow);
        // Whoever asks has found none, but another CPU may have promoted one since.
        if inserted == opening::Inserted::Unsure && FLOWS.get_ptr(key).is_some() {
            opening::remove(key);
            return false;
        }
        inserted != opening::Inserted::No
    }

    #[inline(always)]
    fn promote(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        known::note_flow(key);
        match FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)) {
            // In this order: whoever looks at both, and at this one again, finds the record.
            Ok(()) => {}
            // By another CPU, which has met the flow's next packet.
            Err(error) if error == EEXIST => {}
            Err(_) => return false,
        }
        opening::remove(key);
        true
    }

    #[inline(always)]
    fn displace(&mut self, key: &FlowKey) {
        // An absent record is what the caller wants; a promoted one stays.
        opening::remove(key);
    }

    #[inline(always)]
    fn remove(&mut self, key: &FlowKey) {
        // In this order: one that another CPU promotes meanwhile is found.
        let found = opening::get(key).or_else(|| {
            let may_be_kept = known::may_have_flow(key);
            if may_be_kept {
                FLOWS.get_ptr_mut(key)
            } else {
                None
            }
        });
        // An absent record is what the caller wants.
        let Some(flow) = in_place(found) else {
            return;
        };
        let client = (flow.client.by_words(), flow.client_port);
        opening::remove(key);
        let _ = FLOWS.remove(key);
        self.remove_marks(client);
    }

    #[inline(always)]
    fn marks(&self, index: u32) -> [u32; Marks::WAYS] {
        marks::get(index)
    }

    #[inline(always)]
    fn cached_route(&mut self, backend: BackendRef) -> Option<&mut CachedRoute> {
        let route = ROUTES.get_ptr_mut(CachedRoute::index(backend))?;
        // SAFETY: the pointer was checked, and map memory outlives the program's run. Programs on other CPUs may write it
        // at any time: whoever reads parts of two routes has no mark for that, and the seal is another one.
        Some(unsafe { &mut *route })
    }

    #[inline(always)]
    fn leave_mark(&self, mark: Mark) {
        marks::leave(mark);
    }

    #[inline(always)]
    fn remove_marks(&self, client: (Addr, u16)) {
        marks::remove(Mark::index_of(client, CONFIG.load().mark_buckets));
    }
}

impl<C, P> FragmentStore for Run<C, P> {
    #[inline(always)]
    fn fragments(&self, key: &FragmentKey) -> Option<Fragments> {
        // SAFETY: copied at once. An element recycled meanwhile gives a piece other ports: whoever
        // gets it cannot put it together with anything.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragments(&self, key: &FragmentKey, fragments: &Fragments) {
        // Best effort: without it, later pieces wait for a first one in vain.
        let _ = FRAGMENTS.insert(key, fragments, 0);
    }
}

impl<C: Device, P> Device for Run<C, P> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ctx.ifindex()
    }

    #[inline(always)]
    fn route(&self, parsed: &Parsed, dst: Addr) -> Route {
        self.ctx.route(parsed, dst)
    }

    #[inline(always)]
    fn can_send(&self, hop: &Hop) -> bool {
        self.ctx.can_send(hop)
    }

    #[inline(always)]
    fn too_big_for(&self, parsed: &Parsed, hop: &Hop) -> u32 {
        self.ctx.too_big_for(parsed, hop)
    }
}
