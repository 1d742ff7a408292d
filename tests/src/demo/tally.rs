//! How requests ended, summed up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;

use crate::tool::Reply;

/// As many failures are said one by one.
const FAILURES_SHOWN: usize = 20;

/// How requests ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// All, answered or not.
    pub(super) requests: u64,
    /// Those that were not answered.
    pub(super) failed: u64,
    /// What went wrong with the first of them.
    pub(super) failures: Vec<String>,
    /// Who answered how many.
    pub(super) answered: BTreeMap<String, u64>,
    /// From which addresses those who answered were asked, as they saw it.
    pub(super) sources: BTreeMap<IpAddr, u64>,
    /// How long the answers took, in milliseconds.
    times_ms: Vec<f64>,
}

impl Tally {
    /// Counts a request from `who`.
    pub(super) fn count(&mut self, who: &str, outcome: Result<Reply>) {
        self.requests += 1;
        match outcome {
            Ok(reply) => {
                *self.answered.entry(reply.server).or_default() += 1;
                *self.sources.entry(reply.seen_client.ip()).or_default() += 1;
                self.times_ms.push(reply.ms);
            }
            Err(error) => {
                self.fail(format!("request {} from {who}: {error:#}", self.requests));
            }
        }
    }

    /// Counts a failure.
    fn fail(&mut self, failure: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_SHOWN {
            self.failures.push(failure);
        }
    }

    /// Counts what another has counted.
    pub(super) fn add(&mut self, other: Self) {
        let Self {
            requests,
            failed,
            failures,
            answered,
            sources,
            times_ms,
        } = other;
        self.requests += requests;
        self.failed += failed;
        let room = FAILURES_SHOWN.saturating_sub(self.failures.len());
        self.failures.extend(failures.into_iter().take(room));
        for (name, count) in answered {
            *self.answered.entry(name).or_default() += count;
        }
        for (source, count) in sources {
            *self.sources.entry(source).or_default() += count;
        }
        self.times_ms.extend(times_ms);
    }

    /// The time that as many answers took longer as took less, in milliseconds.
    pub(super) fn median_ms(&self) -> Option<f64> {
        let mut times = self.times_ms.clone();
        times.sort_unstable_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }

    /// The longest time that an answer took, in milliseconds.
    pub(super) fn slowest_ms(&self) -> Option<f64> {
        self.times_ms.iter().copied().max_by(f64::total_cmp)
    }

    /// Who answered how many, one a line or in one.
    pub(super) fn answered_text(&self, separator: &str) -> String {
        let texts = self.answered.iter();
        let texts = texts.map(|(name, count)| format!("{name} ×{count}"));
        texts.collect::<Vec<_>>().join(separator)
    }
}

/// Milliseconds in a table; nothing was answered if there are none.
pub(super) fn ms(time: Option<f64>) -> String {
    time.map_or_else(|| "–".to_owned(), |time| format!("{time:.2}"))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn reply(server: &str, ms: f64) -> Reply {
        let address = "192.0.2.1:1".parse().unwrap();
        Reply {
            number: 0,
            server: server.to_owned(),
            seen_client: address,
            seen_server: address,
            peer: address,
            local: address,
            ms,
        }
    }

    #[test]
    fn sums_are_those_of_their_parts() {
        let mut all = Tally::default();
        for (name, ms) in [("a", 1.0), ("b", 2.0)] {
            let mut part = Tally::default();
            part.count("x", Ok(reply(name, ms)));
            part.count("x", Ok(reply("c", 9.0)));
            part.count("x", Err(anyhow!("lost")));
            all.add(part);
        }
        assert_eq!((all.requests, all.failed), (6, 2));
        assert_eq!(all.answered_text(" "), "a ×1 b ×1 c ×2");
        assert_eq!(all.failures, ["request 3 from x: lost"; 2]);
        assert_eq!((all.median_ms(), all.slowest_ms()), (Some(9.0), Some(9.0)));
    }
}
