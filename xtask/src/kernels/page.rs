//! `docs/kernels.md`.

use super::guest::Told;
use crate::tally::Tally;

const HEAD: &str = "\
# Kernels

Written by `cargo xtask test kernels`: each kernel boots in a machine of its own (software emulation), asks
what it has (`lb-agent features`), runs tables of packets through the programs, and serves a small cluster:
a pod that dials a cluster address, a process of the node, and a client outside whose backend is on this node
or, by XDP, on another one. The last kernel is the one of the machine that the tests run on, without emulation: there,
everything else is tested, too.

| Linux | serves | tcx | tables of packets | walks |
| --- | --- | --- | --- | --- |
";

/// The page about these kernels.
pub(super) fn write(rows: &[Told]) -> String {
    let lines: Vec<_> = rows.iter().map(row).collect();
    let reasons: Vec<_> = rows.iter().filter_map(reason).collect();
    let mut text = HEAD.to_owned() + &lines.concat();
    if !reasons.is_empty() {
        text += "\nWhere none serves, this is why:\n\n";
        text += &reasons.concat();
    }
    text
}

fn row(told: &Told) -> String {
    let serves = told.is_complete && told.clusters.total() > 0 && !told.clusters.has_failures();
    let tcx = told
        .features
        .iter()
        .find(|line| line.trim().starts_with("tcx"));
    let tcx = match tcx.map(|line| line.split_whitespace().nth(1)) {
        Some(Some("yes")) => "yes",
        Some(Some("no")) => "no: filters of a `clsact` qdisc",
        _ => "not told",
    };
    format!(
        "| {} | {} | {tcx} | {} | {} |\n",
        told.release,
        if serves { "yes" } else { "no" },
        counts(told.programs),
        counts(told.clusters),
    )
}

fn counts(tally: Tally) -> String {
    let [passed, failed] = tally.counts();
    match failed {
        0 => format!("{passed} passed"),
        _ => format!("{passed} passed, {failed} failed"),
    }
}

fn reason(told: &Told) -> Option<String> {
    let reason = told.reason.as_ref()?;
    Some(format!("- {}: `{reason}`\n", told.release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_has_a_row_and_one_that_refuses_the_programs_a_reason() {
        let mut clusters = Tally::default();
        clusters.read("test result: ok. 4 passed; 0 failed; 0 ignored");
        let serving = Told {
            release: "6.1.0".into(),
            features: vec!["tcx  no  filters".into()],
            programs: clusters,
            clusters,
            is_complete: true,
            reason: None,
        };
        let refusing = Told {
            release: "5.10.0".into(),
            reason: Some("unknown func".into()),
            ..Told::default()
        };
        let text = write(&[refusing, serving]);
        let row = "| 6.1.0 | yes | no: filters of a `clsact` qdisc | 4 passed | 4 passed |\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| 5.10.0 | no | not told | 0 passed | 0 passed |\n"));
        assert!(text.ends_with("- 5.10.0: `unknown func`\n"));
    }
}
