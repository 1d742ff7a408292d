use super::*;
use crate::interfaces::Device;

fn state(devices: &[(u32, Role)]) -> State {
    let devices = devices.iter().map(|&(index, role)| {
        let device = Device {
            name: format!("dev{index}"),
            role: Some(role),
            interface: None,
            vlan: false,
        };
        (index, device)
    });
    State {
        devices: devices.collect(),
        ..State::default()
    }
}

fn set(names: &[&str]) -> BTreeSet<Attachment> {
    let parse = |name: &&str| Attachment::from_pin_name(name).expect("a name of a pin");
    names.iter().map(parse).collect()
}

fn one(name: &str) -> Attachment {
    Attachment::from_pin_name(name).unwrap()
}

#[track_caller]
fn check_wanted(devices: &[(u32, Role)], xdp: XdpMode, pinned: &[&str], expected: &[&str]) {
    assert_eq!(wanted(&state(devices), xdp, &set(pinned)), set(expected));
}

#[test]
fn names_of_pins_survive_the_round_trip() {
    for hook in Hook::ALL {
        let attachment = Attachment {
            ifindex: 4_294_967_295,
            hook,
        };
        assert_eq!(
            Attachment::from_pin_name(&attachment.to_string()),
            Some(attachment)
        );
    }
    assert_eq!(one("7-pod-ingress").to_string(), "7-pod-ingress");
}

#[test]
fn names_of_other_pins_are_none_of_ours() {
    for name in [
        "",
        "7",
        "7-",
        "-pod-ingress",
        "+7-pod-ingress",
        "07-pod-ingress",
        "x-pod-ingress",
        "7-pod",
        "7-pod-ingress-1",
        "connect4-1",
        "4294967296-pod-ingress",
    ] {
        assert_eq!(Attachment::from_pin_name(name), None, "{name}");
    }
}

#[test]
fn every_hook_has_a_program_that_is_loaded() {
    for hook in Hook::ALL {
        let name = hook.program();
        assert!(
            name == XDP_PROGRAM || TCX_PROGRAMS.contains(&name),
            "{name}"
        );
    }
}

#[test]
fn each_role_has_its_hooks() {
    check_wanted(
        &[(7, Role::Pod)],
        XdpMode::Native,
        &[],
        &["7-pod-ingress", "7-pod-egress"],
    );
    check_wanted(
        &[(2, Role::Uplink)],
        XdpMode::Native,
        &[],
        &["2-wire-ingress", "2-wire-egress", "2-xdp-native"],
    );
    check_wanted(
        &[(5, Role::Tunnel)],
        XdpMode::Native,
        &[],
        &["5-tunnel-ingress"],
    );
}

#[test]
fn xdp_runs_where_it_is_asked_to() {
    let tcx = ["2-wire-ingress", "2-wire-egress"];
    let uplink = [(2, Role::Uplink)];
    check_wanted(&uplink, XdpMode::Off, &["2-xdp-native"], &tcx);
    let generic = [tcx[0], tcx[1], "2-xdp-generic"];
    check_wanted(&uplink, XdpMode::Generic, &["2-xdp-native"], &generic);
    let native = [tcx[0], tcx[1], "2-xdp-native"];
    check_wanted(&uplink, XdpMode::Native, &["2-xdp-generic"], &native);
}

#[test]
fn driver_that_refused_xdp_is_not_asked_again() {
    let expected = ["2-wire-ingress", "2-wire-egress", "2-xdp-fallback"];
    check_wanted(
        &[(2, Role::Uplink)],
        XdpMode::Native,
        &["2-xdp-fallback"],
        &expected,
    );
}

#[test]
fn vlan_runs_xdp_only_in_the_stack_and_only_if_asked_to() {
    let mut vlan = state(&[(2, Role::Uplink)]);
    vlan.devices.get_mut(&2).unwrap().vlan = true;
    let tcx = ["2-wire-ingress", "2-wire-egress"];
    let generic = [tcx[0], tcx[1], "2-xdp-generic"];
    // What an earlier agent has fallen back to goes, too.
    let pinned = set(&["2-xdp-fallback"]);
    assert_eq!(wanted(&vlan, XdpMode::Native, &pinned), set(&tcx));
    assert_eq!(wanted(&vlan, XdpMode::Off, &pinned), set(&tcx));
    assert_eq!(wanted(&vlan, XdpMode::Generic, &pinned), set(&generic));
}

#[track_caller]
fn check_plan(wanted: &[&str], pinned: &[&str], current: &[&str], expected: &[Action]) {
    assert_eq!(plan(&set(wanted), &set(pinned), &set(current)), expected);
}

#[test]
fn programs_get_first_to_where_replies_come() {
    let names = [
        "8-pod-egress",
        "2-wire-egress",
        "5-tunnel-ingress",
        "2-wire-ingress",
        "7-pod-ingress",
        "2-xdp-native",
    ];
    let expected = names.map(|name| Action::Attach(one(name)));
    check_plan(&names, &[], &[], &expected);
}

#[test]
fn programs_go_last_from_where_replies_come() {
    let names = ["7-pod-ingress", "7-pod-egress"];
    let expected = names.map(|name| Action::Remove(one(name)));
    check_plan(&[], &names, &[], &expected);
}

#[test]
fn link_of_an_earlier_process_is_replaced_once() {
    let name = &["7-pod-ingress"];
    check_plan(name, name, &[], &[Action::Replace(one(name[0]))]);
    check_plan(name, name, name, &[]);
}

#[test]
fn link_of_a_device_that_is_gone_or_has_lost_its_role_is_removed() {
    let name = "7-pod-ingress";
    check_plan(&[], &[name], &[], &[Action::Remove(one(name))]);
    check_plan(&[], &[name], &[name], &[Action::Remove(one(name))]);
}

#[test]
fn link_whose_pin_somebody_removed_is_attached_again() {
    let name = "7-pod-ingress";
    check_plan(&[name], &[], &[name], &[Action::Attach(one(name))]);
}

#[test]
fn change_of_mode_removes_before_it_attaches() {
    let expected = [
        Action::Remove(one("2-xdp-native")),
        Action::Replace(one("2-wire-ingress")),
        Action::Attach(one("2-xdp-generic")),
    ];
    check_plan(
        &["2-xdp-generic", "2-wire-ingress"],
        &["2-xdp-native", "2-wire-ingress"],
        &[],
        &expected,
    );
}
