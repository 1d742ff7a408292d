//! This process, as the kernel sees it.

use std::{fs, io};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use super::registry::{PROCESS_CPU, PROCESS_FDS, PROCESS_MEMORY, PROCESS_START, PROCESS_VIRTUAL};

/// Reads `/proc/self` when it is asked.
#[derive(Debug)]
pub(super) struct Process;

/// What is in `/proc/self`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Facts {
    cpu_seconds: f64,
    /// Seconds of the epoch.
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    open_files: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // A scrape goes on without what cannot be read.
        let Ok(facts) = read() else { return Ok(()) };
        PROCESS_CPU.encode(&mut encoder, &ConstCounter::new(facts.cpu_seconds))?;
        PROCESS_START.encode(&mut encoder, &ConstGauge::new(facts.started))?;
        for (described, value) in [
            (&PROCESS_VIRTUAL, facts.virtual_bytes),
            (&PROCESS_MEMORY, facts.resident_bytes),
            (&PROCESS_FDS, facts.open_files),
        ] {
            described.encode(&mut encoder, &ConstGauge::new(value))?;
        }
        Ok(())
    }
}

fn read() -> io::Result<Facts> {
    let number = |variable| match sysconf(variable) {
        Ok(Some(value)) => u64::try_from(value).map_err(io::Error::other),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    let boot = boot_time(&fs::read_to_string("/proc/stat")?);
    let facts = parse(
        &fs::read_to_string("/proc/self/stat")?,
        number(SysconfVar::CLK_TCK)?,
        number(SysconfVar::PAGE_SIZE)?,
        boot.ok_or(io::ErrorKind::InvalidData)?,
    );
    let facts = facts.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Facts {
        open_files: fs::read_dir("/proc/self/fd")?.count() as u64,
        ..facts
    })
}

/// Seconds of the epoch at which the machine was started.
fn boot_time(stat: &str) -> Option<u64> {
    let mut lines = stat.lines();
    lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)), counted from the one behind the command's name.
fn parse(stat: &str, ticks: u64, page: u64, boot: u64) -> Option<Facts> {
    const UTIME: usize = 11;
    const STIME: usize = 12;
    const STARTTIME: usize = 19;
    const VSIZE: usize = 20;
    const RSS: usize = 21;
    // The name is in parentheses, and may have some of its own.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let seconds = |in_ticks: u64| in_ticks as f64 / ticks as f64;
    Some(Facts {
        cpu_seconds: seconds(field(UTIME)? + field(STIME)?),
        started: boot as f64 + seconds(field(STARTTIME)?),
        virtual_bytes: field(VSIZE)?,
        resident_bytes: field(RSS)? * page,
        open_files: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 1000 4096000 25 18446744073709551615";
        let facts = parse(stat, 100, 4096, 1_700_000_000).unwrap();
        let expected = Facts {
            cpu_seconds: 3.0,
            started: 1_700_000_010.0,
            virtual_bytes: 4_096_000,
            resident_bytes: 102_400,
            open_files: 0,
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn this_process_can_be_read() {
        let facts = read().unwrap();
        assert!(facts.resident_bytes > 100_000 && facts.open_files > 2);
        assert!(facts.started > 1_500_000_000.0);
    }
}
