//! Names out of the running kernel.

use std::{net::SocketAddr, path::PathBuf};

use lb_common::BackendRef;
use nix::net::if_::if_indextoname;

use super::{Names, socket_addr};
use crate::dataplane::bpf;

/// The devices of this network namespace, and the backends that are pinned below a directory.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Directory of the pins.
    pub pin_dir: PathBuf,
}

impl Names for Kernel {
    fn device(&self, ifindex: u32) -> Option<String> {
        let name = if_indextoname(ifindex).ok()?;
        Some(name.to_string_lossy().into_owned())
    }

    fn backend(&self, reference: BackendRef) -> Option<SocketAddr> {
        let backend = bpf::pinned_backend(&self.pin_dir, reference).ok()??;
        Some(socket_addr(backend.addr, backend.port))
    }
}
