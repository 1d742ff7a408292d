//! Sockets of the node's processes: translated once, when they connect or send.

use super::{Scratch, Tables, forward::slot};
use crate::{
    Addr, FrontendKey, Protocol, hash,
    rewrite::Endpoint,
    socket::{SocketKey, SocketPeer},
};

/// What is remembered of translated sockets.
pub trait Sockets {
    /// Cookie of the socket that makes the call.
    fn cookie(&self) -> u64;
    /// An element of `SOCKETS`.
    fn peer(&self, key: &SocketKey) -> Option<SocketPeer>;
    /// Inserts or replaces an element of `SOCKETS`. Best effort: the map forgets the oldest.
    fn insert_peer(&self, key: &SocketKey, peer: &SocketPeer);
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Call {
    /// It goes on as it came.
    Pass,
    /// It goes to this address instead.
    To(Endpoint),
    /// It fails as if nobody listened.
    Refuse,
}

/// A process connects, or sends a datagram, to `dst`.
#[inline(always)]
pub fn outbound<E: Tables + Sockets>(
    env: &E,
    scratch: &mut Scratch,
    dst: Endpoint,
    protocol: Protocol,
) -> Call {
    scratch.frontend_key = FrontendKey::new(dst.addr, dst.port, protocol);
    let Some(frontend) = env.frontend(&scratch.frontend_key) else {
        return Call::Pass;
    };
    let extent = frontend.inside;
    if extent.is_empty() {
        return Call::Refuse;
    }
    let cookie = env.cookie();
    let backend = slot(
        env,
        &frontend,
        extent,
        hash_of(cookie, dst, env.config().seed),
    )
    .and_then(|slot| {
        env.backend(slot.current.index())
            .filter(|b| b.is(slot.current))
    });
    let Some(backend) = backend else {
        return Call::Refuse;
    };
    scratch.socket_key = SocketKey {
        cookie,
        addr: backend.addr,
        port: backend.port,
        protocol,
        pad: 0,
        pad_word: 0,
    };
    let peer = SocketPeer {
        addr: dst.addr,
        port: dst.port,
        pad: 0,
    };
    // A datagram socket sends again and again to the same frontend: one write is enough.
    if env.peer(&scratch.socket_key) != Some(peer) {
        scratch.socket_peer = peer;
        env.insert_peer(&scratch.socket_key, &scratch.socket_peer);
    }
    Call::To(Endpoint {
        addr: backend.addr,
        port: backend.port,
    })
}

/// A process asks, or is told, who its peer is: the frontend that it dialled.
#[inline(always)]
pub fn inbound<E: Sockets>(
    env: &E,
    scratch: &mut Scratch,
    src: Endpoint,
    protocol: Protocol,
) -> Call {
    scratch.socket_key = SocketKey {
        cookie: env.cookie(),
        addr: src.addr,
        port: src.port,
        protocol,
        pad: 0,
        pad_word: 0,
    };
    match env.peer(&scratch.socket_key) {
        Some(peer) => Call::To(Endpoint {
            addr: peer.addr,
            port: peer.port,
        }),
        None => Call::Pass,
    }
}

/// Selects by the socket: its datagrams to one frontend stay with one backend.
#[inline(always)]
fn hash_of(cookie: u64, dst: Endpoint, seed: u32) -> u32 {
    hash::pair(
        dst.addr,
        Addr::UNSPECIFIED,
        cookie,
        seed ^ u32::from(dst.port),
    )
}
