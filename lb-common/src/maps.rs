//! Names, kinds and capacities of the maps: what the agent expects of an object, and of a pin.

use crate::{
    Addr, Affinity, AffinityKey, Backend, Counter, DropKey, Flow, FlowKey, FragmentKey, Fragments,
    Frontend, FrontendKey, Held, HeldKey, Interface, Pin, PinKey, ServiceNets, Slot, SourceRange,
    Vip, addresses,
    drops::Event,
    flow::{Marks, opening, opening_pins},
    frontend::index::{Bucket, Listed},
    known,
    socket::{SocketKey, SocketPeer},
};

/// Version of the layout; part of the pin directory's name.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "lab-layout") {
    LAB_LAYOUT_VERSION
} else {
    SHIPPED_LAYOUT_VERSION
};

/// Version of the layout that is shipped. Raise it with any change of a key, a value or their
/// meaning, and keep the former layout in `lb-agent/src/dataplane/bpf/layout`.
pub const SHIPPED_LAYOUT_VERSION: u32 = 5;

/// Version of the layout that only a test's build has; far from any that will be shipped.
pub const LAB_LAYOUT_VERSION: u32 = 1_000_000;

/// Default capacity of `FRONTENDS`.
pub const FRONTENDS_MAX: usize = 65_536;
/// Default capacity of `FRONTEND_INDEX`: two frontends for each bucket.
pub const FRONTEND_INDEX_MAX: usize = index_buckets(FRONTENDS_MAX as u32) as usize;
/// Default capacity of `FRONTEND_COPIES`.
pub const FRONTEND_COPIES_MAX: usize = index_copies(FRONTENDS_MAX as u32) as usize;
/// Default capacity of `BACKENDS`.
pub const BACKENDS_MAX: usize = 131_072;
/// Default capacity of the arena `SLOTS`: 32 MiB.
pub const SLOTS_MAX: usize = 1 << 22;
/// Default capacity of `FLOWS`.
pub const FLOWS_MAX: usize = 524_288;
/// Default capacity of `OPENING`: 22 MB.
pub const OPENING_MAX: usize = 131_072;
/// Default capacity of `OPENING_WORDS`: 1 MB.
pub const OPENING_LINES: usize = opening::lines(OPENING_MAX as u32) as usize;
/// Default capacity of `ESTABLISHED`: 4 MB.
pub const ESTABLISHED_MAX: usize = mark_buckets(FLOWS_MAX as u32) as usize;
/// Default capacity of `KNOWN`: a quarter of a megabyte.
pub const KNOWN_MAX: usize = known::elements(FLOWS_MAX as u32) as usize;
/// Default capacity of `PINS`.
pub const PINS_MAX: usize = 65_536;
/// Default capacity of `OPENING_PINS`: 4 MB.
pub const OPENING_PINS_MAX: usize =
    opening_pins::elements(opening_pins::buckets(OPENING_MAX as u32)) as usize;
/// Default capacity of `SOCKETS`.
pub const SOCKETS_MAX: usize = 65_536;
/// Default capacity of `AFFINITY`.
pub const AFFINITY_MAX: usize = 65_536;
/// Default capacity of `SOURCE_RANGES`.
pub const SOURCE_RANGES_MAX: usize = 65_536;
/// Default capacity of `VIPS`.
pub const VIPS_MAX: usize = 65_536;
/// Capacity of `FRAGMENTS`.
pub const FRAGMENTS_MAX: usize = 8192;
/// Capacity of `HELD`: 5 MB.
pub const HELD_MAX: usize = 512;
/// Capacity of `INTERFACES`.
pub const INTERFACES_MAX: usize = 4096;

/// Capacity of `DROPS`.
pub const DROPS_MAX: usize = 4096;
/// Bytes of the ring buffer `EVENTS`: about 3,600 events.
pub const EVENTS_MAX: usize = 1 << 18;

/// How many buckets `FRONTEND_INDEX` has for so many frontends.
#[must_use]
pub const fn index_buckets(frontends: u32) -> u32 {
    frontends.div_ceil(2)
}

