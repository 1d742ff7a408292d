//! Programs of network devices: who gets which, and how they come and go.

use std::{collections::BTreeSet, fs, process::Command, thread};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_agent::{
    dataplane::bpf::{self, BpfDataplane, Fault, XdpMode},
    interfaces::{Device, State},
};
use lb_common::Role;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use super::{PinDir, soon};

/// Runs `test` in a fresh network namespace, which ends with the thread.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(super) fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

pub(super) fn state(devices: &[(&str, Role)]) -> State {
    let devices = devices.iter().map(|&(name, role)| {
        let device = Device {
            name: name.into(),
            role: Some(role),
            interface: None,
            vlan: false,
        };
        (if_nametoindex(name).unwrap(), device)
    });
    State {
        devices: devices.collect(),
        ..State::default()
    }
}

/// Ids of the tcx programs of a device, in their order.
pub(super) fn tcx(device: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).unwrap();
    programs.iter().map(|p| p.id()).collect()
}

/// Whether a device has XDP in the mode that `ip` calls `xdpgeneric` or `xdp`.
pub(super) fn has_xdp(device: &str, mode: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", device]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace().any(|word| word == mode)
}

/// Nothing attached, replaced or removed.
pub(super) const NOTHING: [Vec<String>; 3] = [const { Vec::new() }; 3];

/// Synchronises without any failure; returns what was attached, replaced, removed.
#[track_caller]
pub(super) fn sync(dataplane: &mut BpfDataplane, state: &State) -> [Vec<String>; 3] {
    let synced = dataplane.sync_attachments(state);
    assert!(synced.failed.is_empty(), "{:?}", synced.failed);
    let names = |list: Vec<bpf::Attachment>| list.iter().map(ToString::to_string).collect();
    [
        names(synced.attached),
        names(synced.replaced),
        names(synced.removed),
    ]
}

#[test]
fn each_role_gets_its_programs() {
    in_namespace(|| {
        let pins = PinDir::new();
        let mut dataplane = pins.open();
        ip("link add wan type veth peer name pod");
        ip("link add over type vxlan id 7 dstport 4789");
        let [attached, replaced, removed] = sync(
            &mut dataplane,
            &state(&[
                ("wan", Role::Uplink),
                ("pod", Role::Pod),
                ("over", Role::Tunnel),
            ]),
        );
        assert_eq!(attached.len(), 6);
        assert!(replaced.is_empty() && removed.is_empty());
        for (device, ingress, egress) in [("wan", 1, 1), ("pod", 1, 1), ("over", 1, 0)] {
            assert_eq!(
                tcx(device, TcAttachType::Ingress).len(),
                ingress,
                "{device}"
            );
            assert_eq!(tcx(device, TcAttachType::Egress).len(), egress, "{device}");
        }
        assert!(has_xdp("wan", "xdp"));
        assert!(!has_xdp("pod", "xdp"));

        let all = state(&[
            ("wan", Role::Uplink),
            ("pod", Role::Pod),
            ("over", Role::Tunnel),
        ]);
        assert_eq!(sync(&mut dataplane, &all), NOTHING);
    });
}

#[test]
fn programs_attach_ahead_of_others() {
    in_namespace(|| {
        let (ours, others) = (PinDir::new(), PinDir::new());
        ip("link add pod type veth peer name eth0");
        let pod = state(&[("pod", Role::Pod)]);
        let pin = format!("{}-pod-ingress", if_nametoindex("pod").unwrap());
        sync(&mut others.open(), &pod);
        sync(&mut ours.open(), &pod);
        let order = [ours.link(&pin).program, others.link(&pin).program];
        assert_eq!(tcx("pod", TcAttachType::Ingress), order);
    });
}

#[test]
fn programs_outlive_the_process_and_the_next_one_replaces_them_in_place() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let both = state(&[("wan", Role::Uplink), ("pod", Role::Pod)]);
        let mut first = pins.open();
        let [names, ..] = sync(&mut first, &both);
        drop(first);
        let before: Vec<_> = names.iter().map(|name| pins.link(name)).collect();
        assert_eq!(tcx("pod", TcAttachType::Ingress).len(), 1);
        assert!(has_xdp("wan", "xdp"));

        let mut second = pins.open();
        let [attached, replaced, removed] = sync(&mut second, &both);
        assert!(attached.is_empty() && removed.is_empty());
        assert_eq!(BTreeSet::from_iter(&replaced), BTreeSet::from_iter(&names));
        for (name, before) in names.iter().zip(before) {
            let after = pins.link(name);
            assert_eq!(after.link, before.link, "{name}");
            assert_ne!(after.program, before.program, "{name}");
        }
        assert_eq!(sync(&mut second, &both), NOTHING);
    });
}

