//! The program that drives the programs under test: `lb-ebpf/src/drive.rs`.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, Xdp},
};
use bytemuck::{Pod, Zeroable};
use lb_agent::object;
use nix::time::{ClockId, clock_gettime};

use crate::{
    mapped::Mapped,
    programs::{Program, set_program},
};

/// Flows that a driver knows at most.
pub(super) const FLOWS_MAX: usize = 1 << 20;

/// Flows that the reference programs remember at most: somewhat more than half a million.
const REFERENCE_MAX: u32 = 600_000;

/// Words of the frame that the driver restores.
const WORDS: usize = 16;

/// Length of every frame: the driver writes all of it.
pub(super) const FRAME_LEN: usize = size_of::<[u64; WORDS]>();

/// What the driver returns if its call has failed.
const FAILED: u32 = 0x6661_696c;

/// Programs that need no flow, and what the programs of the lab are called.
const TC_RETURN: &str = "lab_tc_return";

/// The driver's own, as it lies in map memory.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Drive {
    frame: [u64; WORDS],
    next: u32,
    mask: u32,
    first: u32,
    family: u32,
    target: u32,
    pad: u32,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw(Drive);

// SAFETY: `bytemuck::Pod` is all that is asked, and `Raw` has the layout of its only field.
unsafe impl aya::Pod for Raw {}

/// The ends of a flow as they stand in a packet, in wire order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Ends {
    /// The last word of the source address.
    pub(super) src: u32,
    /// The last word of the destination address.
    pub(super) dst: u32,
    /// Both ports.
    pub(super) ports: u32,
    /// Zero.
    pub(super) pad: u32,
}

/// Where a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Xdp,
    Tc,
}

impl Kind {
    pub(super) fn of(program: Program) -> Self {
        if program == Program::Xdp {
            Self::Xdp
        } else {
            Self::Tc
        }
    }
}

/// What the driver calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A program that only returns.
    Return = 0,
    /// One that puts metadata before the packet, and returns (XDP only).
    Mark = 1,
    /// The program under test.
    Tested = 2,
}

/// The frame and the flows that a run is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) frame: &'a [u8],
    /// 4, 6, or 0 where all packets are the same.
    pub(super) family: u32,
    /// How many flows there are, a power of two.
    pub(super) flows: usize,
}

/// One run: so many packets, beginning with a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) first: usize,
    pub(super) packets: usize,
}

/// What a run took, and the verdict on its last packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ran {
    pub(super) ns: f64,
    pub(super) verdict: u32,
}

/// The loaded driver; see the [module](self).
pub(super) struct Driver {
    ebpf: Ebpf,
    drive: Array<MapData, Raw>,
    flows: Mapped<Ends>,
    kind: Kind,
    ifindex: u32,
}

impl Driver {
    /// Loads it into the network namespace of the calling thread.
    pub(super) fn load() -> Result<Self> {
        Self::load_with(&[])
    }

