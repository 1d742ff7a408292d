//! What must be so before programs and maps are put into the kernel: said in a sentence each, before the
//! kernel refuses with a number.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use lb_common::maps::{Kind, MapSpec};

/// Numbers of capabilities (`linux/capability.h`).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Something that the agent needs is missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not do what it is for.
    #[error(
        "the capabilities {} are missing: run as root, or give them to the container \
         (securityContext.capabilities.add) or to the process (ambient capabilities)",
        .0.join(" and ")
    )]
    Capabilities(Vec<&'static str>),
    /// The maps would not fit into the memory that the process may use.
    #[error(
        "the maps take about {} and {limit_path} allows {} (the largest: {}): raise the memory limit, \
         or lower --flows-max, --opening-max, --slots-max or --backends-max",
        mebibytes(*needed), mebibytes(*limit), largest(maps)
    )]
    Memory {
        /// Sum of the maps that are to be created, in bytes.
        needed: u64,
        /// What the control group allows.
        limit: u64,
        /// Where that is said.
        limit_path: PathBuf,
        /// Bytes by map.
        maps: Vec<(&'static str, u64)>,
    },
}

/// Checks what can be known before anything is done. `is_pinned` says which maps are there already: their
/// memory is counted elsewhere.
///
/// # Errors
///
/// [`Error`]. What cannot be found out is taken for granted.
pub fn check(specs: &[MapSpec], is_pinned: impl Fn(&str) -> bool) -> Result<(), Error> {
    if let Some(held) = effective_capabilities() {
        let missing = missing(held);
        if !missing.is_empty() {
            return Err(Error::Capabilities(missing));
        }
        if held & (1 << PERFMON | 1 << SYS_ADMIN) == 0 {
            tracing::info!(
                "without CAP_PERFMON the verifier adds barriers to the programs: they are slower"
            );
        }
    }
    let new: Vec<MapSpec> = specs
        .iter()
        .filter(|s| !is_pinned(s.name))
        .copied()
        .collect();
    match memory_limit() {
        Some((path, limit)) => check_memory(&new, processors(), limit, path),
        None => Ok(()),
    }
}

fn check_memory(specs: &[MapSpec], cpus: u64, limit: u64, path: PathBuf) -> Result<(), Error> {
    let maps: Vec<_> = specs
        .iter()
        .map(|spec| (spec.name, bytes(spec, cpus)))
        .collect();
    let needed = maps.iter().map(|(_, bytes)| bytes).sum();
    if needed <= limit {
        return Ok(());
    }
    Err(Error::Memory {
        needed,
        limit,
        limit_path: path,
        maps,
    })
}

/// About how much memory a map takes from its creation on.
fn bytes(spec: &MapSpec, cpus: u64) -> u64 {
    const BUCKET: u64 = 16;
    const ELEMENT: u64 = 48;
    let entries = u64::from(spec.max_entries);
    let key = u64::from(spec.key_size).next_multiple_of(8);
    let value = u64::from(spec.value_size).next_multiple_of(8);
    let is = |kind: Kind| spec.kind == kind as u32;
    if is(Kind::Array) {
        entries * value
    } else if is(Kind::PerCpuArray) {
        entries * value * cpus
    } else if is(Kind::RingBuf) {
        entries
    } else if is(Kind::LpmTrie) {
        // Its elements take memory as they come.
        0
    } else {
        let values = if is(Kind::PerCpuHash) { cpus } else { 1 };
        entries * (ELEMENT + key + value * values) + entries.next_power_of_two() * BUCKET
    }
}

