//! How long the source waits, for what.

use std::time::Duration;

use tokio::time::Instant;

/// Times of the watches. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until a connection is up.
    pub connect: Duration,
    /// Until the API server begins to answer.
    pub response: Duration,
    /// Until the next object of a streamed list; then the list is fetched in pages.
    pub progress: Duration,
    /// Until a streamed list, or a page, is complete.
    pub list: Duration,
    /// The API server ends a watch after so long, in whole seconds.
    pub watch: Duration,
    /// A watch that says nothing for so long, not even a bookmark, is begun anew.
    pub silence: Duration,
    /// A watch that has said nothing for so long, however often it was begun anew, is given up
    /// for a new list.
    pub stale: Duration,
    /// A watch that ends sooner has failed.
    pub short: Duration,
    /// The first pause after a failure; each further one is twice as long.
    pub pause_min: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
    /// After so long without a failure, the next one is the first again.
    pub calm: Duration,
    /// Until an API that was not served is asked for again.
    pub unserved: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let watch = Duration::from_secs(290);
        Self {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            progress: Duration::from_secs(10),
            list: Duration::from_secs(120),
            watch,
            // Bookmarks come once a minute.
            silence: Duration::from_secs(150),
            stale: 2 * watch,
            short: Duration::from_secs(1),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            calm: Duration::from_secs(120),
            unserved: Duration::from_secs(600),
        }
    }
}

/// Grows the pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    times: Times,
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet.
    pub(super) fn new(times: Times) -> Self {
        Self {
            times,
            failures: 0,
            last: None,
        }
    }

    /// How long to pause after a failure at `now`: all nodes differ by chance, so that they do
    /// not come back at the same moment.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let Times {
            pause_min,
            pause_max,
            calm,
            ..
        } = self.times;
        if self.last.is_none_or(|last| now - last > calm) {
            self.failures = 0;
        }
        let pause = pause_min.saturating_mul(1 << self.failures.min(16));
        let pause = pause.min(pause_max);
        self.failures += 1;
        self.last = Some(now + pause);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_again_after_a_calm() {
        let times = Times::default();
        let mut backoff = Backoff::new(times);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = backoff.pause(now);
            pauses.push(pause);
            now += pause;
        }
        let expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0];
        for (pause, expected) in pauses.iter().zip(expected) {
            let range = expected / 2.0..=expected;
            assert!(range.contains(&pause.as_secs_f64()), "{pauses:?}");
        }
        now += times.calm * 2;
        assert!(backoff.pause(now) <= times.pause_min);
    }
}
