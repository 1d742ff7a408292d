//! Counts of what passed and what failed.

use std::process::ExitCode;

use anyhow::Result;

/// Results of tests and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Counts one check, and says why it failed if it did.
    pub(crate) fn record(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("error: {error:#}");
                self.failed += 1;
            }
        }
    }

    /// Whether anything failed.
    pub(crate) fn has_failures(self) -> bool {
        self.failed > 0
    }

    /// How many passed, and how many failed.
    pub(crate) fn counts(self) -> [u32; 2] {
        [self.passed, self.failed]
    }

    /// How many results these are.
    pub(crate) fn total(self) -> u32 {
        self.passed + self.failed
    }

    /// Adds the counts of a line of a test runner's output, if it has any:
    /// `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count
                .split_once(' ')
                .map(|(number, what)| (number.parse::<u32>(), what))
            {
                Some((Ok(number), "passed")) => self.passed += number,
                Some((Ok(number), "failed")) => self.failed += number,
                _ => {}
            }
        }
    }

    /// Prints the counts and turns them into the process's exit status.
    pub(crate) fn report(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.has_failures() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn counts_of_all_runs_are_summed() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        tally.read("test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        assert_eq!(
            tally,
            Tally {
                passed: 17,
                failed: 2
            }
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        let mut tally = Tally::default();
        tally.read("test tests::says_3 passed; ... ok");
        tally.read("running 3 tests");
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn failed_check_counts_as_one() {
        let mut tally = Tally::default();
        tally.record(Ok(()));
        tally.record(Err(anyhow!("expected")));
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: 1
            }
        );
        assert!(tally.has_failures());
    }
}
