//! The programs and the maps that they write, by bpf(2) itself: buffers are kept, and nothing is
//! looked up by name. For those who run a million packets.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use bytemuck::{Pod, Zeroable};
use lb_agent::{
    dataplane::{
        Dataplane as _,
        bpf::{Opening, OpeningPins},
    },
    reconcile::Programmed,
};
use lb_common::{
    Affinity, AffinityKey, Counter, Flow, FlowKey, FragmentKey, Fragments, Pin, PinKey, Slot, maps,
};

use super::{Bench, Frame, Program, Verdict, bench::FINISHED, packet::ends};

/// Commands of bpf(2).
pub(super) mod command {
    pub(in crate::programs) const CREATE: u32 = 0;
    pub(in crate::programs) const LOOKUP: u32 = 1;
    pub(in crate::programs) const UPDATE: u32 = 2;
    pub(super) const TEST_RUN: u32 = 10;
    pub(in crate::programs) const LOOKUP_BATCH: u32 = 24;
    pub(in crate::programs) const LOOKUP_AND_DELETE_BATCH: u32 = 25;
}

/// The member `test` of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct TestAttributes {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// The member for single elements of maps.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(super) struct ElementAttributes {
    pub(super) map: u32,
    pub(super) pad: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// The member `batch`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct BatchAttributes {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// `struct __sk_buff`; what may not be chosen is zero.
#[repr(C)]
#[derive(Clone, Copy, Zeroable, Pod)]
struct SkbContext {
    before: [u32; 2],
    mark: u32,
    then: [u32; 6],
    ingress_ifindex: u32,
    ifindex: u32,
    between: [u32; 29],
    wire_len: u32,
    gso_segs: u32,
    socket: [u32; 2],
    gso_size: u32,
    after: [u32; 3],
}

const _: () = assert!(std::mem::offset_of!(SkbContext, wire_len) == 160);
const _: () = assert!(std::mem::offset_of!(SkbContext, gso_size) == 176);
const _: () = assert!(size_of::<SkbContext>() == 192);

/// Longest frame that comes out of a program.
const FRAME_MAX: usize = 8192;

/// Elements that are read at once.
const BATCH: usize = 4096;

/// The programs and maps of a [`Bench`].
pub struct Kernel {
    programs: [RawFd; 6],
    devices: [u32; 6],
    flows: RawFd,
    opening: Arc<Opening>,
    pub(super) pins: RawFd,
    pub(super) opening_pins: Arc<OpeningPins>,
    affinity: RawFd,
    pieces: RawFd,
    counters: RawFd,
    out: Vec<u8>,
    out_len: usize,
    metadata_len: usize,
    cpus: usize,
}

/// The maps that the programs write.
pub(super) fn open_maps(pin_dir: &Path) -> Result<Vec<(&'static str, OwnedFd)>> {
    let open = |name: &'static str| {
        let path = pin_dir.join(format!("v{}/maps/{name}", maps::LAYOUT_VERSION));
        let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let fd = map.fd().as_fd().try_clone_to_owned();
        Ok((name, fd.with_context(|| format!("keep {name}"))?))
    };
    let names = [
        maps::FLOWS,
        maps::PINS,
        maps::AFFINITY,
        maps::FRAGMENTS,
        maps::COUNTERS,
    ];
    names.into_iter().map(open).collect()
}

impl Bench {
    /// Its programs and maps, for many packets.
    ///
    /// # Errors
    ///
    /// If one of them is missing.
    pub fn kernel(&mut self) -> Result<Kernel> {
        let map = |name| {
            let found = self.pinned.iter().find(|(pinned, _)| *pinned == name);
            let (_, fd) = found.with_context(|| format!("no {name}"))?;
            Ok::<_, anyhow::Error>(fd.as_raw_fd())
        };
        let (flows, pins) = (map(maps::FLOWS)?, map(maps::PINS)?);
        let (affinity, counters) = (map(maps::AFFINITY)?, map(maps::COUNTERS)?);
        let dataplane = self.reconciler.dataplane();
        let mut programs = [0; 6];
        for (fd, program) in programs.iter_mut().zip(Program::ALL) {
            let loaded = dataplane.program_fd(program.name());
            *fd = loaded.context("a program is not loaded")?.as_raw_fd();
        }
        Ok(Kernel {
            programs,
            devices: Program::ALL.map(|program| program.device(&self.devices)),
            flows,
            opening: self.store.opening(),
            pins,
            opening_pins: self.store.opening_pins(),
            affinity,
            pieces: map(maps::FRAGMENTS)?,
            counters,
            out: vec![0; FRAME_MAX],
            out_len: 0,
            metadata_len: 0,
            cpus: possible_cpus()?,
        })
    }

