//! The shipped programs: entry points of one expression each.
#![no_std]
#![no_main]
// The compiler offers no atomic operations for BPF, but for these.
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "see above")]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod answer;
mod bucket;
mod drops;
mod fib;
mod held;
mod index;
mod kernel;
mod known;
mod linear;
mod maps;
mod marks;
mod opening;
mod pins;
mod skb;
mod slow;
mod sock;
mod unusual;
mod xdp;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use lb_common::{
    counter::Hook,
    path::{Action, Env, Scratch, hooks},
};

use crate::kernel::AtHook;

/// A packet program: the way that it decides.
trait Program: AtHook {
    /// For a packet with ports.
    fn decide<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action;
    /// Whether one without is decided about, where clients' packets enter.
    const DECIDES_PORTLESS: bool;
    /// Where packets are put in again that were held back.
    const DIRECTION: u64;
}

macro_rules! program {
    ($name:ident, $hook:ident, $decide:path, portless: $portless:literal, $direction:ident) => {
        struct $name;
        impl AtHook for $name {
            const HOOK: Hook = Hook::$hook;
        }
        impl Program for $name {
            #[inline(always)]
            fn decide<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
                $decide(env, scratch)
            }
            const DECIDES_PORTLESS: bool = $portless;
            const DIRECTION: u64 = held::$direction;
        }
    };
}

program!(Xdp, Xdp, hooks::xdp, portless: false, INGRESS);
program!(WireIngress, WireIngress, hooks::wire_ingress, portless: true, INGRESS);
program!(TunnelIngress, WireIngress, hooks::tunnel_ingress, portless: false, INGRESS);
program!(WireEgress, WireEgress, hooks::wire_egress, portless: false, EGRESS);
program!(PodIngress, PodIngress, hooks::pod_ingress, portless: true, INGRESS);
program!(PodEgress, PodEgress, hooks::pod_egress, portless: false, EGRESS);

// The macros wrap each program in another function: inlined, since verifiers before Linux 6.6 count 32 bytes of
// stack for a frame with nothing on it.

#[xdp(frags)]
#[inline(always)]
fn lb_xdp(ctx: XdpContext) -> u32 {
    xdp::run::<Xdp>(ctx.ctx)
}

#[classifier]
#[inline(always)]
fn lb_wire_ingress(ctx: TcContext) -> i32 {
    skb::run::<WireIngress>(ctx.skb.skb)
}

#[classifier]
#[inline(always)]
fn lb_tunnel(ctx: TcContext) -> i32 {
    skb::run::<TunnelIngress>(ctx.skb.skb)
}

#[classifier]
#[inline(always)]
fn lb_wire_egress(ctx: TcContext) -> i32 {
    skb::run::<WireEgress>(ctx.skb.skb)
}

#[classifier]
#[inline(always)]
fn lb_pod_ingress(ctx: TcContext) -> i32 {
    skb::run::<PodIngress>(ctx.skb.skb)
}

#[classifier]
#[inline(always)]
fn lb_pod_egress(ctx: TcContext) -> i32 {
    skb::run::<PodEgress>(ctx.skb.skb)
}

#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    sock::outbound::<sock::V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    sock::outbound::<sock::V6>(ctx.sock_addr)
}

#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::outbound::<sock::V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::outbound::<sock::V6>(ctx.sock_addr)
}

#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::inbound::<sock::V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::inbound::<sock::V6>(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername4)]
fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    sock::inbound::<sock::V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername6)]
fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    sock::inbound::<sock::V6>(ctx.sock_addr)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers may be called by GPL-compatible programs only; the MIT licence is one of them.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
