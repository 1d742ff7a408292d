//! Programs, and what they make of a frame.

use std::net::SocketAddr;

use lb_common::counter::Hook;

use super::{Answer, devices::Devices, packet::ends};

/// A packet program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// XDP on the uplink.
    Xdp,
    /// tcx ingress of the uplink.
    WireIngress,
    /// tcx egress of the uplink.
    WireEgress,
    /// tcx ingress of the tunnel.
    Tunnel,
    /// tcx ingress of the pod's veth.
    PodIngress,
    /// tcx egress of the pod's veth.
    PodEgress,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Xdp,
        Self::WireIngress,
        Self::WireEgress,
        Self::Tunnel,
        Self::PodIngress,
        Self::PodEgress,
    ];
    /// Those that meet what comes in by the uplink: the same decisions at two hooks.
    pub const WIRE: [Self; 2] = [Self::Xdp, Self::WireIngress];

    /// Name in the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "lb_xdp",
            Self::WireIngress => "lb_wire_ingress",
            Self::WireEgress => "lb_wire_egress",
            Self::Tunnel => "lb_tunnel",
            Self::PodIngress => "lb_pod_ingress",
            Self::PodEgress => "lb_pod_egress",
        }
    }

    /// Where it counts.
    pub(crate) fn hook(self) -> Hook {
        match self {
            Self::Xdp => Hook::Xdp,
            Self::WireIngress | Self::Tunnel => Hook::WireIngress,
            Self::WireEgress => Hook::WireEgress,
            Self::PodIngress => Hook::PodIngress,
            Self::PodEgress => Hook::PodEgress,
        }
    }

    pub(super) fn device(self, devices: &Devices) -> u32 {
        match self {
            Self::Xdp | Self::WireIngress | Self::WireEgress => devices.uplink,
            Self::Tunnel => devices.tunnel,
            Self::PodIngress | Self::PodEgress => devices.pod,
        }
    }
}

/// What a program says is to happen, the same word for XDP and tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next hook: `XDP_PASS`, `TCX_NEXT`.
    Next,
    /// `XDP_DROP`, `TCX_DROP`.
    Drop,
    /// Out by a device at once: `XDP_TX`, `TCX_REDIRECT`.
    Out,
    /// Something that no program of ours should say.
    Other(u32),
}

impl Verdict {
    pub(crate) fn new(program: Program, verdict: u32) -> Self {
        const TCX_NEXT: u32 = u32::MAX;
        match (program, verdict) {
            (Program::Xdp, 2) => Self::Next,
            (Program::Xdp, 1) => Self::Drop,
            (Program::Xdp, 3) => Self::Out,
            (Program::Xdp, other) => Self::Other(other),
            (_, TCX_NEXT) => Self::Next,
            (_, 2) => Self::Drop,
            (_, 7) => Self::Out,
            (_, other) => Self::Other(other),
        }
    }
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is to happen.
    pub verdict: Verdict,
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether it carries XDP's mark for tc.
    pub marked: bool,
}

impl Run {
    /// Source and destination of the frame.
    #[must_use]
    pub fn ends(&self) -> [SocketAddr; 2] {
        ends(&self.frame)
    }

    /// What the frame answers to a client.
    #[must_use]
    #[track_caller]
    pub fn answer(&self) -> Answer {
        Answer::read(&self.frame)
    }
}
