//! The kernel's maps and hooks, with the real object. Needs root, and bpftool.
//!
//! Every test has a pin directory, a network namespace and, where it needs one, a cgroup of its
//! own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType, links::PinnedLink};
use lb_agent::{
    dataplane::{
        Dataplane as _, Error as DataplaneError, Observation,
        bpf::{self, BpfDataplane, Error, Options, XdpMode},
    },
    interfaces::{Device, State},
    object,
};
use lb_common::{
    Addr, Backend, BackendRef, BackendState, DatapathConfig, Extent, Frontend, FrontendKey,
    Interface, Role, Slot,
    maps::{BACKENDS, FRONTENDS, INTERFACES, MapSpec, SLOTS, SPECS},
    protocol,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

/// All maps, smaller than they are made for nodes.
fn specs() -> Vec<MapSpec> {
    let small = |name| match name {
        FRONTENDS => 64,
        SLOTS => 4096,
        BACKENDS => 256,
        INTERFACES => 16,
        _ => 1024,
    };
    SPECS
        .iter()
        .map(|spec| MapSpec {
            max_entries: small(spec.name).min(spec.max_entries),
            ..*spec
        })
        .collect()
}

/// A name that no other test has.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("lb-test-{}-{number}", std::process::id())
}

/// A pin directory that goes with the test, and all that is attached through it.
struct PinDir(PathBuf);

impl PinDir {
    fn new() -> Self {
        Self(Path::new("/sys/fs/bpf").join(unique()))
    }

    fn options(&self) -> Options {
        Options {
            pin_dir: self.0.clone(),
            cgroup: None,
            xdp: XdpMode::Native,
            maps: specs(),
            config: DatapathConfig::DEFAULT,
        }
    }

    fn open(&self) -> BpfDataplane {
        bpf::open(object::LB, &self.options()).unwrap()
    }

    fn open_with(&self, change: impl FnOnce(&mut Options)) -> Result<BpfDataplane, Error> {
        let mut options = self.options();
        change(&mut options);
        bpf::open(object::LB, &options)
    }

    fn links(&self) -> PathBuf {
        self.0.join("v1/links")
    }

    fn link(&self, name: &str) -> LinkIds {
        let link = PinnedLink::from_pin(self.links().join(name)).unwrap();
        let info = aya::programs::links::FdLink::from(link).info().unwrap();
        LinkIds {
            link: info.id(),
            program: info.program_id(),
        }
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        // One that was never created is gone, too.
        let _gone = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkIds {
    link: u32,
    program: u32,
}

/// Runs `test` in a fresh network namespace, which ends with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// The kernel detaches a moment after the pin is gone.
#[track_caller]
fn soon(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "not in time: {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

fn state(devices: &[(&str, Role)]) -> State {
    let devices = devices.iter().map(|&(name, role)| {
        let device = Device {
            name: name.into(),
            role: Some(role),
            interface: None,
        };
        (if_nametoindex(name).unwrap(), device)
    });
    State {
        devices: devices.collect(),
        ..State::default()
    }
}

/// Ids of the tcx programs of a device, in their order.
fn tcx(device: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).unwrap();
    programs.iter().map(|p| p.id()).collect()
}

/// Whether a device has XDP in the mode that `ip` calls `xdpgeneric` or `xdp`.
fn has_xdp(device: &str, mode: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", device]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace().any(|word| word == mode)
}

/// Nothing attached, replaced or removed.
const NOTHING: [Vec<String>; 3] = [const { Vec::new() }; 3];

/// Synchronises without any failure; returns what was attached, replaced, removed.
#[track_caller]
fn sync(dataplane: &mut BpfDataplane, state: &State) -> [Vec<String>; 3] {
    let synced = dataplane.sync_attachments(state);
    assert!(synced.failed.is_empty(), "{:?}", synced.failed);
    let names = |list: Vec<bpf::Attachment>| list.iter().map(ToString::to_string).collect();
    [
        names(synced.attached),
        names(synced.replaced),
        names(synced.removed),
    ]
}

fn addr(last: u8) -> Addr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn key(last: u8) -> FrontendKey {
    FrontendKey::new(addr(last), 8000, protocol::TCP)
}

fn frontend(service: u32) -> Frontend {
    Frontend {
        service,
        generation: 1,
        outside: Extent {
            offset: 10,
            bits: 7,
        },
        inside: Extent::EMPTY,
        affinity_timeout_s: 0,
        flags: 0,
    }
}

fn backend(last: u8) -> Backend {
    Backend {
        addr: addr(last),
        service: 1,
        port: 80,
        generation: 3,
        state: BackendState::Active as u8,
        local: 1,
        protocol: protocol::TCP,
        pad: [0; 2],
    }
}

fn interface() -> Interface {
    Interface {
        snat4: addr(9),
        snat6: Addr::UNSPECIFIED,
        role: Role::Uplink as u8,
        pad: [0; 3],
    }
}

fn slots() -> [Slot; 2] {
    let slot = Slot {
        current: BackendRef::new(5, 3),
        previous: BackendRef::NONE,
    };
    [Slot::header(1, 1), slot]
}

#[test]
fn what_is_written_is_read_back_also_by_the_next_process() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let empty = dataplane.observe().unwrap();
    assert_eq!((empty.frontends_max, empty.backends_max), (64, 256));
    assert_eq!(dataplane.slots(), vec![Slot::default(); 4096]);

    dataplane.put_backend(5, &backend(1)).unwrap();
    dataplane.write_slots(4094, &slots()).unwrap();
    for last in [1, 2] {
        dataplane.put_frontend(&key(last), &frontend(7)).unwrap();
        let index = u32::from(last);
        dataplane.put_interface(index, &interface()).unwrap();
    }
    for _ in 0..2 {
        dataplane.remove_frontend(&key(2)).unwrap();
        dataplane.remove_interface(2).unwrap();
    }
    dataplane.put_frontend(&key(1), &frontend(8)).unwrap();

    let expected = Observation {
        frontends: BTreeMap::from([(key(1), frontend(8))]),
        backends: BTreeMap::from([(5, backend(1))]),
        interfaces: BTreeMap::from([(1, interface())]),
        ..empty
    };
    assert_eq!(dataplane.observe().unwrap(), expected);
    assert_eq!(dataplane.slots()[4094..], slots());
    drop(dataplane);
    let next = pins.open();
    assert_eq!(next.observe().unwrap(), expected);
    assert_eq!(next.slots()[4094..], slots());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let error = dataplane.put_backend(256, &backend(1)).unwrap_err();
    assert_eq!(error.to_string(), "update BACKENDS[256]");
    let error = dataplane.write_slots(4095, &slots()).unwrap_err();
    assert!(matches!(
        error,
        DataplaneError::OutOfArena {
            offset: 4095,
            len: 2,
            capacity: 4096
        }
    ));
    for last in 0..64 {
        dataplane.put_frontend(&key(last), &frontend(1)).unwrap();
    }
    let error = dataplane.put_frontend(&key(64), &frontend(1)).unwrap_err();
    assert!(
        error.to_string().starts_with("update FRONTENDS["),
        "{error}"
    );
    assert!(error.to_string().contains("192.0.2.64"), "{error}");
}

#[test]
fn maps_of_another_shape_are_not_adopted() {
    let pins = PinDir::new();
    pins.open().put_frontend(&key(1), &frontend(1)).unwrap();
    let error = pins.open_with(|options| {
        options.maps[0].max_entries = 128;
        options.maps[2].key_size = 8;
    });
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("FRONTENDS: capacity is 64, must be 128"),
        "{error}"
    );
    assert!(
        error.contains("BACKENDS: key size is 4, must be 8"),
        "{error}"
    );
    let observed = pins.open().observe().unwrap();
    assert_eq!(observed.frontends, BTreeMap::from([(key(1), frontend(1))]));
}