    /// What is programmed.
    #[must_use]
    pub fn programmed(&self) -> &Programmed {
        self.reconciler.programmed()
    }

    /// The arena of tables.
    pub fn slots(&mut self) -> &[Slot] {
        self.reconciler.dataplane().slots()
    }

    /// Interface indices: of the uplink, the pods' veth, and the tunnel.
    #[must_use]
    pub fn devices(&self) -> [u32; 3] {
        [self.devices.uplink, self.devices.pod, self.devices.tunnel]
    }
}

impl Kernel {
    /// Runs a program on a frame; [`out`](Self::out) and [`is_marked`](Self::is_marked) say what
    /// it became.
    ///
    /// # Errors
    ///
    /// If the kernel does not run it.
    pub fn run(&mut self, program: Program, frame: Frame<'_>) -> io::Result<Verdict> {
        let index = Program::ALL.iter().position(|other| *other == program);
        let index = index.unwrap_or_default();
        if program == Program::Xdp {
            self.run_xdp(index, frame)
        } else {
            self.run_tcx(program, index, frame)
        }
    }

    fn run_xdp(&mut self, index: usize, frame: Frame<'_>) -> io::Result<Verdict> {
        let mut context = XdpContext {
            data_end: frame.bytes.len() as u32,
            ingress_ifindex: self.devices[index],
            ..XdpContext::default()
        };
        let mut attributes = self.attributes(index, frame.bytes);
        attributes.context_in = address(&raw const context);
        attributes.context_out = address(&raw const context);
        attributes.context_size_in = size_of::<XdpContext>() as u32;
        attributes.context_size_out = size_of::<XdpContext>() as u32;
        test_run(&mut attributes)?;
        // The metadata comes first; the frame begins where the context says.
        self.metadata_len = std::hint::black_box(&mut context).data as usize;
        self.out_len = attributes.data_size_out as usize;
        Ok(Verdict::new(Program::Xdp, attributes.returned))
    }

    fn run_tcx(&mut self, program: Program, index: usize, frame: Frame<'_>) -> io::Result<Verdict> {
        /// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`: the kernel compares its sum with the packet's
        /// afterwards.
        const CHECKSUM_COMPLETE: u32 = 1 << 2;
        let context = SkbContext {
            ingress_ifindex: if frame.returns {
                self.devices[index]
            } else {
                0
            },
            ifindex: self.devices[index],
            gso_size: frame.gso_size,
            mark: frame.mark,
            ..SkbContext::zeroed()
        };
        let mut attributes = self.attributes(index, frame.bytes);
        attributes.context_in = address(&raw const context);
        attributes.context_size_in = size_of::<SkbContext>() as u32;
        attributes.flags = if frame.summed { CHECKSUM_COMPLETE } else { 0 };
        test_run(&mut attributes)?;
        self.metadata_len = 0;
        self.out_len = attributes.data_size_out as usize;
        Ok(Verdict::new(program, attributes.returned))
    }

    fn attributes(&mut self, index: usize, frame: &[u8]) -> TestAttributes {
        TestAttributes {
            program: self.programs[index] as u32,
            data_in: address(frame.as_ptr()),
            data_size_in: frame.len() as u32,
            data_out: address(self.out.as_mut_ptr()),
            data_size_out: self.out.len() as u32,
            repeat: 1,
            ..TestAttributes::default()
        }
    }

