//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, links::LinkError},
};

use super::layout::{Difference, list};

/// The kernel programs cannot be loaded, pinned or attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is on an ordinary file system.
    #[error(
        "{path} is not on a BPF file system: mount one, as in `mount -t bpf bpf /sys/fs/bpf`, \
         or mount the host's into the container"
    )]
    NotBpffs {
        /// The directory, or the closest one above it that exists.
        path: PathBuf,
    },
    /// A file or directory operation failed.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Somebody else can have put maps and links of his own there.
    #[error("pins below {path} cannot be trusted: {reason}")]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Pinned maps are not what this version needs.
    #[error(
        "the maps pinned in {path} do not fit: {}; start with the former settings, or remove \
         the directory, which ends the connections that are being translated",
        list(differences)
    )]
    Incompatible {
        /// Directory of the pins.
        path: PathBuf,
        /// All that does not fit.
        differences: Vec<Difference>,
    },
    /// The object's maps are not what the agent was built for.
    #[error("the object's maps do not fit this agent: {}", list(differences))]
    WrongObject {
        /// All that does not fit.
        differences: Vec<Difference>,
    },
    /// The object lacks a map or a program.
    #[error("the object has no {kind} {name}")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object was refused.
    #[error("load the object of the kernel programs")]
    Load(#[source] EbpfError),
    /// A program was refused.
    #[error("load the program {program}")]
    Program {
        /// Name of the program.
        program: String,
        /// Why; with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be run on a packet in memory.
    #[error("run the program {program} on a packet")]
    Run {
        /// Name of the program.
        program: String,
        /// Why it failed.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel has no tcx.
    #[error("attaching to network devices needs Linux 6.6 (tcx) or later")]
    NoTcx,
    /// A program could not be attached.
    #[error("attach {program} to {target}")]
    Attach {
        /// Name of the program.
        program: String,
        /// Device or cgroup.
        target: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pinned link could not be opened, replaced or pinned.
    #[error("{action} the link {path}")]
    Link {
        /// What was being done.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be opened or read.
    #[error("{action} the map {map}")]
    Map {
        /// What was being done.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: Box<MapError>,
    },
    /// The arena could not be mapped into memory.
    #[error("map SLOTS into memory")]
    Mmap(#[source] io::Error),
}

/// The number of the system error that `error` stems from.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}

/// Whether a pin is simply not there.
pub(super) fn is_absent(error: &(dyn std::error::Error + 'static)) -> bool {
    errno(error) == Some(libc::ENOENT)
}

/// Why a link could not be created, replaced or pinned.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkFailure {
    #[error(transparent)]
    Unloaded(#[from] Error),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error("only a netlink attachment was possible, which would end with this process")]
    Netlink,
    #[error("the device changed its name meanwhile")]
    Renamed,
    #[error("native mode: {native}; generic mode")]
    Xdp {
        native: Box<LinkFailure>,
        #[source]
        generic: Box<LinkFailure>,
    },
}
