//! The kernel: loads the programs, pins them, attaches them and fills their maps.
//!
//! Nothing else names aya. Maps and links are pinned, so that traffic is served while no agent
//! runs; a new agent adopts the maps and replaces the programs in place.

mod addresses;
mod arena;
mod attach;
mod batch;
mod carry;
mod chain;
mod cleanup;
mod drops;
mod elsewhere;
mod entries;
mod error;
mod failpoint;
mod features;
mod filter;
mod index;
pub mod kernel;
mod known;
mod layout;
mod link;
mod load;
mod lock;
mod maps;
mod opening;
mod opening_pins;
mod pins;
mod plan;
mod query;
mod ranges;
mod raw;
mod run;
mod sockets;
mod sweep;
mod syscall;
mod verify;
mod words;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use aya::Ebpf;
use lb_common::{
    DatapathConfig,
    maps::{LAYOUT_VERSION, MapSpec},
};

pub use self::{
    attach::Synced,
    carry::{Kept, Step},
    chain::Foreign,
    cleanup::{Leavings, cleanup, leavings},
    drops::{DropEvents, pinned_backend, pinned_drops, pinned_last_drops, retain_drops},
    elsewhere::{Elsewhere, leave},
    entries::{pinned_entries, pinned_sockets},
    error::Error,
    features::{Feature, features},
    known::Known,
    layout::Difference,
    lock::{Lock, lock},
    maps::{pinned_backends, pinned_counters, pinned_frontends},
    opening::Opening,
    opening_pins::OpeningPins,
    plan::{Attachment, Hook, TcMode, XdpMode},
    run::ProgramRun,
    sweep::{Sweeper, Swept},
    verify::{BrokenLink, Fault},
};
use self::{index::Index, known::Bits, maps::Tables, pins::Pins};

/// How the programs are loaded and attached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins, on a BPF file system. Created with mode 0700 if it is missing.
    pub pin_dir: PathBuf,
    /// The cgroup whose processes' sockets are translated; `None` turns that off.
    pub cgroup: Option<PathBuf>,
    /// Where XDP runs on uplinks.
    pub xdp: XdpMode,
    /// How programs get to devices beside XDP.
    pub tc: TcMode,
    /// All maps that are pinned (`lb_common::maps::SPECS`), with the capacities that they are to
    /// have.
    pub maps: Vec<MapSpec>,
    /// Constants of the programs.
    pub config: DatapathConfig,
    /// Whether maps of a layout that nobody here knows are removed.
    pub discards_unknown_layouts: bool,
    /// Where to end as if killed, while connections are carried over into new maps; for tests.
    pub stop_after: Option<Step>,
}

/// The programs in the kernel, and their maps.
///
/// Dropping it detaches nothing: what is pinned stays.
pub struct BpfDataplane {
    /// Owns the programs, and the maps that the agent does not write.
    ebpf: Ebpf,
    tables: Tables,
    pins: Pins,
    xdp: XdpMode,
    /// Whether programs are filters of a qdisc: there is no tcx, or it is not wanted.
    has_filters: bool,
    cgroup: Option<PathBuf>,
    /// Whether a link of the socket programs was found broken.
    sockets_broken: bool,
    /// Pinned links that run this process's programs.
    current: BTreeSet<Attachment>,
    /// When an XDP program was last removed.
    xdp_removed: Option<Instant>,
    /// Maps that are larger than `Options::maps` asks for.
    kept: Vec<Kept>,
}

/// Loads `object` (an ELF file in memory), and puts the socket programs in place.
///
/// The maps of earlier runs are adopted, whatever they hold, and network devices keep the programs
/// of the earlier run until [`BpfDataplane::sync_attachments`]. If `options` ask for other
/// capacities, or the maps are of another layout, what they hold is carried over into new ones, with
/// all links.
///
/// # Errors
///
/// [`Error`]: for one [`Error::Incompatible`], before anything has been changed, if the pinned
/// maps are none of a layout that is known.
///
/// # Kernel
///
/// Linux 6.1. Without tcx (Linux 6.6), programs are filters of a qdisc.
pub fn open(object: &[u8], options: &Options) -> Result<BpfDataplane, Error> {
    let carry::Opened {
        mut ebpf,
        pins,
        current,
        kept,
        has_sockets,
    } = carry::open(object, options)?;
    addresses::complete(&pins)?;
    let known = Bits::open(&pins)?;
    // An earlier version's programs, which may be there still, note nothing.
    known.distrust();
    let tables = Tables::take(
        &mut ebpf,
        Index::open(&pins)?,
        known,
        Opening::pinned(&pins)?,
    )?;
    if !has_sockets {
        sockets::sync(&mut ebpf, &pins, options.cgroup.as_deref())?;
    }
    Ok(BpfDataplane {
        ebpf,
        tables,
        pins,
        xdp: options.xdp,
        has_filters: load::has_filters(options.tc)?,
        cgroup: options.cgroup.clone(),
        sockets_broken: false,
        current,
        xdp_removed: None,
        kept,
    })
}

impl BpfDataplane {
    /// The maps that have kept their capacity, though a smaller one is wanted.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }
}

/// Whether a map of this layout is pinned below `directory`.
#[must_use]
pub fn is_pinned(directory: &Path, map: &str) -> bool {
    Pins::at(directory, LAYOUT_VERSION).map(map).exists()
}
