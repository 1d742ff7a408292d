//! Faults by chance, the same for the same seed.

use std::time::Duration;

use super::{Fault, Trouble, Verb};
use crate::apiserver::store::{Kind, mix};

/// Draws faults out of a seed.
///
/// What happens to a request depends on the seed, on what the request does to what, and on how
/// many of these there were: not on what other requests come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    seed: u64,
    percent: u64,
    pause: Duration,
    limit: u64,
}

impl Chaos {
    /// Lets something go wrong with half of the first eight requests of each sort; pauses are
    /// below 20 ms.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            percent: 50,
            pause: Duration::from_millis(20),
            limit: 8,
        }
    }

    /// Lets something go wrong with this part of the requests.
    #[must_use]
    pub fn percent(self, percent: u64) -> Self {
        Self { percent, ..self }
    }

    /// The longest pause.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// How many requests of each sort are in danger; after them all is well.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// What happens to the `index`th request of its sort.
    #[must_use]
    pub fn draw(&self, verb: Verb, kind: Kind, index: u64) -> Vec<Fault> {
        let mut dice =
            Dice(mix(self.seed) ^ mix(((verb as u64) << 32) | ((kind as u64) << 24) | index));
        let mut faults = Vec::new();
        if index >= self.limit || dice.below(100) >= self.percent {
            return faults;
        }
        if verb != Verb::Watch {
            faults.push(self.answer(&mut dice));
            return faults;
        }
        match dice.below(4) {
            0 => faults.push(self.answer(&mut dice)),
            1 => faults.push(match dice.below(5) {
                0 => Fault::Gone,
                1 => Fault::Compact,
                2 => Fault::NoStreamingList,
                3 => Fault::NoBookmarks,
                _ => Fault::Replay(1 + dice.below(20)),
            }),
            // Several things may happen to a stream, one after the other.
            _ => {
                let mut after = 0;
                for _ in 0..=dice.below(3) {
                    after += usize::try_from(dice.below(6)).unwrap_or_default();
                    let trouble = self.trouble(&mut dice);
                    faults.push(Fault::Stream { after, trouble });
                }
            }
        }
        faults
    }

    /// What can happen to any request.
    fn answer(&self, dice: &mut Dice) -> Fault {
        match dice.below(8) {
            0 => Fault::Fail {
                code: 429,
                retry_after: Some(0),
            },
            1 => Fault::Fail {
                code: 500,
                retry_after: None,
            },
            2 => Fault::Fail {
                code: 503,
                retry_after: Some(0),
            },
            3 => Fault::Late(self.duration(dice)),
            4 => Fault::Hangup,
            5 => Fault::Truncated,
            6 => Fault::Malformed,
            _ => Fault::Gone,
        }
    }

    fn trouble(&self, dice: &mut Dice) -> Trouble {
        match dice.below(7) {
            0 => Trouble::Stall(self.duration(dice)),
            1 => Trouble::Close,
            2 => Trouble::Abort,
            3 => Trouble::HalfEvent,
            4 => Trouble::TruncatedEvent,
            5 => Trouble::Split(self.duration(dice)),
            _ => Trouble::Repeat,
        }
    }

    fn duration(&self, dice: &mut Dice) -> Duration {
        let micros = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(dice.below(micros.max(1)))
    }
}

/// A sequence of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    fn draws(seed: u64) -> Vec<Vec<Fault>> {
        let chaos = Chaos::new(seed).limit(u64::MAX);
        (0..400)
            .map(|index| chaos.draw(Verb::Watch, Kind::Service, index))
            .collect()
    }

    #[test]
    fn a_seed_draws_the_same_again_and_another_seed_others() {
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn all_that_can_go_wrong_does_some_time() {
        let faults: Vec<_> = draws(3).into_iter().flatten().collect();
        let kinds: HashSet<_> = faults.iter().map(discriminant).collect();
        // All but silence, which ends only when a client loses patience.
        assert_eq!(kinds.len(), 11, "{faults:?}");
        let troubles = faults.iter().filter_map(|fault| match fault {
            Fault::Stream { trouble, .. } => Some(discriminant(trouble)),
            _ => None,
        });
        assert_eq!(troubles.collect::<HashSet<_>>().len(), 7);
    }

    #[test]
    fn half_of_the_requests_are_spared_and_all_after_the_limit() {
        let spared = draws(4).iter().filter(|faults| faults.is_empty()).count();
        assert!((150..250).contains(&spared), "{spared}");
        let chaos = Chaos::new(4).limit(3).percent(100);
        let drawn = (0..10).map(|index| chaos.draw(Verb::List, Kind::Node, index));
        assert_eq!(drawn.filter(|faults| !faults.is_empty()).count(), 3);
    }
}