/// The capabilities that are missing from the set `held`.
fn missing(held: u64) -> Vec<&'static str> {
    let has = |capability: u32| held >> capability & 1 == 1;
    let needed = [(BPF, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN")];
    let lacking = needed.into_iter().filter(|(capability, _)| {
        // The old capability that the others were taken from.
        !has(*capability) && !has(SYS_ADMIN)
    });
    lacking.map(|(_, name)| name).collect()
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The least limit of this process's control group and of those above it, of either version.
fn memory_limit() -> Option<(PathBuf, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    limit_files(&groups, &mounts)
        .into_iter()
        .filter_map(|path| {
            let limit = read_limit(&path).ok()??;
            Some((path, limit))
        })
        .min_by_key(|(_, limit)| *limit)
}

/// Where limits may stand, by `/proc/self/cgroup` and `/proc/self/mounts`.
fn limit_files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for group in groups.lines() {
        let mut fields = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (kind, option, file) = match controllers {
            "" => ("cgroup2", "", "memory.max"),
            "memory" => ("cgroup", "memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, place, of, options, ..] = fields.as_slice() else {
                return None;
            };
            let has_option = option.is_empty() || options.split(',').any(|o| o == option);
            (*of == kind && has_option).then_some(Path::new(*place))
        });
        if let Some(root) = root {
            let group = root.join(path.trim_start_matches('/'));
            let above = group.ancestors().take_while(|path| path.starts_with(root));
            files.extend(above.map(|group| group.join(file)));
        }
    }
    files
}

/// None where there is no limit.
fn read_limit(path: &Path) -> io::Result<Option<u64>> {
    Ok(fs::read_to_string(path)?.trim().parse().ok())
}

fn processors() -> u64 {
    thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn largest(maps: &[(&str, u64)]) -> String {
    const NAMED: usize = 4;
    let mut maps = maps.to_vec();
    maps.sort_by_key(|(_, bytes)| u64::MAX - bytes);
    let maps = maps.iter().take(NAMED);
    let maps: Vec<String> = maps
        .map(|(name, bytes)| format!("{name} {}", mebibytes(*bytes)))
        .collect();
    maps.join(", ")
}

#[cfg(test)]
mod tests {
    use lb_common::maps::SPECS;

    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(1 << BPF | 1 << NET_ADMIN), Vec::<&str>::new());
        assert_eq!(missing(1 << SYS_ADMIN), Vec::<&str>::new());
        assert_eq!(missing(1 << NET_ADMIN), ["CAP_BPF"]);
        assert_eq!(missing(0), ["CAP_BPF", "CAP_NET_ADMIN"]);
        let text = Error::Capabilities(missing(0)).to_string();
        assert!(
            text.starts_with("the capabilities CAP_BPF and CAP_NET_ADMIN are missing: run as root")
        );
    }

    #[test]
    fn a_limit_below_the_sum_of_the_maps_is_refused_with_the_sum_and_the_largest() {
        let check = |limit| check_memory(&SPECS, 2, limit, "/cgroup/memory.max".into());
        assert!(check(1 << 30).is_ok());
        let text = check(32 << 20).unwrap_err().to_string();
        assert!(text.contains("allows 32 MiB"), "{text}");
        assert!(text.contains("(the largest: FLOWS "), "{text}");
        assert!(text.contains("--flows-max"), "{text}");
    }

    #[test]
    fn maps_at_their_default_capacities_take_what_the_manifest_asks_for() {
        let sum: u64 = SPECS.iter().map(|spec| bytes(spec, 2)).sum();
        assert!((128 << 20..256 << 20).contains(&sum), "{}", mebibytes(sum));
    }

    #[test]
    fn limits_are_looked_for_in_groups_of_either_version_and_above_them() {
        let mounts = "cgroup2 /c/unified cgroup2 rw 0 0\n\
                      cgroup /c/cpu cgroup rw,cpu 0 0\n\
                      cgroup /c/memory cgroup rw,relatime,memory 0 0\n";
        let files = |groups| limit_files(groups, mounts);
        assert_eq!(
            files("5:memory:/a\n3:cpu:/b\n"),
            [
                "/c/memory/a/memory.limit_in_bytes",
                "/c/memory/memory.limit_in_bytes"
            ]
            .map(PathBuf::from)
        );
        let both = ["/c/unified/a/memory.max", "/c/unified/memory.max"];
        assert_eq!(files("0::/a\n"), both.map(PathBuf::from));
        assert_eq!(
            files("0::/\n"),
            ["/c/unified/memory.max"].map(PathBuf::from)
        );
    }

    #[test]
    fn no_limit_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.max");
        fs::write(&path, "max\n").unwrap();
        assert_eq!(read_limit(&path).unwrap(), None);
        fs::write(&path, "4096\n").unwrap();
        assert_eq!(read_limit(&path).unwrap(), Some(4096));
    }
}
