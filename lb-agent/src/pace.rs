//! When the agent brings the maps in step (item 62).

use std::{
    future,
    time::{Duration, Instant},
};

use tokio::{task, time};

/// Waits until `when`; for ever if that is never. What is due already does not wait for the timer, which
/// counts milliseconds.
pub(crate) async fn until(when: Option<Instant>) {
    match when {
        // Others have their turn, whoever is always due.
        Some(when) if when <= Instant::now() => task::yield_now().await,
        Some(when) => time::sleep_until(when.into()).await,
        None => future::pending().await,
    }
}

/// Decides when the next run starts. Pure: time is an argument.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Between the end of a run and the start of the next one, at least.
    period: Duration,
    /// The same where nothing but a failure is the reason.
    retry: Duration,
    last: Option<Instant>,
    /// Whether something has changed since the last run.
    changed: bool,
    failed: bool,
}

impl Pace {
    /// Nothing has run yet, and nothing has changed.
    pub(crate) fn new(period: Duration, retry: Duration) -> Self {
        Self {
            period,
            retry: retry.max(period),
            last: None,
            changed: false,
            failed: false,
        }
    }

    /// There is a reason to run.
    pub(crate) fn change(&mut self) {
        self.changed = true;
    }

    /// A run has ended; `done` unless it has to be tried again. Changes from now on count: the
    /// run has seen all others.
    pub(crate) fn ran(&mut self, ended: Instant, done: bool) {
        self.last = Some(ended);
        self.changed = false;
        self.failed = !done;
    }

    /// There was nothing to run with yet: whatever comes first is served at once.
    pub(crate) fn skipped(&mut self) {
        (self.changed, self.failed) = (false, false);
    }

    /// When the next run is to start, as seen at `now`; never without a reason.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let pause = match (self.changed, self.failed) {
            (true, _) => self.period,
            (false, true) => self.retry,
            (false, false) => return None,
        };
        Some(self.last.map_or(now, |last| now.max(last + pause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);
    const RETRY: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn pace() -> (Pace, Instant) {
        (Pace::new(PERIOD, RETRY), Instant::now())
    }

    #[test]
    fn s62_the_first_change_is_served_at_once() {
        let (mut pace, now) = pace();
        assert_eq!(pace.next(now), None, "nothing to do");
        pace.change();
        assert_eq!(pace.next(now), Some(now));
        pace.ran(now, true);
        pace.change();
        let later = now + 2 * PERIOD;
        assert_eq!(pace.next(later), Some(later), "after a quiet time, too");
    }

    #[test]
    fn s62_a_change_before_there_is_anything_to_serve_delays_nothing() {
        let (mut pace, now) = pace();
        pace.change();
        pace.skipped();
        assert_eq!(pace.next(now), None);
        pace.change();
        assert_eq!(pace.next(now), Some(now));
    }

    #[test]
    fn what_failed_before_there_is_anything_to_serve_is_not_tried_for_ever() {
        let (mut pace, now) = pace();
        pace.ran(now, false);
        pace.skipped();
        assert_eq!(pace.next(now + 2 * RETRY), None);
    }

    #[test]
    fn s62_later_changes_wait_together_from_the_end_of_a_run() {
        let (mut pace, start) = pace();
        pace.change();
        let end = start + 5 * MOMENT;
        pace.ran(end, true);
        assert_eq!(pace.next(end), None, "nothing has changed");
        for _ in 0..3 {
            pace.change();
            assert_eq!(pace.next(end + MOMENT), Some(end + PERIOD));
        }
        pace.ran(end + PERIOD, true);
        assert_eq!(pace.next(end + PERIOD), None, "one run for all of them");
    }

    #[test]
    fn s62_a_failed_run_is_tried_again() {
        let (mut pace, now) = pace();
        pace.change();
        pace.ran(now, false);
        assert_eq!(pace.next(now), Some(now + RETRY));
        pace.ran(now + RETRY, false);
        assert_eq!(pace.next(now), Some(now + 2 * RETRY));
        pace.ran(now + 2 * RETRY, true);
        assert_eq!(pace.next(now + 3 * RETRY), None);
    }

    #[test]
    fn s62_a_change_does_not_wait_for_the_retry_of_a_failed_run() {
        let (mut pace, now) = pace();
        pace.change();
        pace.ran(now, false);
        pace.change();
        assert_eq!(pace.next(now + MOMENT), Some(now + PERIOD));
    }
}
