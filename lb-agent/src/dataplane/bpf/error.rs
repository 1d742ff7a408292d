//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, links::LinkError, tc::TcError},
};

use super::{
    carry::Step,
    layout::{Difference, list},
};

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
    /// Another process works with these pins.
    #[error(
        "another lb-agent serves with the pins below {path}{}: end it first, or give this one \
         another --pin-dir",
        holder.map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The process, if it can be told.
        holder: Option<u32>,
    },
    /// Pinned maps are not what this version needs.
    #[error(
        "the maps pinned in {path} do not fit, though they are of the same layout: {}; run the build \
         that made them, or remove the directory, which ends the connections that are being translated",
        list(differences)
    )]
    Incompatible {
        /// Directory of the pins.
        path: PathBuf,
        /// All that does not fit.
        differences: Vec<Difference>,
    },
    /// The maps are of a layout that this version cannot read.
    #[error(
        "{path} has the maps of layout {version}, which this version cannot take over: run the \
         version that made them, or one between the two; or say --discard-unknown-layouts to start \
         anew, which ends the connections that are being translated"
    )]
    UnknownLayout {
        /// Their directory.
        path: PathBuf,
        /// Version of their layout.
        version: u32,
    },
    /// Elements could not be carried over into a new map.
    #[error("carry the elements of {map} over into a new map")]
    Carry {
        /// Name of the map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It was asked to end here.
    #[error("stopped after the step {0:?}, as asked")]
    Stopped(Step),
    /// The object's maps are not what the agent was built for.
    #[error("the object's maps do not fit this agent: {}", list(differences))]
    WrongObject {
        /// All that does not fit.
        differences: Vec<Difference>,
    },
    /// The ring buffer of events cannot be waited for.
    #[error("wait for events of the programs")]
    Events(#[source] io::Error),
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
    /// A program was refused, as are all that read packets at places that depend on what is in them.
    #[error(
        "the program {program} needs CAP_PERFMON: without it the kernel lets no program read a packet \
         behind headers of any length (it might be read ahead of the check)"
    )]
    NoPerfmon {
        /// Name of the program.
        program: String,
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
    /// The kernel does not say what it has.
    #[error("ask the kernel what it has (this takes CAP_BPF)")]
    Kernel(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel has not all that the programs need.
    #[error(
        "this kernel lacks {feature}: nothing is served without (`lb-agent features` shows what it has); use Linux 6.1 or later"
    )]
    Lacking {
        /// What it lacks.
        feature: &'static str,
    },
    /// The kernel has no tcx.
    #[error("this kernel has no tcx (Linux 6.6): `--tc auto` attaches to network devices without")]
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
    /// An array could not be mapped into memory.
    #[error("map {map} into memory")]
    Mmap {
        /// Name of the map.
        map: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What the maps of an earlier run hold cannot be read.
    #[error("read the pinned maps")]
    Adopt(#[from] crate::dataplane::Error),
}

/// The number of the system error that `error` stems from.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}

impl Error {
    /// A map of which the kernel refuses something.
    pub(super) fn of_map(action: &'static str, map: &'static str, source: io::Error) -> Self {
        Self::Map {
            action,
            map,
            source: Box::new(MapError::IoError(source)),
        }
    }
}

/// Whether a pin is simply not there.
pub(super) fn is_absent(error: &(dyn std::error::Error + 'static)) -> bool {
    errno(error) == Some(libc::ENOENT)
}

/// Why a link, or a filter, could not be created, replaced or pinned.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkFailure {
    #[error(transparent)]
    Unloaded(#[from] Error),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Tc(#[from] TcError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error(transparent)]
    Kernel(#[from] io::Error),
    #[error("only a netlink attachment was possible, which would end with this process")]
    Netlink,
    #[error("there is no such filter")]
    NoFilter,
    #[error("the device changed its name meanwhile")]
    Renamed,
    #[error("native mode: {native}; generic mode")]
    Xdp {
        native: Box<LinkFailure>,
        #[source]
        generic: Box<LinkFailure>,
    },
}

impl LinkFailure {
    /// Whether what is attached is gone, with its device or without.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::NoFilter) || errno(self) == Some(libc::ENOLINK)
    }
}
