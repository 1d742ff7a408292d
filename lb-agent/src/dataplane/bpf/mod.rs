//! The kernel: loads the programs, pins them, attaches them and fills their maps.
//!
//! Nothing else names aya. Maps and links are pinned, so that traffic is served while no agent
//! runs; a new agent adopts the maps and replaces the programs in place.

mod arena;
mod attach;
mod entries;
mod error;
pub mod kernel;
mod layout;
mod link;
mod load;
mod maps;
mod pins;
mod plan;
mod ranges;
mod run;
mod sockets;
mod verify;

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use aya::Ebpf;
use lb_common::{
    DatapathConfig,
    maps::{LAYOUT_VERSION, MapSpec},
};

pub use self::{
    attach::Synced,
    entries::pinned_entries,
    error::Error,
    layout::Difference,
    maps::{pinned_backends, pinned_counters, pinned_frontends},
    plan::{Attachment, Hook, XdpMode},
    run::ProgramRun,
    verify::{BrokenLink, Fault},
};
use self::{maps::Tables, pins::Pins};

/// How the programs are loaded and attached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins, on a BPF file system. Created with mode 0700 if it is missing.
    pub pin_dir: PathBuf,
    /// The cgroup whose processes' sockets are translated; `None` turns that off.
    pub cgroup: Option<PathBuf>,
    /// Where XDP runs on uplinks.
    pub xdp: XdpMode,
    /// All maps that are pinned (`lb_common::maps::SPECS`), with the capacities that they are to
    /// have.
    pub maps: Vec<MapSpec>,
    /// Constants of the programs.
    pub config: DatapathConfig,
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
    cgroup: Option<PathBuf>,
    /// Whether a link of the socket programs was found broken.
    sockets_broken: bool,
    /// Pinned links that run this process's programs.
    current: BTreeSet<Attachment>,
    /// When an XDP program was last removed.
    xdp_removed: Option<Instant>,
}

/// Loads `object` (an ELF file in memory), and puts the socket programs in place.
///
/// The maps of earlier runs are adopted, whatever they hold. Network devices keep the programs of
/// the earlier run until [`BpfDataplane::sync_attachments`].
///
/// # Errors
///
/// [`Error`]: for one [`Error::Incompatible`], before anything has been changed, if the pinned
/// maps are not what `options` ask for.
///
/// # Kernel
///
/// Linux 6.6, for tcx.
pub fn open(object: &[u8], options: &Options) -> Result<BpfDataplane, Error> {
    let pins = Pins::open(&options.pin_dir, LAYOUT_VERSION)?;
    let mut ebpf = load::load(object, options, &pins)?;
    let tables = Tables::take(&mut ebpf)?;
    sockets::sync(&mut ebpf, &pins, options.cgroup.as_deref())?;
    Ok(BpfDataplane {
        ebpf,
        tables,
        pins,
        xdp: options.xdp,
        cgroup: options.cgroup.clone(),
        sockets_broken: false,
        current: BTreeSet::new(),
        xdp_removed: None,
    })
}