/// How many elements `FRONTEND_COPIES` has for so many frontends: a quarter more, since one that has been
/// exchanged rests for a second.
#[must_use]
pub const fn index_copies(frontends: u32) -> u32 {
    frontends + frontends.div_ceil(4)
}

/// How many elements `ESTABLISHED` has for so many flows: two marks' room for each, since where all of a client's
/// are taken, the connections displace each other's.
#[must_use]
pub const fn mark_buckets(flows: u32) -> u32 {
    flows.div_ceil(Marks::WAYS as u32 / 2)
}

/// Address, port, protocol → Service port and its tables.
pub const FRONTENDS: &str = "FRONTENDS";
/// Where the copies of frontends are.
pub const FRONTEND_INDEX: &str = "FRONTEND_INDEX";
/// Copies of what `FRONTENDS` has.
pub const FRONTEND_COPIES: &str = "FRONTEND_COPIES";
/// The arena of look-up tables.
pub const SLOTS: &str = "SLOTS";
/// Index → backend.
pub const BACKENDS: &str = "BACKENDS";
/// One record a connection, once its client has gone on after an answer: nothing displaces it.
pub const FLOWS: &str = "FLOWS";
/// One record a connection before that: a flood displaces those that are used least.
pub const OPENING: &str = "OPENING";
/// Whose records those are.
pub const OPENING_WORDS: &str = "OPENING_WORDS";
/// Marks of connections whose clients' next segments need no record.
pub const ESTABLISHED: &str = "ESTABLISHED";
/// Which keys `FLOWS` and `PINS` can have.
pub const KNOWN: &str = "KNOWN";
/// Flows whose backend the tables do not say.
pub const PINS: &str = "PINS";
/// The same, of connections that no client has confirmed: a flood displaces those alone.
pub const OPENING_PINS: &str = "OPENING_PINS";
/// Devices that packets leave by with the node's own address, and pods' veths.
pub const INTERFACES: &str = "INTERFACES";
/// Sockets of the node that were given a backend.
pub const SOCKETS: &str = "SOCKETS";
/// Clients that stay with a backend.
pub const AFFINITY: &str = "AFFINITY";
/// Networks whose clients a Service port serves.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// Addresses of Services, whatever the port.
pub const VIPS: &str = "VIPS";
/// Which addresses `FRONTENDS` and `BACKENDS` can know.
pub const ADDRESSES: &str = "ADDRESSES";
/// Where cluster addresses can be.
pub const SERVICE_NETS: &str = "SERVICE_NETS";
/// Ports of packets in pieces.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Pieces that wait for the first one of their packet.
pub const HELD: &str = "HELD";
/// Per-CPU counters.
pub const COUNTERS: &str = "COUNTERS";
/// Per-CPU counters of dropped packets.
pub const DROPS: &str = "DROPS";
/// The last dropped packet of each reason and CPU.
pub const LAST_DROPS: &str = "LAST_DROPS";
/// A few of the dropped packets, as they come.
pub const EVENTS: &str = "EVENTS";

/// Kind of a map, by its number in `enum bpf_map_type`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_HASH`
    PerCpuHash = 5,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_RINGBUF`; it has neither keys nor values.
    RingBuf = 27,
}

/// `BPF_F_MMAPABLE`: user space may map an array into its memory (Linux 5.5).
pub const MMAPABLE: u32 = 1 << 10;

/// `BPF_F_NO_PREALLOC`: elements take memory as they come; a trie must have it.
pub const NO_PREALLOC: u32 = 1;

/// What a map must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name in the object, and of the pin.
    pub name: &'static str,
    /// Number of its kind in `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity; in [`SPECS`] the one that it has if no flag says otherwise.
    pub max_entries: u32,
    /// `BPF_F_…`
    pub flags: u32,
}

impl MapSpec {
    /// A map of these keys and values, without flags.
    #[must_use]
    pub const fn new<K, V>(name: &'static str, kind: Kind, max_entries: usize) -> Self {
        Self {
            name,
            kind: kind as u32,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries: max_entries as u32,
            flags: 0,
        }
    }

