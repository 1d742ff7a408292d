//! Sockets of the node's processes: translated once, when they connect or send.

use super::{Tables, forward::slot};
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

/// A value that lies on the stack. These calls run in their process's context: another one, or a
/// packet, may come between on the same CPU, so that they cannot use a CPU's working memory. The
/// stack must be accessed aligned, and the compiler joins words to eight bytes.
#[repr(C, align(8))]
struct OnStack<T>(T);

/// A process connects, or sends a datagram, to `dst`.
#[inline(always)]
pub fn outbound<E: Tables + Sockets>(env: &E, dst: Endpoint, protocol: Protocol) -> Call {
    let key = OnStack(FrontendKey::new(dst.addr, dst.port, protocol));
    let Some(frontend) = env.frontend(&key.0) else {
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
    let key = OnStack(SocketKey {
        cookie,
        addr: backend.addr,
        port: backend.port,
        protocol,
        pad: 0,
        pad_word: 0,
    });
    let peer = OnStack(SocketPeer {
        addr: dst.addr,
        port: dst.port,
        pad: 0,
    });
    // A datagram socket sends again and again to the same frontend: one write is enough.
    if env.peer(&key.0) != Some(peer.0) {
        env.insert_peer(&key.0, &peer.0);
    }
    Call::To(Endpoint {
        addr: backend.addr,
        port: backend.port,
    })
}

/// A process asks, or is told, who its peer is: the frontend that it dialled.
#[inline(always)]
pub fn inbound<E: Sockets>(env: &E, src: Endpoint, protocol: Protocol) -> Call {
    let key = OnStack(SocketKey {
        cookie: env.cookie(),
        addr: src.addr,
        port: src.port,
        protocol,
        pad: 0,
        pad_word: 0,
    });
    match env.peer(&key.0) {
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