    /// The same, with other maps of the lab as large as is said.
    pub(super) fn load_with(maps: &[(&'static str, u32)]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let usual = [
            ("DRIVE_FLOWS", FLOWS_MAX as u32),
            ("REF_FLOWS", REFERENCE_MAX),
        ];
        for (name, capacity) in usual.iter().chain(maps) {
            loader.map_max_entries(name, *capacity);
        }
        let stores_in_order = u32::from(cfg!(target_arch = "x86_64"));
        let mut ebpf = loader
            .override_global("STORES_IN_ORDER", &stores_in_order, true)
            .load(object::LAB)
            .context("load the driver's object")?;
        for name in ["lab_xdp_drive", "lab_xdp_return", "lab_xdp_mark"] {
            xdp(&mut ebpf, name)?.load().with_context(|| name)?;
        }
        for name in ["lab_tc_drive", TC_RETURN] {
            tc(&mut ebpf, name)?.load().with_context(|| name)?;
        }
        let drive = ebpf.take_map("DRIVE").context("no DRIVE")?;
        let flows = ebpf.map("DRIVE_FLOWS").context("no DRIVE_FLOWS")?;
        let Map::Array(flows) = flows else {
            return Err(anyhow!("DRIVE_FLOWS is no array"));
        };
        let flows = Mapped::new(flows.fd().as_fd(), FLOWS_MAX).context("map DRIVE_FLOWS")?;
        let mut driver = Self {
            drive: drive.try_into()?,
            flows,
            ebpf,
            kind: Kind::Xdp,
            ifindex: 0,
        };
        driver.put_own("lab_xdp_return", Target::Return)?;
        driver.put_own("lab_xdp_mark", Target::Mark)?;
        let returns = tc(&mut driver.ebpf, TC_RETURN)?.fd()?.as_fd();
        let returns = returns.try_clone_to_owned().context("keep a program")?;
        driver.put(Kind::Tc, Target::Return, returns.as_fd())?;
        Ok(driver)
    }

    /// Makes a program of the lab's own (XDP) a target.
    fn put_own(&mut self, name: &str, target: Target) -> Result<()> {
        let fd = xdp(&mut self.ebpf, name)?.fd()?.as_fd();
        let fd = fd.try_clone_to_owned().context("keep a program")?;
        self.put(Kind::Xdp, target, fd.as_fd())
    }

    fn put(&self, kind: Kind, target: Target, program: BorrowedFd<'_>) -> Result<()> {
        let name = match kind {
            Kind::Xdp => "DRIVEN_XDP",
            Kind::Tc => "DRIVEN_TC",
        };
        let Some(Map::ProgramArray(map)) = self.ebpf.map(name) else {
            return Err(anyhow!("{name} is no map of programs"));
        };
        // The kernel refuses programs that were loaded for another purpose.
        set_program(map.fd().as_fd(), target as u32, program)
            .with_context(|| format!("put a program into {name}"))
    }

    /// Makes a program the one under test, on a device.
    pub(super) fn test(&mut self, kind: Kind, program: BorrowedFd<'_>, ifindex: u32) -> Result<()> {
        (self.kind, self.ifindex) = (kind, ifindex);
        self.put(kind, Target::Tested, program)
    }

    /// Makes one of the lab's reference programs (XDP) the one under test.
    pub(super) fn test_own(&mut self, name: &str, ifindex: u32) -> Result<()> {
        let program = xdp(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        (self.kind, self.ifindex) = (Kind::Xdp, ifindex);
        self.put_own(name, Target::Tested)
    }

    /// A map of the lab's object.
    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no {name}"))
    }

    /// Where the flows are written, in the order in which they are visited.
    pub(super) fn flows_mut(&mut self) -> &mut [Ends] {
        self.flows.as_mut_slice()
    }

    /// Drives a target. A frame is written before each packet.
    pub(super) fn run(&mut self, target: Target, load: Load<'_>, batch: Batch) -> Result<Ran> {
        ensure!(load.frame.len() == FRAME_LEN, "a frame of another length");
        ensure!(load.flows.is_power_of_two() && load.flows <= FLOWS_MAX);
        let mut frame = [0; WORDS];
        bytemuck::cast_slice_mut(&mut frame).copy_from_slice(load.frame);
        let drive = Drive {
            frame,
            next: batch.first as u32,
            mask: load.flows as u32 - 1,
            // Of one flow, the number says which.
            first: if load.flows == 1 {
                batch.first as u32
            } else {
                0
            },
            family: load.family,
            target: target as u32,
            pad: 0,
        };
        self.drive.set(0, Raw(drive), 0).context("write DRIVE")?;
        let (kind, ifindex) = (self.kind, self.ifindex);
        let started = cpu_time()?;
        let verdict = match kind {
            Kind::Xdp => run_xdp(&mut self.ebpf, load.frame, ifindex, batch.packets),
            Kind::Tc => run_tc(&mut self.ebpf, load.frame, ifindex, batch.packets),
        }?;
        let took = cpu_time()?.saturating_sub(started);
        ensure!(verdict != FAILED, "the driver's call has failed");
        let ns = took.as_nanos() as f64 / batch.packets as f64;
        Ok(Ran { ns, verdict })
    }
}

/// What the calling thread has used of a processor: who else uses it does not count.
fn cpu_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?;
    Ok(time.into())
}

fn run_xdp(ebpf: &mut Ebpf, frame: &[u8], ifindex: u32, packets: usize) -> Result<u32> {
    // `struct xdp_md`.
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let result = xdp(ebpf, "lab_xdp_drive")?.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(bytemuck::bytes_of(&context)),
        repeat: packets as u32,
        ..TestRunOptions::default()
    });
    Ok(result.context("run the driver at XDP")?.return_value)
}

fn run_tc(ebpf: &mut Ebpf, frame: &[u8], ifindex: u32, packets: usize) -> Result<u32> {
    /// Where `struct __sk_buff` has it, in words.
    const IFINDEX: usize = 10;
    let mut context = [0_u32; 48];
    context[IFINDEX] = ifindex;
    let result = tc(ebpf, "lab_tc_drive")?.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(bytemuck::bytes_of(&context)),
        repeat: packets as u32,
        ..TestRunOptions::default()
    });
    Ok(result.context("run the driver at tc")?.return_value)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no {name}"))?;
    program
        .try_into()
        .with_context(|| format!("{name} is of another kind"))
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no {name}"))?;
    program
        .try_into()
        .with_context(|| format!("{name} is of another kind"))
}