#[test]
fn object_with_other_maps_leaves_no_pins() {
    let pins = PinDir::new();
    let error = pins.open_with(|options| options.maps[1].flags = 0);
    let error = error.err().unwrap();
    assert!(matches!(&error, Error::WrongObject { .. }), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("SLOTS: flags is 1024, must be 0"),
        "{error}"
    );

    let error = pins.open_with(|options| {
        options.maps.push(MapSpec {
            name: "NOPE",
            ..SPECS[0]
        })
    });
    assert_eq!(
        error.err().unwrap().to_string(),
        "the object has no map NOPE"
    );
    pins.open();
}

#[test]
fn pins_that_others_could_have_made_are_not_trusted() {
    let pins = PinDir::new();
    drop(pins.open());
    fs::set_permissions(&pins.0, fs::Permissions::from_mode(0o755)).unwrap();
    let error = pins.open_with(|_| {}).err().unwrap().to_string();
    assert!(error.ends_with("its mode is 755, not 700"), "{error}");

    fs::set_permissions(&pins.0, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&pins.0, Some(65_534), None).unwrap();
    let error = pins.open_with(|_| {}).err().unwrap().to_string();
    assert!(error.ends_with("its owner is user 65534, not 0"), "{error}");
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

/// A cgroup that goes with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then_some(path)
        });
        let path = Path::new(mount.expect("cgroup v2 is mounted")).join(unique());
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Number of programs that are attached.
    fn programs(&self) -> usize {
        let mut command = Command::new("bpftool");
        let output = command.args(["-j", "cgroup", "show"]).arg(&self.0).output();
        let stdout = output.unwrap().stdout;
        // Of a cgroup without programs, it says nothing at all.
        if stdout.trim_ascii().is_empty() {
            return 0;
        }
        let json: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        json.as_array().unwrap().len()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn socket_programs_are_exchanged_without_a_leak() {
    let (pins, cgroup) = (PinDir::new(), Cgroup::new());
    for _ in 0..3 {
        let path = Some(cgroup.0.clone());
        drop(pins.open_with(|options| options.cgroup = path).unwrap());
        assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 8);
        assert!(cgroup.programs() >= 8);
        soon("only the new ones are left", || cgroup.programs() == 8);
    }
    drop(pins.open());
    assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 0);
    soon("none is left", || cgroup.programs() == 0);
}

#[test]
fn missing_cgroup_is_named() {
    let pins = PinDir::new();
    let error = pins.open_with(|options| options.cgroup = Some("/nonexistent/cgroup".into()));
    let error = error.err().unwrap().to_string();
    assert_eq!(error, "open the cgroup /nonexistent/cgroup");
}