#[test]
fn device_that_loses_its_role_loses_its_programs() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let mut dataplane = pins.open();
        sync(
            &mut dataplane,
            &state(&[("wan", Role::Uplink), ("pod", Role::Pod)]),
        );
        // Links that were replaced must let go as well as those that were created.
        let mut dataplane = {
            drop(dataplane);
            pins.open()
        };
        sync(
            &mut dataplane,
            &state(&[("wan", Role::Uplink), ("pod", Role::Pod)]),
        );
        let [_, _, removed] = sync(&mut dataplane, &State::default());
        assert_eq!(removed.len(), 5);
        soon("nothing is attached", || {
            tcx("pod", TcAttachType::Ingress).is_empty()
                && tcx("pod", TcAttachType::Egress).is_empty()
                && tcx("wan", TcAttachType::Ingress).is_empty()
                && tcx("wan", TcAttachType::Egress).is_empty()
                && !has_xdp("wan", "xdp")
        });
    });
}

#[test]
fn pins_of_a_device_that_is_gone_are_removed() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let mut dataplane = pins.open();
        sync(&mut dataplane, &state(&[("pod", Role::Pod)]));
        ip("link del wan");
        let [_, _, removed] = sync(&mut dataplane, &State::default());
        assert_eq!(removed.len(), 2);
        assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 0);
    });
}

#[test]
fn device_with_the_index_of_one_that_is_gone_is_attached_anew() {
    in_namespace(|| {
        let pins = PinDir::new();
        for _ in 0..2 {
            ip("link add wan index 70 type veth peer name pod index 71");
            let mut dataplane = pins.open();
            sync(
                &mut dataplane,
                &state(&[("wan", Role::Uplink), ("pod", Role::Pod)]),
            );
            assert_eq!(tcx("pod", TcAttachType::Ingress).len(), 1);
            assert!(has_xdp("wan", "xdp"));
            drop(dataplane);
            ip("link del wan");
        }
    });
}

#[test]
fn device_that_is_gone_before_it_is_attached_is_no_failure() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let both = state(&[("wan", Role::Uplink), ("pod", Role::Pod)]);
        ip("link del wan");
        assert_eq!(sync(&mut pins.open(), &both), NOTHING);
    });
}

#[test]
fn xdp_runs_in_the_mode_that_is_asked_for() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name other");
        let uplink = state(&[("wan", Role::Uplink)]);
        for (mode, word) in [
            (XdpMode::Native, "xdp"),
            (XdpMode::Generic, "xdpgeneric"),
            (XdpMode::Native, "xdp"),
        ] {
            let mut dataplane = pins.open_with(|options| options.xdp = mode).unwrap();
            sync(&mut dataplane, &uplink);
            assert!(has_xdp("wan", word), "{mode:?}");
        }
        let mut dataplane = pins
            .open_with(|options| options.xdp = XdpMode::Off)
            .unwrap();
        sync(&mut dataplane, &uplink);
        soon("no XDP", || !has_xdp("wan", "xdp"));
        assert_eq!(tcx("wan", TcAttachType::Ingress).len(), 1);
    });
}

#[test]
fn device_without_native_xdp_gets_generic() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add br0 type bridge");
        let uplink = state(&[("br0", Role::Uplink)]);
        let pin = format!("{}-xdp-fallback", if_nametoindex("br0").unwrap());
        let mut dataplane = pins.open();
        let [attached, ..] = sync(&mut dataplane, &uplink);
        assert!(attached.contains(&pin), "{attached:?}");
        assert!(has_xdp("br0", "xdpgeneric"));
        assert_eq!(sync(&mut dataplane, &uplink), NOTHING);
        let before = pins.link(&pin);
        sync(&mut pins.open(), &uplink);
        assert_eq!(pins.link(&pin).link, before.link);
    });
}

#[test]
fn links_that_others_have_changed_are_broken_until_they_are_made_anew() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let both = state(&[("wan", Role::Uplink), ("pod", Role::Pod)]);
        let mut ours = pins.open();
        let [attached, ..] = sync(&mut ours, &both);
        assert_eq!(ours.broken_links().unwrap(), []);

        let mut others = pins.open();
        sync(&mut others, &both);
        let broken = ours.broken_links().unwrap();
        let names: BTreeSet<_> = broken.iter().map(|link| &link.pin).collect();
        assert_eq!(names, attached.iter().collect());
        assert!(
            broken
                .iter()
                .all(|link| matches!(link.fault, Fault::Foreign { .. })),
            "{broken:?}"
        );
        sync(&mut ours, &both);
        assert_eq!(ours.broken_links().unwrap(), []);

        fs::remove_file(pins.links().join(&attached[0])).unwrap();
        let faults: Vec<_> = ours.broken_links().unwrap();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].fault, Fault::NoPin);
    });
}

#[test]
fn links_of_a_device_that_is_gone_are_not_broken() {
    in_namespace(|| {
        let pins = PinDir::new();
        ip("link add wan type veth peer name pod");
        let mut dataplane = pins.open();
        sync(&mut dataplane, &state(&[("pod", Role::Pod)]));
        ip("link del wan");
        assert_eq!(dataplane.broken_links().unwrap(), []);
    });
}
