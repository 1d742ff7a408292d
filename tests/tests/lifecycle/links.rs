//! Programs that are exchanged while packets pass.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use etherparse::PacketBuilder;
use lb_agent::dataplane::bpf::{self, BpfDataplane, Options, TcMode, XdpMode};
use lb_agent::interfaces::{Device, State};
use lb_agent::object;
use lb_common::counter::{Hook, Outcome};
use lb_common::maps::{LAYOUT_VERSION, MapSpec, OPENING, OPENING_WORDS, SPECS};
use lb_common::{Counter, DatapathConfig, Role};
use lb_tests::lab::Netns;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
};
use serde_json::Value;

use crate::stage::pause;
use crate::times;

/// Packets between two exchanges, at least.
const PACKETS: u64 = 50;

/// The same for some connections only.
fn small(spec: MapSpec) -> MapSpec {
    let max_entries = match spec.name {
        // The two belong together.
        OPENING | OPENING_WORDS => spec.max_entries,
        _ => spec.max_entries.min(1 << 14),
    };
    MapSpec {
        max_entries,
        ..spec
    }
}

/// A pair of devices in a namespace of their own: what the first one sends, the second one receives.
struct Wire {
    netns: Netns,
    pins: PathBuf,
}

impl Wire {
    fn new(name: &str) -> Self {
        let name = format!("lb-{}-{name}", std::process::id());
        let netns = Netns::create(&name).expect("a namespace");
        let commands = [
            "link add left type veth peer name right",
            "link set left up",
            "link set right up",
        ];
        netns.ip(&commands).expect("devices");
        let pins = Path::new("/sys/fs/bpf").join(&name);
        Self { netns, pins }
    }

    fn open(&self) -> BpfDataplane {
        let options = Options {
            pin_dir: self.pins.clone(),
            cgroup: None,
            xdp: XdpMode::Native,
            tc: TcMode::Auto,
            maps: SPECS.into_iter().map(small).collect(),
            config: DatapathConfig::DEFAULT,
            discards_unknown_layouts: false,
            stop_after: None,
        };
        bpf::open(object::LB, &options).expect("a data plane")
    }

    /// Programs of `role` on the receiving device.
    fn attach(&self, dataplane: &mut BpfDataplane, role: Role) -> u32 {
        let ifindex = self.netns.interface_index("right").expect("a device");
        let device = Device {
            name: "right".into(),
            role: Some(role),
            interface: None,
            vlan: false,
        };
        let state = State {
            devices: [(ifindex, device)].into(),
            ..State::default()
        };
        let synced = self.netns.run(|| dataplane.sync_attachments(&state));
        let failed = synced.expect("a namespace").failed;
        assert!(failed.is_empty(), "{failed:?}");
        ifindex
    }

    /// Packets that a device has not taken, sent or received.
    fn dropped(&self) -> u64 {
        let shown = self
            .netns
            .feed("ip", &["-j", "-s", "link"], "")
            .expect("devices");
        let devices: Vec<Value> = serde_json::from_str(&shown).expect("JSON");
        let of = |name: &str, way: &str| {
            let device = devices.iter().find(|device| device["ifname"] == name);
            device.and_then(|device| device["stats64"][way]["dropped"].as_u64())
        };
        // A veth counts what its peer has no room for at both ends.
        of("left", "tx").expect("a number") + of("right", "rx").expect("a number")
    }

    fn seen(&self, hook: Hook) -> u64 {
        let outcome = Outcome::Seen;
        let counters = bpf::pinned_counters(&self.pins).expect("counters");
        counters[Counter { hook, outcome }.index() as usize]
    }

