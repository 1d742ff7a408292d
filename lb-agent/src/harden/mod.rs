//! What the process gives up once the programs are in place.
//!
//! Loading programs takes rights that serving does not. All of this holds for the calling thread and
//! those that it starts, so it comes before there are others. What a kernel cannot do is told, and
//! left out: no layer stands on another.

mod capabilities;
mod files;
mod syscalls;

use std::path::PathBuf;

use nix::sys::prctl;
use tracing::{info, warn};

/// What the process goes on needing.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories that it writes to.
    pub writes: Vec<PathBuf>,
    /// Files and directories that it reads, apart from what every process does.
    pub reads: Vec<PathBuf>,
    /// Whether it runs programs of others, such as those that a kubeconfig names.
    pub runs_commands: bool,
}

/// Why something was not given up.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("set no-new-privileges")]
    NoNewPrivileges(#[source] nix::Error),
    #[error("drop capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("restrict system calls")]
    Syscalls(#[from] syscalls::Error),
    #[error("restrict files")]
    Files(#[from] landlock::RulesetError),
}

/// Gives up what is not needed any more.
pub fn harden(needs: &Needs) {
    tell("privileges", no_new_privileges());
    tell("capabilities", capabilities::drop_all_but_needed());
    if needs.runs_commands {
        warn!("the kubeconfig names a program to run: files and system calls are not restricted");
        return;
    }
    tell("files", files::restrict(needs));
    // Last: the others take system calls that are not allowed then.
    tell("system calls", syscalls::restrict());
}

fn no_new_privileges() -> Result<String, Error> {
    prctl::set_no_new_privs().map_err(Error::NoNewPrivileges)?;
    Ok("none can be gained".into())
}

fn tell(what: &str, done: Result<String, Error>) {
    match done {
        Ok(how) => info!("restricted {what}: {how}"),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            warn!(error, "cannot restrict {what}");
        }
    }
}
