//! Sockets of the node's processes that are still connected to a backend that is gone.
//!
//! A process's socket is translated once, when it connects: no packet program sees whom it talks
//! to, and can lead it elsewhere. For TCP that is as it should be (item 58). A UDP socket has no
//! connection to lose: it is destroyed, and the process hears of it when it sends next, and connects
//! again (item 59).

mod diag;
mod pause;

use std::{collections::BTreeSet, io, net::SocketAddr, path::Path};

use lb_common::{
    FrontendKey, protocol,
    socket::{SocketKey, SocketPeer},
};
use tokio::task::spawn_blocking;

pub(crate) use self::pause::Pause;
use crate::{
    dataplane::bpf::{self, pinned_sockets},
    reconcile::Programmed,
};

/// Sockets by their cookie, and the backend that each is connected to.
type Stale = BTreeSet<(u64, SocketAddr)>;

/// Sockets could not be ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not known what they were given.
    #[error("read which sockets were given a backend")]
    Read(#[from] bpf::Error),
    /// The kernel refused; it must know `SOCK_DESTROY` (`CONFIG_INET_DIAG_DESTROY`).
    #[error("list the UDP sockets, and end some")]
    Diag(#[from] io::Error),
    /// The work was not done.
    #[error("wait for the work")]
    Work(#[from] tokio::task::JoinError),
}

/// Ends the UDP sockets of this network namespace that are connected to a backend which does not
/// serve what they dialled. How many were there?
///
/// # Errors
///
/// [`Error`] says what could not be done.
pub(crate) async fn end_stale(pin_dir: &Path, programmed: &Programmed) -> Result<usize, Error> {
    let pin_dir = pin_dir.to_owned();
    let known = spawn_blocking(move || pinned_sockets(&pin_dir)).await??;
    let stale = stale(&known, programmed);
    Ok(spawn_blocking(move || destroy(&stale)).await??)
}

/// Of what `SOCKETS` remembers: UDP sockets, of frontends that their backend does not serve.
fn stale(sockets: &[(SocketKey, SocketPeer)], programmed: &Programmed) -> Stale {
    let is_stale = |(key, peer): &&(SocketKey, SocketPeer)| {
        let frontend = FrontendKey::new(peer.addr, peer.port, key.protocol);
        key.protocol == protocol::UDP && !programmed.serves(&frontend, key.addr, key.port)
    };
    let socket = |(key, _): &(SocketKey, SocketPeer)| {
        (key.cookie, SocketAddr::new(key.addr.to_ip(), key.port))
    };
    sockets.iter().filter(is_stale).map(socket).collect()
}

/// Destroys those of these sockets that are in this network namespace, and are connected so.
fn destroy(stale: &Stale) -> io::Result<usize> {
    if stale.is_empty() {
        return Ok(0);
    }
    let mut socket = diag::Socket::open()?;
    let mut destroyed = 0;
    for connected in socket.connected_udp()? {
        if stale.contains(&(connected.cookie(), connected.remote())) {
            destroyed += usize::from(socket.destroy(&connected)?);
        }
    }
    Ok(destroyed)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr};

    use lb_common::{Addr, Backend, BackendState, Extent, Frontend};

    use super::*;
    use crate::dataplane::Observation;

    const VIP: [u8; 4] = [10, 96, 0, 1];

    fn addr(ip: [u8; 4]) -> Addr {
        IpAddr::from(ip).into()
    }

    fn pod(number: u8) -> Addr {
        addr([10, 244, 1, number])
    }

    /// A port with the frontend `VIP`, and pods 1 (active), 2 (terminating) and 3 (gone).
    fn programmed() -> Programmed {
        let states = [
            (1, BackendState::Active),
            (2, BackendState::Terminating),
            (3, BackendState::Gone),
        ];
        let backend = |(number, state): (u8, BackendState)| {
            let backend = Backend {
                addr: pod(number),
                service: 5,
                port: 53,
                generation: 1,
                state: state as u8,
                local: 1,
                protocol: protocol::UDP,
                sets: 0,
                pad: 0,
            };
            (u32::from(number), backend)
        };
        let frontend = Frontend {
            service: 5,
            generation: 1,
            inside: Extent::EMPTY,
            outside: Extent::EMPTY,
            flags: 0,
            affinity_timeout_s: 0,
        };
        let key = FrontendKey::new(addr(VIP), 53, protocol::UDP);
        let observation = Observation {
            frontends: BTreeMap::from([(key, frontend)]),
            backends: states.map(backend).into(),
            ..Observation::default()
        };
        Programmed::new(observation, &[])
    }

    /// Whether a socket is stale that has dialled `vip`, and was given this backend.
    fn is_stale(vip: [u8; 4], backend: Addr, port: u16, protocol: u8) -> bool {
        let key = SocketKey {
            cookie: 1,
            addr: backend,
            port,
            protocol,
            pad: 0,
            pad_word: 0,
        };
        let peer = SocketPeer {
            addr: addr(vip),
            port: 53,
            pad: 0,
        };
        let found = stale(&[(key, peer)], &programmed());
        let socket = (1, SocketAddr::new(backend.to_ip(), port));
        assert!(found.is_empty() || found == Stale::from([socket]));
        !found.is_empty()
    }

    #[test]
    fn s59_a_socket_is_stale_whose_backend_does_not_serve_what_it_dialled() {
        assert!(!is_stale(VIP, pod(1), 53, protocol::UDP));
        assert!(!is_stale(VIP, pod(2), 53, protocol::UDP), "terminating");
        assert!(is_stale(VIP, pod(3), 53, protocol::UDP), "gone");
        assert!(is_stale(VIP, pod(4), 53, protocol::UDP), "unknown");
        assert!(is_stale(VIP, pod(1), 54, protocol::UDP), "of another port");
        let deleted = [10, 96, 0, 2];
        assert!(is_stale(deleted, pod(1), 53, protocol::UDP), "no Service");
    }

    #[test]
    fn s58_a_connection_is_never_stale() {
        assert!(!is_stale(VIP, pod(3), 53, protocol::TCP));
    }
}
