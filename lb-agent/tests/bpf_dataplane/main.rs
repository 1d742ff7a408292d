//! The kernel's maps and hooks, with the real object. Needs root, and bpftool.
//!
//! Every test has a pin directory, a network namespace and, where it needs one, a cgroup of its
//! own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::links::PinnedLink;
use lb_agent::{
    dataplane::bpf::{self, BpfDataplane, Error, Options, TcMode, XdpMode},
    object,
};
use lb_common::{
    DatapathConfig,
    flow::opening,
    maps::{
        BACKENDS, EVENTS, FRONTENDS, INTERFACES, LAYOUT_VERSION, MapSpec, OPENING_WORDS, SLOTS,
        SPECS,
    },
};

mod carry;
mod devices;
mod filters;
mod known;
mod layouts;
mod maps;
mod sockets;
mod sweep;

/// All maps, smaller than they are made for nodes.
fn specs() -> Vec<MapSpec> {
    let small = |name| match name {
        FRONTENDS => 64,
        SLOTS => 4096,
        BACKENDS => 256,
        INTERFACES => 16,
        OPENING_WORDS => opening::lines(1024),
        // Whole pages.
        EVENTS => 1 << 16,
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
            tc: TcMode::Auto,
            maps: specs(),
            config: DatapathConfig::DEFAULT,
            discards_unknown_layouts: false,
            stop_after: None,
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
        self.0.join(format!("v{LAYOUT_VERSION}/links"))
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
