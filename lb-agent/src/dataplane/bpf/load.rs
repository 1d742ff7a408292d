//! Loads the object: its maps from their pins, its programs through the verifier.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp},
    util::KernelVersion,
};
use lb_common::maps::MapSpec;

use super::{
    Options, XdpMode,
    error::{Error, is_absent},
    layout::{self, Difference},
    maps::Raw,
    pins::Pins,
    plan::{TCX_PROGRAMS, XDP_PROGRAM},
    sockets,
};

/// Loads maps and programs; nothing is attached yet.
pub(super) fn load(object: &[u8], options: &Options, pins: &Pins) -> Result<Ebpf, Error> {
    if !KernelVersion::current().is_ok_and(|current| current >= KernelVersion::new(6, 6, 0)) {
        return Err(Error::NoTcx);
    }
    let missing = check_pins(&options.maps, pins)?;
    let mut ebpf = load_object(object, options, pins)?;
    if let Err(error) = check_object(&options.maps, pins) {
        // These pins are this object's doing, and must not stand in a better one's way.
        for spec in missing {
            // One that the object lacks was not created.
            let _absent = fs::remove_file(pins.map(spec.name));
        }
        return Err(error);
    }
    for name in TCX_PROGRAMS {
        load_program(&mut ebpf, name, SchedClassifier::load)?;
    }
    if options.xdp != XdpMode::Off {
        load_program(&mut ebpf, XDP_PROGRAM, Xdp::load)?;
    }
    if options.cgroup.is_some() {
        for call in sockets::CALLS {
            load_program(&mut ebpf, &sockets::program(call), CgroupSockAddr::load)?;
        }
    }
    Ok(ebpf)
}

fn load_object(object: &[u8], options: &Options, pins: &Pins) -> Result<Ebpf, Error> {
    let config = Raw(options.config);
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", &config, true);
    for spec in &options.maps {
        loader
            .map_max_entries(spec.name, spec.max_entries)
            .map_pin_path(spec.name, pins.map(spec.name));
    }
    loader.load(object).map_err(Error::Load)
}

/// Compares all pins with `specs`: aya would adopt any map. Returns the maps without a pin.
fn check_pins<'a>(specs: &'a [MapSpec], pins: &Pins) -> Result<Vec<&'a MapSpec>, Error> {
    let (mut differences, mut missing) = (Vec::new(), Vec::new());
    for spec in specs {
        match pinned(spec, &pins.map(spec.name))? {
            Some(found) => differences.extend(layout::differences(spec, &found)),
            None => missing.push(spec),
        }
    }
    if differences.is_empty() {
        return Ok(missing);
    }
    Err(Error::Incompatible {
        path: pins.maps().into(),
        differences,
    })
}

/// Compares what the loader has created with `specs`.
fn check_object(specs: &[MapSpec], pins: &Pins) -> Result<(), Error> {
    let mut differences: Vec<Difference> = Vec::new();
    for spec in specs {
        let found = pinned(spec, &pins.map(spec.name))?.ok_or_else(|| Error::Missing {
            kind: "map",
            name: spec.name.into(),
        })?;
        differences.extend(layout::differences(spec, &found));
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Error::WrongObject { differences })
    }
}

/// What is pinned at `path`, in the words of a specification.
fn pinned(spec: &MapSpec, path: &Path) -> Result<Option<MapSpec>, Error> {
    let info = match MapInfo::from_pin(path) {
        Ok(info) => info,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => {
            return Err(Error::Map {
                action: "open the pin of",
                map: spec.name,
                source: Box::new(error),
            });
        }
    };
    Ok(Some(MapSpec {
        name: spec.name,
        // A kind that aya does not know is none of ours.
        kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    }))
}

/// The program `name` as the type that it must have.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| Error::Missing {
        kind: "program",
        name: name.into(),
    })?;
    program.try_into().map_err(|source| refused(name, source))
}

fn load_program<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &str,
    load: impl FnOnce(&'a mut P) -> Result<(), ProgramError>,
) -> Result<(), Error>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    P: 'a,
{
    load(program(ebpf, name)?).map_err(|source| refused(name, source))
}

fn refused(name: &str, source: ProgramError) -> Error {
    Error::Program {
        program: name.into(),
        source: Box::new(source),
    }
}