    /// Whether its elements are records that `OPENING_WORDS` says the owners of: so it is since the fourth layout.
    #[must_use]
    pub fn has_words(&self) -> bool {
        self.name == OPENING && self.kind == Kind::Array as u32
    }

    /// Whether its elements are buckets of pins, found by a hash: so it is since the fifth layout.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        self.name == OPENING_PINS && self.kind == Kind::Array as u32
    }

    const fn with(self, flag: u32) -> Self {
        Self {
            flags: self.flags | flag,
            ..self
        }
    }
}

/// Every map of the object.
pub const SPECS: [MapSpec; 25] = [
    MapSpec::new::<FrontendKey, Frontend>(FRONTENDS, Kind::Hash, FRONTENDS_MAX),
    MapSpec::new::<u32, Slot>(SLOTS, Kind::Array, SLOTS_MAX).with(MMAPABLE),
    MapSpec::new::<u32, Backend>(BACKENDS, Kind::Array, BACKENDS_MAX),
    MapSpec::new::<u32, Bucket>(FRONTEND_INDEX, Kind::Array, FRONTEND_INDEX_MAX).with(MMAPABLE),
    MapSpec::new::<u32, Listed>(FRONTEND_COPIES, Kind::Array, FRONTEND_COPIES_MAX).with(MMAPABLE),
    MapSpec::new::<FlowKey, Flow>(FLOWS, Kind::Hash, FLOWS_MAX),
    MapSpec::new::<u32, opening::Record>(OPENING, Kind::Array, OPENING_MAX).with(MMAPABLE),
    MapSpec::new::<u32, opening::Line>(OPENING_WORDS, Kind::Array, OPENING_LINES).with(MMAPABLE),
    MapSpec::new::<u32, Marks>(ESTABLISHED, Kind::Array, ESTABLISHED_MAX),
    MapSpec::new::<u32, u64>(KNOWN, Kind::Array, KNOWN_MAX).with(MMAPABLE),
    MapSpec::new::<PinKey, Pin>(PINS, Kind::LruHash, PINS_MAX),
    MapSpec::new::<u32, opening_pins::Line>(OPENING_PINS, Kind::Array, OPENING_PINS_MAX)
        .with(MMAPABLE),
    MapSpec::new::<u32, Interface>(INTERFACES, Kind::Hash, INTERFACES_MAX),
    MapSpec::new::<SocketKey, SocketPeer>(SOCKETS, Kind::LruHash, SOCKETS_MAX),
    MapSpec::new::<AffinityKey, Affinity>(AFFINITY, Kind::LruHash, AFFINITY_MAX),
    MapSpec::new::<SourceRange, u32>(SOURCE_RANGES, Kind::LpmTrie, SOURCE_RANGES_MAX)
        .with(NO_PREALLOC),
    MapSpec::new::<Addr, Vip>(VIPS, Kind::Hash, VIPS_MAX),
    MapSpec::new::<u32, u64>(ADDRESSES, Kind::Array, addresses::ELEMENTS).with(MMAPABLE),
    MapSpec::new::<u32, ServiceNets>(SERVICE_NETS, Kind::Array, 1),
    MapSpec::new::<FragmentKey, Fragments>(FRAGMENTS, Kind::LruHash, FRAGMENTS_MAX),
    MapSpec::new::<HeldKey, Held>(HELD, Kind::LruHash, HELD_MAX),
    MapSpec::new::<u32, u64>(COUNTERS, Kind::PerCpuArray, Counter::ELEMENTS as usize),
    MapSpec::new::<DropKey, u64>(DROPS, Kind::PerCpuHash, DROPS_MAX),
    MapSpec::new::<u32, Event>(LAST_DROPS, Kind::PerCpuArray, Counter::COLUMNS as usize),
    MapSpec::new::<(), ()>(EVENTS, Kind::RingBuf, EVENTS_MAX),
];
