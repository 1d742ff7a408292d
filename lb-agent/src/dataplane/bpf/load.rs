//! Loads the object: its maps from their pins, its programs through the verifier.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp},
};
use caps::{CapSet, Capability};
use lb_common::{
    DatapathConfig,
    flow::{opening::buckets, opening_pins::buckets_of},
    known,
    maps::{ESTABLISHED, FRONTEND_INDEX, KNOWN, MapSpec, OPENING, OPENING_PINS},
};

use super::{
    Options, TcMode, XdpMode,
    error::{Error, is_absent},
    features::{Feature, features},
    filter,
    layout::{self, Difference},
    maps::Raw,
    opening,
    pins::Pins,
    plan::{TCX_PROGRAMS, XDP_PROGRAM},
    sockets,
};

/// Loads maps and programs, which take over from those of `earlier` pins; nothing is attached yet.
pub(super) fn load(
    object: &[u8],
    options: &Options,
    pins: &Pins,
    earlier: &Pins,
) -> Result<Ebpf, Error> {
    load_all(object, options, pins, earlier).map_err(|error| match features() {
        Ok(features) => explained(error, &features),
        Err(_) => error,
    })
}

/// What the verifier says of a program is long; that the kernel lacks something is one sentence instead.
fn explained(error: Error, features: &[Feature]) -> Error {
    match (&error, features.iter().find(|feature| feature.stops())) {
        (Error::Program { .. }, Some(missing)) => Error::Lacking {
            feature: missing.name,
        },
        _ => error,
    }
}

fn load_all(object: &[u8], options: &Options, pins: &Pins, earlier: &Pins) -> Result<Ebpf, Error> {
    has_filters(options.tc)?;
    let missing = check_pins(&options.maps, pins)?;
    let seed = opening::seed(pins, earlier)?;
    let loaded = load_object(object, options, pins, seed);
    let checked = loaded.and_then(|ebpf| check_object(&options.maps, pins).map(|()| ebpf));
    let mut ebpf = checked.inspect_err(|_| {
        // These pins are this load's doing, and must not stand in a better one's way.
        for spec in missing {
            // One that was not created.
            let _absent = fs::remove_file(pins.map(spec.name));
        }
    })?;
    opening::set_seed(pins, seed)?;
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

/// Whether programs are filters of a qdisc.
pub(super) fn has_filters(mode: TcMode) -> Result<bool, Error> {
    match mode {
        TcMode::Auto => Ok(!filter::has_tcx()),
        TcMode::Tcx if filter::has_tcx() => Ok(false),
        TcMode::Tcx => Err(Error::NoTcx),
        TcMode::Clsact => Ok(true),
    }
}

/// 1 if processors of this kind see each other's stores in order.
const STORES_IN_ORDER: u32 = cfg!(target_arch = "x86_64") as u32;

fn load_object(
    object: &[u8],
    options: &Options,
    pins: &Pins,
    opening_seed: u64,
) -> Result<Ebpf, Error> {
    let elements = |name| {
        let map = options.maps.iter().find(|map| map.name == name);
        map.map_or(0, |map| map.max_entries)
    };
    let config = Raw(DatapathConfig {
        frontend_buckets: elements(FRONTEND_INDEX),
        mark_buckets: elements(ESTABLISHED),
        // Programs that came before, with another one, have left marks that are none to these.
        mark_seed: RandomState::new().hash_one(0) as u32,
        ..options.config
    });
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", &config, true);
    let known_words = known::side_words(elements(KNOWN));
    loader.override_global("KNOWN_WORDS", &known_words, true);
    let opening_buckets = buckets(elements(OPENING));
    loader.override_global("OPENING_BUCKETS", &opening_buckets, true);
    let pin_buckets = buckets_of(elements(OPENING_PINS));
    loader.override_global("PIN_BUCKETS", &pin_buckets, true);
    loader.override_global("OPENING_SEED", &opening_seed, true);
    loader.override_global("STORES_IN_ORDER", &STORES_IN_ORDER, true);
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
    Ok(Some(spec_of(spec.name, &info)))
}

/// A map that there is, in the words of a specification.
pub(super) fn spec_of(name: &'static str, info: &MapInfo) -> MapSpec {
    MapSpec {
        name,
        // A kind that aya does not know is none of ours.
        kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    }
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
    load(program(ebpf, name)?).map_err(|source| {
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_PERFMON).unwrap_or(true) {
            refused(name, source)
        } else {
            Error::NoPerfmon {
                program: name.into(),
            }
        }
    })
}

fn refused(name: &str, source: ProgramError) -> Error {
    Error::Program {
        program: name.into(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_of_a_program_is_explained_by_what_the_kernel_lacks() {
        let feature = |is_there| Feature {
            name: "what it takes",
            is_there,
            without: "",
        };
        let refusal = || refused("lb_xdp", ProgramError::NotLoaded);
        let lacking = explained(refusal(), &[feature(true), feature(false)]);
        assert!(
            lacking.to_string().contains("lacks what it takes"),
            "{lacking}"
        );
        let other = explained(refusal(), &[feature(true)]);
        assert!(matches!(other, Error::Program { .. }), "{other}");
        let none_of_its = explained(Error::NoTcx, &[feature(false)]);
        assert!(matches!(none_of_its, Error::NoTcx), "{none_of_its}");
    }
}