    /// Sends packets until told to stop, and counts them, also those that the device has dropped because
    /// its peer has no room: the kernel says `ENOBUFS` of them (Linux 6.18).
    fn send(&self, stop: &AtomicBool, sent: &AtomicU64) {
        let ifindex = self.netns.interface_index("left").expect("a device");
        let frame = frame();
        let send = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            let to = address(ifindex);
            while !stop.load(Ordering::Relaxed) {
                match sendto(socket.as_raw_fd(), &frame, &to, MsgFlags::empty()) {
                    Ok(_) | Err(Errno::ENOBUFS) => drop(sent.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        self.netns
            .run(send)
            .expect("a namespace")
            .expect("a generator");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // One that was never created is gone, too.
        let _gone = std::fs::remove_dir_all(&self.pins);
    }
}

/// A datagram for nobody here.
fn frame() -> Vec<u8> {
    let mut frame = Vec::new();
    let (from, to) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.octets(), to.octets(), 64)
        .udp(4000, 4001)
        .write(&mut frame, &[7; 22])
        .expect("a frame");
    frame
}

fn address(ifindex: u32) -> LinkAddr {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: it is a `sockaddr_ll`, of the length that is said.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.expect("an address")
}

/// `BPF_OBJ_GET`.
fn open(pin: &Path) -> OwnedFd {
    const OBJ_GET: libc::c_long = 7;
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path");
    let attributes = [path.as_ptr().expose_provenance() as u64, 0];
    // SAFETY: the kernel reads the attributes, whose size it is told, and the path, which ends with a
    // zero. Both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    let fd = i32::try_from(result).expect("a descriptor");
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `BPF_LINK_UPDATE`.
fn update(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    const LINK_UPDATE: libc::c_long = 29;
    let attributes = [
        link.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
        0,
        0,
    ];
    // SAFETY: the kernel reads the attributes, whose size it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LINK_UPDATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Exchanges the program of a link again and again, while packets pass: each of them is seen by one of
/// the two programs.
fn exchange(role: Role, hook: Hook, pin: &str, program: &str) {
    let wire = Wire::new(pin);
    let (mut first, second) = (wire.open(), wire.open());
    let ifindex = wire.attach(&mut first, role);
    let path = wire
        .pins
        .join(format!("v{LAYOUT_VERSION}/links/{ifindex}-{pin}"));
    let id = || {
        let link = FdLink::from(PinnedLink::from_pin(&path).expect("a link"));
        link.info().expect("a link").id()
    };
    let before = id();
    let link = open(&path);
    let programs = [&first, &second].map(|dataplane| dataplane.program_fd(program));
    let programs = programs.map(|program| program.expect("such a program"));

    let (seen, dropped) = (wire.seen(hook), wire.dropped());
    let stop = AtomicBool::new(false);
    let exchanges = times(1000, 10_000);
    let began = Instant::now();
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        let sender = scope.spawn(|| wire.send(&stop, &sent));
        for exchange in 0..exchanges {
            let passed = || sent.load(Ordering::Relaxed) / PACKETS;
            while !sender.is_finished() && passed() < exchange as u64 {
                thread::yield_now();
            }
            update(&link, programs[(exchange + 1) % 2]).expect("an exchange");
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("a generator");
    });
    let sent = sent.into_inner();
    let took = began.elapsed();
    let deadline = Instant::now() + Duration::from_secs(5);
    let count = || (wire.seen(hook) - seen, wire.dropped() - dropped);
    while count().0 + count().1 < sent {
        let (seen, dropped) = count();
        assert!(
            Instant::now() < deadline,
            "{sent} sent, {seen} seen, {dropped} dropped by devices"
        );
        pause();
    }
    let (seen, dropped) = count();
    println!(
        "{pin}: {exchanges} exchanges in {took:.1?}; {sent} packets sent ({:.0}k/s), {seen} seen, \
         {dropped} without room at a device",
        sent as f64 / took.as_secs_f64() / 1000.0
    );
    assert_eq!(sent, seen + dropped);
    assert!(seen > 0);
    assert_eq!(id(), before, "the link is the same");
}

#[test]
fn r4_every_packet_is_seen_while_the_program_of_a_pods_device_is_exchanged() {
    exchange(Role::Pod, Hook::PodIngress, "pod-ingress", "lb_pod_ingress");
}

#[test]
fn r4_every_packet_is_seen_while_the_program_of_an_uplink_is_exchanged() {
    exchange(Role::Uplink, Hook::Xdp, "xdp-native", "lb_xdp");
}
