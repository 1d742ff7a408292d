//! Puts the socket programs on a cgroup.

use std::{fs::File, path::Path};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};

use super::{
    error::{Error, LinkFailure},
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

/// Attaches the loaded programs to `cgroup`, and detaches those of earlier runs.
///
/// aya 0.14 cannot replace the program of such a link. So the new one is attached beside the old
/// one, which goes afterwards: for a moment both run, and the second finds nothing to do.
pub(super) fn sync(ebpf: &mut Ebpf, pins: &Pins, cgroup: Option<&Path>) -> Result<(), Error> {
    let old: Vec<_> = pins.link_names()?.iter().filter_map(|n| parse(n)).collect();
    if let Some(path) = cgroup {
        let cgroup = File::open(path).map_err(|source| Error::File {
            action: "open the cgroup",
            path: path.into(),
            source,
        })?;
        let generation = old.iter().map(|(_, generation)| generation).max();
        let generation = generation.map_or(1, |newest| newest.wrapping_add(1));
        for call in CALLS {
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

fn attach(ebpf: &mut Ebpf, call: &str, cgroup: &File, pin: &Path) -> Result<(), LinkFailure> {
    let program: &mut CgroupSockAddr = load::program(ebpf, &program(call))?;
    // `AllowMultiple` is what links do anyway, and asking for it is refused.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
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
