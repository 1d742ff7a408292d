//! Programs as filters of a qdisc, where there is no tcx, or it is not wanted.

use std::process::Command;

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
    },
};
use lb_agent::{
    dataplane::bpf::{self, BpfDataplane, Fault, TcMode},
    object,
};
use lb_common::{Role, maps::FLOWS};

use super::{
    PinDir,
    devices::{NOTHING, in_namespace, ip, state, sync},
};

/// Ids of the programs that are filters of a device, in their order.
fn filters(device: &str, direction: &str) -> Vec<u32> {
    let mut command = Command::new("tc");
    let command = command.args(["filter", "show", "dev", device, direction]);
    let output = command.output().expect("tc, of iproute2");
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    let ids = words.windows(2).filter(|words| words[0] == "id");
    ids.map(|words| words[1].parse().unwrap()).collect()
}

/// Runs `test` in a namespace with a pod's device and another one.
fn with_pod(test: impl FnOnce(&PinDir) + Send + 'static) {
    in_namespace(|| {
        ip("link add wan type veth peer name pod");
        test(&PinDir::new());
    });
}

const NONE: [Vec<u32>; 2] = [const { Vec::new() }; 2];

fn both(device: &str) -> [Vec<u32>; 2] {
    ["ingress", "egress"].map(|direction| filters(device, direction))
}

fn open(pins: &PinDir) -> BpfDataplane {
    pins.open_with(|options| options.tc = TcMode::Clsact)
        .unwrap()
}

#[test]
fn filters_outlive_their_agent_and_the_next_one_exchanges_their_programs() {
    with_pod(|pins| {
        let mut first = open(pins);
        let both_devices = state(&[("wan", Role::Uplink), ("pod", Role::Pod)]);
        let [attached, ..] = sync(&mut first, &both_devices);
        assert_eq!(attached.len(), 5, "with XDP: {attached:?}");
        let before = both("pod");
        assert!(before.iter().all(|ids| ids.len() == 1), "{before:?}");
        assert_eq!(sync(&mut first, &both_devices), NOTHING);
        drop(first);
        assert_eq!(both("pod"), before);

        let mut second = open(pins);
        assert_eq!(both("pod"), before, "until it knows the devices");
        let [attached, replaced, removed] = sync(&mut second, &both_devices);
        assert_eq!((attached.len(), replaced.len(), removed.len()), (0, 5, 0));
        let after = both("pod");
        assert!(after.iter().all(|ids| ids.len() == 1), "{after:?}");
        assert_ne!(after, before);
    });
}

/// Whoever wants tcx again keeps the filters that there are: a program that runs twice is no better.
#[test]
fn an_agent_that_wants_tcx_goes_on_with_the_filters_that_it_finds() {
    with_pod(|pins| {
        let mut first = open(pins);
        let pod = state(&[("pod", Role::Pod)]);
        let _ = sync(&mut first, &pod);
        drop(first);
        let mut second = pins.open();
        let [attached, replaced, removed] = sync(&mut second, &pod);
        assert_eq!((attached.len(), replaced.len(), removed.len()), (0, 2, 0));
        assert!(both("pod").iter().all(|ids| ids.len() == 1));
    });
}

#[test]
fn filters_go_with_their_role_and_with_a_cleanup() {
    with_pod(|pins| {
        let mut dataplane = open(pins);
        let both_devices = state(&[("wan", Role::Uplink), ("pod", Role::Pod)]);
        let _ = sync(&mut dataplane, &both_devices);
        let [_, _, removed] = sync(&mut dataplane, &state(&[("pod", Role::Pod)]));
        assert_eq!(removed.len(), 3);
        assert_eq!(both("wan"), NONE);
        assert!(both("pod").iter().all(|ids| ids.len() == 1));
        drop(dataplane);
        let _ = bpf::cleanup(&pins.0).unwrap();
        assert_eq!(both("pod"), NONE);
        assert!(!pins.0.exists());
    });
}

#[test]
fn filter_that_somebody_removes_is_told_and_made_anew() {
    with_pod(|pins| {
        let mut dataplane = open(pins);
        let pod = state(&[("pod", Role::Pod)]);
        let _ = sync(&mut dataplane, &pod);
        assert_eq!(dataplane.broken_links().unwrap(), []);
        let mut command = Command::new("tc");
        let command = command.args(["filter", "del", "dev", "pod", "ingress"]);
        assert!(command.status().unwrap().success());
        let broken = dataplane.broken_links().unwrap();
        let [broken] = &broken[..] else {
            panic!("one is broken: {broken:?}");
        };
        assert_eq!(broken.fault, Fault::Detached);
        let _ = sync(&mut dataplane, &pod);
        assert!(both("pod").iter().all(|ids| ids.len() == 1));
        assert_eq!(dataplane.broken_links().unwrap(), []);
    });
}

/// Filters of others stay, and so does the qdisc.
#[test]
fn filters_of_others_are_left_alone() {
    with_pod(|pins| {
        qdisc_add_clsact("pod").unwrap();
        let mut others = Ebpf::load(object::LAB).unwrap();
        let other: &mut SchedClassifier = others
            .program_mut("lab_tc_next")
            .unwrap()
            .try_into()
            .unwrap();
        other.load().unwrap();
        let place = TcAttachOptions::Netlink(NlOptions {
            priority: 7,
            ..NlOptions::default()
        });
        other
            .attach_with_options("pod", TcAttachType::Ingress, place)
            .unwrap();
        let theirs = filters("pod", "ingress");
        let mut dataplane = open(pins);
        let _ = sync(&mut dataplane, &state(&[("pod", Role::Pod)]));
        let ours = filters("pod", "ingress");
        assert_eq!(
            (ours.len(), &ours[1..]),
            (2, &theirs[..]),
            "ours is the first"
        );
        let _ = sync(&mut dataplane, &state(&[]));
        assert_eq!(filters("pod", "ingress"), theirs);
    });
}

/// Maps of another capacity are new maps, and programs that use them take the old ones' places at once.
#[test]
fn filters_change_hands_while_connections_are_carried_over() {
    with_pod(|pins| {
        let mut first = open(pins);
        let pod = state(&[("pod", Role::Pod)]);
        let _ = sync(&mut first, &pod);
        drop(first);
        let before = both("pod");

        let second = pins.open_with(|options| {
            options.tc = TcMode::Clsact;
            let mut maps = options.maps.iter_mut();
            let flows = maps.find(|spec| spec.name == FLOWS).unwrap();
            flows.max_entries *= 2;
        });
        let mut second = second.unwrap();
        let after = both("pod");
        assert!(after.iter().all(|ids| ids.len() == 1), "{after:?}");
        assert_ne!(after, before);
        assert_eq!(sync(&mut second, &pod), NOTHING);
        assert_eq!(second.broken_links().unwrap(), []);
        let _ = sync(&mut second, &state(&[]));
        assert_eq!(both("pod"), NONE);
    });
}
