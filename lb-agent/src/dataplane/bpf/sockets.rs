//! Puts the socket programs on a cgroup.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};

use super::{
    error::{Error, LinkFailure},
    failpoint,
    link::{self, LinkInfo},
    load,
    pins::Pins,
};

/// The socket calls that are translated.
pub(super) const CALLS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// Name of the program for `call`.
pub(super) fn program(call: &str) -> String {
    format!("lb_{call}")
}

/// Makes `cgroup` run the loaded programs, and no other one any of ours.
///
/// The programs of links of earlier runs are replaced in place. Where there is none for a call, or not
/// for this cgroup, one is attached before others go: for a moment both run, and the second finds
/// nothing to do.
pub(super) fn sync(ebpf: &mut Ebpf, pins: &Pins, cgroup: Option<&Path>) -> Result<(), Error> {
    let mut old: Vec<_> = pins.link_names()?.iter().filter_map(|n| parse(n)).collect();
    if let Some(path) = cgroup {
        let file = |source| Error::File {
            action: "open the cgroup",
            path: path.into(),
            source,
        };
        let cgroup = File::open(path).map_err(file)?;
        let id = cgroup.metadata().map_err(file)?.ino();
        let generation = old.iter().map(|(_, generation)| generation).max();
        let generation = generation.map_or(1, |newest| newest.wrapping_add(1));
        for call in CALLS {
            let mut ours = old.iter().filter(|(of, _)| *of == call);
            let kept = ours.find(|(_, generation)| {
                let pin = pins.link(&pin_name(call, *generation));
                replace(ebpf, call, id, &pin).is_ok()
            });
            if let Some(kept) = kept.copied() {
                old.retain(|link| *link != kept);
                continue;
            }
            let pin = pins.link(&pin_name(call, generation));
            attach(ebpf, call, &cgroup, &pin).map_err(|source| Error::Attach {
                program: program(call),
                target: path.display().to_string(),
                source: source.into(),
            })?;
        }
    }
    for (call, generation) in old {
        pins.remove_link(&pin_name(call, generation))?;
    }
    Ok(())
}

/// Exchanges the program of a link for the loaded one, if it is one of the cgroup `id`.
fn replace(ebpf: &mut Ebpf, call: &str, id: u64, pin: &Path) -> Result<(), LinkFailure> {
    if !LinkInfo::from_pin(pin)?.is_of_cgroup(id) {
        return Err(io::Error::from_raw_os_error(libc::ENOLINK).into());
    }
    let program: &mut CgroupSockAddr = load::program(ebpf, &program(call))?;
    failpoint::pass();
    Ok(link::replace(pin, program.fd()?.as_fd())?)
}

fn attach(ebpf: &mut Ebpf, call: &str, cgroup: &File, pin: &Path) -> Result<(), LinkFailure> {
    let program: &mut CgroupSockAddr = load::program(ebpf, &program(call))?;
    // `AllowMultiple` is what links do anyway, and asking for it is refused.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    failpoint::pass();
    link.pin(pin)?;
    Ok(())
}

fn pin_name(call: &str, generation: u32) -> String {
    format!("socket-{call}-{generation}")
}

/// Whether this is the name of a pin of `call`, of any generation.
pub(super) fn is_pin_of(name: &str, call: &str) -> bool {
    parse(name).is_some_and(|(of, _)| of == call)
}

/// Whether this is the name of a pin of a program that says to a process whom it talks to.
pub(super) fn is_of_answers(name: &str) -> bool {
    parse(name).is_some_and(|(call, _)| call.starts_with("recvmsg") || call.starts_with("getpeer"))
}

/// The call and the generation of a pin; none if it is the pin of something else.
fn parse(name: &str) -> Option<(&'static str, u32)> {
    let (call, generation) = name.strip_prefix("socket-")?.split_once('-')?;
    let call = CALLS.into_iter().find(|known| *known == call)?;
    let generation = generation.parse().ok()?;
    (pin_name(call, generation) == name).then_some((call, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_survive_the_round_trip() {
        for call in CALLS {
            for generation in [0, 1, u32::MAX] {
                assert_eq!(parse(&pin_name(call, generation)), Some((call, generation)));
            }
        }
    }

    #[test]
    fn names_of_other_pins_are_none_of_ours() {
        for name in [
            "socket-connect4",
            "socket-bind4-1",
            "socket-connect4-01",
            "socket-connect4-1-1",
            "7-pod-ingress",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