    /// The frame as the last program left it.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        self.out.get(self.metadata_len..self.out_len).unwrap_or(&[])
    }

    /// Source and destination of that frame.
    #[must_use]
    pub fn ends(&self) -> [SocketAddr; 2] {
        ends(self.out())
    }

    /// Whether the last frame carries XDP's mark for tc.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.out[..self.metadata_len] == FINISHED.to_ne_bytes()
    }

    /// A connection's record.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        look_up(self.flows, key).or_else(|| self.opening.flow(key))
    }

    /// A pin.
    #[must_use]
    pub fn pin(&self, key: &PinKey) -> Option<Pin> {
        look_up(self.pins, key).or_else(|| self.opening_pins.pin(key))
    }

    /// Takes all connections out of `FLOWS`.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_flows(&self) -> io::Result<Vec<(FlowKey, Flow)>> {
        batch(command::LOOKUP_AND_DELETE_BATCH, self.flows)
    }

    /// Takes all connections out of `OPENING`.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_opening(&self) -> io::Result<Vec<(FlowKey, Flow)>> {
        let records = self.opening.records();
        self.opening.clear();
        Ok(records)
    }

    /// Takes all clients' affinities out.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_affinity(&self) -> io::Result<Vec<(AffinityKey, Affinity)>> {
        batch(command::LOOKUP_AND_DELETE_BATCH, self.affinity)
    }

    /// Takes all that is known of packets in pieces out.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_pieces(&self) -> io::Result<Vec<(FragmentKey, Fragments)>> {
        batch(command::LOOKUP_AND_DELETE_BATCH, self.pieces)
    }

    /// A counter, of all CPUs together.
    #[must_use]
    pub fn counter(&self, index: u32) -> u64 {
        let mut values = vec![0_u64; self.cpus];
        let mut attributes = ElementAttributes {
            map: self.counters as u32,
            key: address(&raw const index),
            value: address(values.as_mut_ptr()),
            ..ElementAttributes::default()
        };
        match bpf(command::LOOKUP, &mut attributes) {
            Ok(()) => values.iter().sum(),
            Err(_) => 0,
        }
    }

    /// The counters, of all CPUs together.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> io::Result<Vec<u64>> {
        let elements = Counter::ELEMENTS as usize;
        let mut values = vec![0_u64; elements * self.cpus];
        let (mut keys, mut to) = (vec![0_u32; elements], 0_u64);
        let mut attributes = BatchAttributes {
            to: address(&raw mut to),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: elements as u32,
            map: self.counters as u32,
            ..BatchAttributes::default()
        };
        match bpf(command::LOOKUP_BATCH, &mut attributes) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        let mut sums = vec![0; elements];
        for (key, values) in keys.iter().zip(values.chunks(self.cpus)) {
            sums[*key as usize] = values.iter().sum();
        }
        Ok(sums)
    }
}

fn test_run(attributes: &mut TestAttributes) -> io::Result<()> {
    bpf(command::TEST_RUN, attributes)
}

fn look_up<K: Pod, V: Pod>(map: RawFd, key: &K) -> Option<V> {
    let mut value = V::zeroed();
    let mut attributes = ElementAttributes {
        map: map as u32,
        key: address(key),
        value: address(&raw mut value),
        ..ElementAttributes::default()
    };
    bpf(command::LOOKUP, &mut attributes).ok()?;
    Some(value)
}

/// Reads all elements of a hash map, or takes them out.
pub(super) fn batch<K: Pod, V: Pod>(command: u32, map: RawFd) -> io::Result<Vec<(K, V)>> {
    let (mut keys, mut values) = (vec![K::zeroed(); BATCH], vec![V::zeroed(); BATCH]);
    let (mut at, mut is_first, mut all) = (0_u64, true, Vec::new());
    loop {
        let mut attributes = BatchAttributes {
            from: if is_first { 0 } else { address(&raw const at) },
            to: address(&raw mut at),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: BATCH as u32,
            map: map as u32,
            ..BatchAttributes::default()
        };
        let done = bpf(command, &mut attributes);
        let count = attributes.count as usize;
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        is_first = false;
        match done {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn address<T>(value: *const T) -> u64 {
    value as u64
}

pub(super) fn bpf<A: Pod>(command: u32, attributes: &mut A) -> io::Result<()> {
    call(command, attributes).map(|_| ())
}

/// The same for commands that return a number.
pub(super) fn call<A: Pod>(command: u32, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: every attribute names memory of the size that the kernel reads or writes there, which
    // outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done as i32)
    }
}

/// How many CPUs there can be: a per-CPU map has an element for each.
fn possible_cpus() -> Result<usize> {
    let count = aya::util::nr_cpus();
    count.map_err(|(what, error)| anyhow::Error::from(error).context(what))
}
