//! Sockets of the node's processes: translated once, when they connect or send.

use super::{Tables, choose, forward::slot, unserved};
use crate::{
    Addr, Affinity, AffinityKey, Backend, BackendRef, Frontend, FrontendKey, Protocol,
    frontend::flags,
    hash,
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
    /// It fails as if there was no way: what would drop a packet tells a process at once.
    Unreachable,
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
        return unserved(env, dst.addr);
    };
    if frontend.flags & flags::NODE_DENIED != 0 {
        return Call::Unreachable;
    }
    if frontend.inside.is_empty() {
        return if frontend.flags & flags::HAS_ENDPOINTS != 0 {
            Call::Unreachable
        } else {
            Call::Refuse
        };
    }
    let cookie = env.cookie();
    let hash = hash_of(cookie, dst, env.config().seed);
    let Some(backend) = backend(env, &frontend, hash) else {
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

/// A process dials what no frontend is there for.
#[inline(always)]
fn unserved<E: Tables>(env: &E, addr: Addr) -> Call {
    let addr = OnStack(addr);
    match unserved::answer(env, &addr.0) {
        unserved::Answer::None => Call::Pass,
        unserved::Answer::Refused => Call::Refuse,
        unserved::Answer::Unreachable => Call::Unreachable,
    }
}

/// Who serves a process: whom the node has affinity to, else the slot's owner.
#[inline(always)]
fn backend<E: Tables>(env: &E, frontend: &Frontend, hash: u32) -> Option<Backend> {
    let owner = slot(env, frontend, frontend.inside, hash)?.current;
    if frontend.affinity_timeout_s == 0 {
        return env
            .backend(owner.index())
            .filter(|backend| backend.is(owner));
    }
    let key = OnStack(AffinityKey {
        client: Addr::unspecified(),
        service: frontend.service,
    });
    let now = env.now();
    // Not an option, whose content would be compared where there is none: verifiers before Linux 6.3 refuse to
    // read a stack that nobody has written.
    let known = env.affinity(&key.0).unwrap_or(Affinity {
        used_tick: 0,
        backend: BackendRef::NONE,
        pad: 0,
    });
    let bound = env
        .backend(known.backend.index())
        .filter(|backend| choose::binds(&known, backend, frontend, now))
        .map(|backend| (known.backend, backend));
    let (reference, backend) = match bound {
        Some(bound) => bound,
        None => (
            owner,
            env.backend(owner.index())
                .filter(|backend| backend.is(owner))?,
        ),
    };
    let affinity = OnStack(Affinity {
        used_tick: now.tick,
        backend: reference,
        pad: 0,
    });
    // Datagrams come one after the other: one write a tick is enough.
    if known != affinity.0 {
        env.insert_affinity(&key.0, &affinity.0);
    }
    Some(backend)
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
