//! Socket calls of processes on the node.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
};
use lb_common::{
    Addr,
    counter::{Hook, Outcome},
    path::{
        Tables as _,
        sockets::{self, Call, Sockets},
    },
    rewrite::Endpoint,
    socket::{SocketKey, SocketPeer},
};

use crate::{
    drops,
    kernel::{AtHook, Run},
    maps::SOCKETS,
};

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails.
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// The family of a call's address.
pub(crate) trait SockFamily {
    fn read(ctx: *mut bpf_sock_addr) -> Addr;
    fn write(ctx: *mut bpf_sock_addr, addr: Addr);
}

/// `connect4` and its like.
pub(crate) struct V4;
/// `connect6` and its like; the address may be an IPv4-mapped one.
pub(crate) struct V6;

impl SockFamily for V4 {
    #[inline(always)]
    fn read(ctx: *mut bpf_sock_addr) -> Addr {
        // SAFETY: the kernel passes a valid context.
        Addr::from_wire_v4(unsafe { (*ctx).user_ip4 })
    }

    #[inline(always)]
    fn write(ctx: *mut bpf_sock_addr, addr: Addr) {
        // SAFETY: the kernel passes a valid context, and lets this field be written.
        unsafe { (*ctx).user_ip4 = addr.to_wire_v4() };
    }
}

impl SockFamily for V6 {
    #[inline(always)]
    fn read(ctx: *mut bpf_sock_addr) -> Addr {
        // Volatile, so that each word is read at its own offset of the context: the verifier
        // refuses a pointer to the middle of it.
        // SAFETY: the kernel passes a valid context.
        Addr::from_wire_words(unsafe {
            [
                ptr::read_volatile(&raw const (*ctx).user_ip6[0]),
                ptr::read_volatile(&raw const (*ctx).user_ip6[1]),
                ptr::read_volatile(&raw const (*ctx).user_ip6[2]),
                ptr::read_volatile(&raw const (*ctx).user_ip6[3]),
            ]
        })
    }

    #[inline(always)]
    fn write(ctx: *mut bpf_sock_addr, addr: Addr) {
        let [a, b, c, d] = addr.to_wire_words();
        // SAFETY: the kernel passes a valid context, and lets these fields be written, word by
        // word.
        unsafe {
            ptr::write_volatile(&raw mut (*ctx).user_ip6[0], a);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[1], b);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[2], c);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[3], d);
        }
    }
}

struct Socket {
    ctx: *mut bpf_sock_addr,
}

struct Calls;
impl AtHook for Calls {
    const HOOK: Hook = Hook::Socket;
}

impl Sockets for Run<Socket, Calls> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the kernel passes a valid context.
        unsafe { bpf_get_socket_cookie(self.ctx.ctx.cast::<c_void>()) }
    }

    #[inline(always)]
    fn peer(&self, key: &SocketKey) -> Option<SocketPeer> {
        // SAFETY: copied at once. An element recycled meanwhile belongs to another socket, which
        // costs one wrong answer to a question about a peer.
        unsafe { SOCKETS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_peer(&self, key: &SocketKey, peer: &SocketPeer) {
        // Best effort: without it, the process is told its backend's address.
        let _ = SOCKETS.insert(key, peer, 0);
    }
}

impl Run<Socket, Calls> {
    /// Whether the process is in the node's own network namespace, if that is asked for.
    #[inline(always)]
    fn is_ours(&self) -> bool {
        let wanted = self.config().netns_cookie;
        // SAFETY: the kernel passes a valid context.
        wanted == 0 || unsafe { bpf_get_netns_cookie(self.ctx.ctx.cast::<c_void>()) } == wanted
    }

    #[inline(always)]
    fn endpoint<F: SockFamily>(&self) -> Endpoint {
        // SAFETY: the kernel passes a valid context. The port stands in the lower half.
        let port = unsafe { (*self.ctx.ctx).user_port };
        Endpoint {
            addr: F::read(self.ctx.ctx),
            port: u16::from_be(port as u16),
        }
    }

    #[inline(always)]
    fn rewrite<F: SockFamily>(&self, to: Endpoint) {
        F::write(self.ctx.ctx, to.addr);
        // SAFETY: the kernel passes a valid context, and lets this field be written.
        unsafe { (*self.ctx.ctx).user_port = u32::from(to.port.to_be()) };
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.ctx).protocol as u8 }
    }
}

/// A process connects, or sends a datagram.
#[inline(always)]
pub(crate) fn outbound<F: SockFamily>(ctx: *mut bpf_sock_addr) -> i32 {
    let run = Run::<Socket, Calls>::new(Socket { ctx });
    if !run.is_ours() {
        return PROCEED;
    }
    run.count(Outcome::Seen);
    match sockets::outbound(&run, run.endpoint::<F>(), run.protocol()) {
        Call::Pass => PROCEED,
        Call::To(backend) => {
            run.rewrite::<F>(backend);
            run.count(Outcome::ToStack);
            PROCEED
        }
        Call::Refuse => fail(Outcome::Rejected, ECONNREFUSED),
        Call::Unreachable => fail(Outcome::NoBackend, EHOSTUNREACH),
    }
}

/// Lets the call fail with an error number.
#[inline(always)]
fn fail(outcome: Outcome, errno: i32) -> i32 {
    drops::refused(outcome);
    // SAFETY: takes an error number by value.
    let _ = unsafe { bpf_set_retval(-errno) };
    FAIL
}

/// A process is told its peer's address.
#[inline(always)]
pub(crate) fn inbound<F: SockFamily>(ctx: *mut bpf_sock_addr) -> i32 {
    let run = Run::<Socket, Calls>::new(Socket { ctx });
    if run.is_ours()
        && let Call::To(frontend) = sockets::inbound(&run, run.endpoint::<F>(), run.protocol())
    {
        run.rewrite::<F>(frontend);
        run.count(Outcome::Replied);
    }
    PROCEED
}
