//! How many instructions the verifier visits, program by program.
//!
//! The count decides whether a kernel loads a program at all. It is recorded in
//! `docs/verified-instructions.json`, and may only grow on purpose.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{EbpfLoader, programs::Program};

use crate::{process, workspace::Workspace};

/// Where the counts are recorded.
const RECORD: &str = "docs/verified-instructions.json";

/// Half of what the kernel allows (`BPF_COMPLEXITY_LIMIT_INSNS`): the other half is for other
/// kernels, whose verifiers visit more.
const LIMIT: u32 = 500_000;

/// Growth that goes unnoticed, in per cent.
const TOLERANCE: u64 = 10;

/// Counts by the name of the program.
type Counts = BTreeMap<String, u32>;

/// Loads every program of `object` and compares what the verifier did with the record; with
/// `bless`, writes the record anew.
pub(super) fn check(workspace: &Workspace, object: &[u8], bless: bool) -> Result<Vec<String>> {
    ensure!(
        process::is_root(),
        "tidy needs root to ask the verifier about the programs"
    );
    let path = workspace.root.join(RECORD);
    let measured = measure(object)?;
    if bless {
        let text = serde_json::to_string_pretty(&measured).context("cannot write counts")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {RECORD}"))?;
    }
    let text = fs::read(&path)
        .with_context(|| format!("cannot read {RECORD}; `cargo xtask tidy --bless` writes it"))?;
    let recorded: Counts =
        serde_json::from_slice(&text).with_context(|| format!("cannot read {RECORD}"))?;
    print(&recorded, &measured);
    Ok(compare(&recorded, &measured))
}

/// Loads every program, without attaching any, and asks the kernel for the counts.
fn measure(object: &[u8]) -> Result<Counts> {
    let mut ebpf = EbpfLoader::new()
        .load(object)
        .context("cannot load the eBPF object")?;
    let mut counts = Counts::new();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => bail!("{name} is of a kind that tidy does not load yet"),
        }
        .with_context(|| format!("the kernel refuses {name}"))?;
        let info = program
            .info()
            .with_context(|| format!("cannot ask about {name}"))?;
        let count = info
            .verified_instruction_count()
            .context("this kernel does not count (before 5.16)")?;
        counts.insert(name.to_owned(), count);
    }
    Ok(counts)
}

/// What is wrong with the counts.
fn compare(recorded: &Counts, measured: &Counts) -> Vec<String> {
    let bless = format!("`cargo xtask tidy --bless` records it in {RECORD}");
    let mut problems = Vec::new();
    for (name, &now) in measured {
        match recorded.get(name) {
            None => problems.push(format!("{name} is new; {bless}")),
            Some(&before) if u64::from(now) * 100 > u64::from(before) * (100 + TOLERANCE) => {
                problems.push(format!(
                    "{name} grew from {before} to {now}; if there is a reason, {bless}"
                ));
            }
            Some(_) => {}
        }
        if now > LIMIT {
            problems.push(format!(
                "{name} visits {now} instructions; at most {LIMIT} leave room for other kernels"
            ));
        }
    }
    let gone = recorded.keys().filter(|name| !measured.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name} is gone; {bless}")));
    problems
}

fn print(recorded: &Counts, measured: &Counts) {
    println!(
        "tidy: {:32} {:>9} {:>9}",
        "instructions visited", "recorded", "now"
    );
    for (name, now) in measured {
        let before = recorded
            .get(name)
            .map_or_else(|| "-".to_owned(), u32::to_string);
        println!("tidy:   {name:30} {before:>9} {now:>9}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts<const N: usize>(counts: [(&str, u32); N]) -> Counts {
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn growth_by_a_tenth_passes_and_more_fails() {
        let recorded = counts([("uplink", 1000)]);
        assert_eq!(
            compare(&recorded, &counts([("uplink", 1100)])),
            Vec::<String>::new()
        );
        assert_eq!(
            compare(&recorded, &counts([("uplink", 10)])),
            Vec::<String>::new()
        );
        let problems = compare(&recorded, &counts([("uplink", 1101)]));
        assert!(
            problems[0].contains("uplink grew from 1000 to 1101"),
            "{problems:?}"
        );
    }

    #[test]
    fn record_must_name_the_programs_that_exist() {
        assert_eq!(compare(&counts([]), &counts([("pod", 5)])).len(), 1);
        assert_eq!(compare(&counts([("pod", 5)]), &counts([])).len(), 1);
    }

    #[test]
    fn half_of_what_the_kernel_allows_is_the_most() {
        let large = counts([("pod", LIMIT + 1)]);
        assert_eq!(compare(&large, &large).len(), 1);
        let fits = counts([("pod", LIMIT)]);
        assert_eq!(compare(&fits, &fits), Vec::<String>::new());
    }
}
