//! How much memory a process has.

use std::fs;

use anyhow::{Context as _, Result};

/// What `/proc` says of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// The most that it ever had in memory: its own, files, and maps of the kernel's that it has
    /// mapped.
    pub(super) peak: u64,
    /// What is its own alone, at the moment.
    pub(super) own: u64,
}

impl Memory {
    /// Asks about a process.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&status).with_context(|| format!("{path} tells of no memory"))
    }

    fn parse(status: &str) -> Option<Self> {
        Some(Self {
            peak: field(status, "VmHWM:")?,
            own: field(status, "RssAnon:")?,
        })
    }
}

/// A line's number of kilobytes, in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_own_memory_are_read() {
        let status =
            "Name:\tlb-agent\nVmHWM:\t    2048 kB\nVmRSS:\t 1500 kB\nRssAnon:\t       1 kB\n";
        let memory = Memory {
            peak: 2 << 20,
            own: 1024,
        };
        assert_eq!(Memory::parse(status), Some(memory));
    }

    #[test]
    fn process_that_has_ended_has_none() {
        assert_eq!(Memory::parse("Name:\tlb-agent\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn own_memory_is_part_of_the_peak() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(0 < memory.own && memory.own <= memory.peak, "{memory:?}");
    }
}
