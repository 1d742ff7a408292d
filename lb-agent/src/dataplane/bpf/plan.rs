//! Which links there must be, and what to do about those that are pinned. Pure.

use std::{collections::BTreeSet, fmt};

use lb_common::Role;

use crate::interfaces::State;

/// Where XDP runs on uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, and where it cannot, in the stack.
    #[default]
    Native,
    /// In the stack (`generic`), for every driver.
    Generic,
    /// Nowhere: tcx does it all.
    Off,
}

/// How programs get to network devices, but for XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcMode {
    /// By tcx, and where the kernel has none, as filters.
    #[default]
    Auto,
    /// By tcx.
    Tcx,
    /// As filters of the device's `clsact` qdisc.
    Clsact,
}

/// A hook of a network device. In the order in which programs get there: where replies come before
/// where requests do, so that whoever is translated is translated back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// tcx egress of a pod's veth: packets to the pod.
    PodEgress,
    /// tcx egress of an uplink.
    WireEgress,
    /// tcx ingress of a tunnel.
    TunnelIngress,
    /// tcx ingress of an uplink.
    WireIngress,
    /// tcx ingress of a pod's veth: packets from the pod.
    PodIngress,
    /// XDP in the driver. What it does not know goes on to tcx.
    XdpNative,
    /// XDP in the stack, as asked for.
    XdpGeneric,
    /// XDP in the stack, because the driver refused it.
    XdpFallback,
}

impl Hook {
    const ALL: [Self; 8] = [
        Self::PodEgress,
        Self::WireEgress,
        Self::TunnelIngress,
        Self::WireIngress,
        Self::PodIngress,
        Self::XdpNative,
        Self::XdpGeneric,
        Self::XdpFallback,
    ];

    /// Its part of a pin's name.
    fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod-ingress",
            Self::PodEgress => "pod-egress",
            Self::WireIngress => "wire-ingress",
            Self::TunnelIngress => "tunnel-ingress",
            Self::WireEgress => "wire-egress",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::XdpFallback => "xdp-fallback",
        }
    }

    /// The program that belongs there.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::PodIngress => "lb_pod_ingress",
            Self::PodEgress => "lb_pod_egress",
            Self::WireIngress => "lb_wire_ingress",
            Self::TunnelIngress => "lb_tunnel",
            Self::WireEgress => "lb_wire_egress",
            Self::XdpNative | Self::XdpGeneric | Self::XdpFallback => XDP_PROGRAM,
        }
    }
}

/// Name of the XDP program.
pub(super) const XDP_PROGRAM: &str = "lb_xdp";

/// Names of the tcx programs.
pub(super) const TCX_PROGRAMS: [&str; 5] = [
    "lb_pod_ingress",
    "lb_pod_egress",
    "lb_wire_ingress",
    "lb_tunnel",
    "lb_wire_egress",
];

/// A program at a hook of a device; shown as the name of its pinned link, `7-pod-ingress`. In the
/// order of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The hook.
    pub hook: Hook,
    /// Interface index of the device.
    pub ifindex: u32,
}

impl Attachment {
    /// The attachment whose link is pinned under `name`; none if it is the pin of something else.
    #[must_use]
    pub fn from_pin_name(name: &str) -> Option<Self> {
        let (ifindex, hook) = name.split_once('-')?;
        let found = Self {
            ifindex: ifindex.parse().ok()?,
            hook: Hook::ALL.into_iter().find(|h| h.name() == hook)?,
        };
        // `+7` and `07` are no names of ours, but would be read as 7.
        (found.to_string() == name).then_some(found)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ifindex, self.hook.name())
    }
}

/// What to do about one attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Remove the pin, which detaches the program or forgets a device that is gone.
    Remove(Attachment),
    /// Put this process's program in the place of the pinned link's.
    Replace(Attachment),
    /// Attach, and pin the link.
    Attach(Attachment),
}

/// The attachments that `state` asks for.
pub(super) fn wanted(
    state: &State,
    xdp: XdpMode,
    pinned: &BTreeSet<Attachment>,
) -> BTreeSet<Attachment> {
    let mut wanted = BTreeSet::new();
    for (role, hooks) in [
        (Role::Pod, &[Hook::PodIngress, Hook::PodEgress][..]),
        (Role::Uplink, &[Hook::WireIngress, Hook::WireEgress]),
        (Role::Tunnel, &[Hook::TunnelIngress]),
    ] {
        for ifindex in state.with_role(role) {
            wanted.extend(hooks.iter().map(|&hook| Attachment { ifindex, hook }));
        }
    }
    for ifindex in state.with_role(Role::Uplink) {
        let fallback = Attachment {
            ifindex,
            hook: Hook::XdpFallback,
        };
        let hook = match xdp {
            XdpMode::Off => continue,
            XdpMode::Generic => Hook::XdpGeneric,
            // In the stack it would only come before tcx, which does the same at less cost.
            XdpMode::Native if is_vlan(state, ifindex) => continue,
            // Not tried again: some drivers reset the link each time.
            XdpMode::Native if pinned.contains(&fallback) => Hook::XdpFallback,
            XdpMode::Native => Hook::XdpNative,
        };
        wanted.insert(Attachment { ifindex, hook });
    }
    wanted
}

fn is_vlan(state: &State, ifindex: u32) -> bool {
    state
        .devices
        .get(&ifindex)
        .is_some_and(|device| device.vlan)
}

/// How to get from the `pinned` links to the `wanted` ones; `current` are those among them that
/// run this process's programs already.
///
/// Removals come first: a device can have only one XDP program. Where replies come, programs are the
/// first to be attached and the last to go.
pub(super) fn plan(
    wanted: &BTreeSet<Attachment>,
    pinned: &BTreeSet<Attachment>,
    current: &BTreeSet<Attachment>,
) -> Vec<Action> {
    let stale: Vec<_> = pinned.difference(wanted).copied().collect();
    let kept = wanted.intersection(pinned).filter(|a| !current.contains(a));
    let new = wanted.difference(pinned).copied().map(Action::Attach);
    let stale = stale.into_iter().rev().map(Action::Remove);
    stale
        .chain(kept.copied().map(Action::Replace))
        .chain(new)
        .collect()
}

#[cfg(test)]
mod tests;
