//! `lb-agent cleanup`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use crate::{
    dataplane::bpf::{self, Leavings},
    kube_proxy::{self, Removed},
};

/// Flags of `lb-agent cleanup`.
#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Directory of the pinned maps and programs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,

    /// Remove kube-proxy's rules instead: those of iptables and of nftables. Connections that they
    /// have translated go on.
    #[arg(long)]
    kube_proxy: bool,

    /// Only say what there is.
    #[arg(long)]
    dry_run: bool,
}

/// Why not all is removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pins are not removed.
    #[error("remove what is pinned")]
    Pins(#[from] bpf::Error),
    /// Rules of kube-proxy are not removed.
    #[error("remove the rules of kube-proxy")]
    KubeProxy(#[from] kube_proxy::Error),
    /// Nobody listens.
    #[error("write what was done")]
    Write(#[from] io::Error),
}

impl CleanupArgs {
    /// Removes, and says what.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn run(&self, out: &mut impl Write) -> Result<(), Error> {
        let done = if self.dry_run { "found" } else { "removed" };
        if self.kube_proxy {
            return self.kube_proxy(done, out);
        }
        let leavings = if self.dry_run {
            bpf::leavings(&self.pin_dir)?
        } else {
            bpf::cleanup(&self.pin_dir)?
        };
        let Leavings {
            links,
            maps,
            others,
            ..
        } = &leavings;
        for pin in links.iter().chain(maps) {
            writeln!(out, "{done} {}", pin.display())?;
        }
        for other in others {
            writeln!(out, "not ours: {}", other.display())?;
        }
        let (links, maps) = (links.len(), maps.len());
        let dir = self.pin_dir.display();
        writeln!(
            out,
            "{done} {links} attached programs and {maps} maps below {dir}"
        )?;
        Ok(())
    }

    fn kube_proxy(&self, done: &str, out: &mut impl Write) -> Result<(), Error> {
        let Removed { found, needed_by } = if self.dry_run {
            Removed {
                found: kube_proxy::find()?,
                needed_by: 0,
            }
        } else {
            // Where no agent has served, every connection may be one to a Service.
            let frontends = bpf::pinned_frontends(&self.pin_dir).unwrap_or_default();
            kube_proxy::remove(|dialled| frontends.is_empty() || frontends.contains_key(dialled))?
        };
        if found.is_empty() {
            return Ok(writeln!(out, "kube-proxy has left no rules")?);
        }
        writeln!(out, "{done} {found}")?;
        if needed_by > 0 {
            writeln!(
                out,
                "what the kernel needs to go on with {needed_by} of its connections stays, and does nothing \
                 else; run this again when they have ended"
            )?;
        }
        Ok(())
    }
}
