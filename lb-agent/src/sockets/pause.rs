//! When the agent looks for sockets whose backend is gone.

use std::time::{Duration, Instant};

/// Between two looks, at least.
const PERIOD: Duration = Duration::from_secs(1);

/// Decides when to look. Pure: time is an argument.
///
/// After a change twice: a process that connects meanwhile is not connected yet when the first look
/// comes.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    last: Option<Instant>,
    looks: u8,
}

impl Pause {
    /// The maps have changed.
    pub(crate) fn change(&mut self) {
        self.looks = 2;
    }

    /// It was looked.
    pub(crate) fn ran(&mut self, now: Instant) {
        self.last = Some(now);
        self.looks = self.looks.saturating_sub(1);
    }

    /// When to look next, as seen at `now`; never without a reason.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        (self.looks > 0).then(|| self.last.map_or(now, |last| now.max(last + PERIOD)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_reason_for_two_looks() {
        let mut pause = Pause::default();
        let start = Instant::now();
        assert_eq!(pause.next(start), None);
        pause.change();
        assert_eq!(pause.next(start), Some(start));
        pause.ran(start);
        assert_eq!(pause.next(start), Some(start + PERIOD));
        pause.ran(start + PERIOD);
        assert_eq!(pause.next(start + PERIOD), None);
    }

    #[test]
    fn changes_one_after_the_other_do_not_look_all_the_time() {
        let mut pause = Pause::default();
        let start = Instant::now();
        pause.change();
        pause.ran(start);
        pause.change();
        assert_eq!(pause.next(start), Some(start + PERIOD));
        let late = start + 2 * PERIOD;
        assert_eq!(pause.next(late), Some(late));
    }
}
