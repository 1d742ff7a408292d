//! Whether changes reach the maps in time (item 55). Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long a change may wait to be programmed: twice kube-proxy's period of synchronisation.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// As Kubernetes spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// When each family was last brought up to date, and since when it is not.
#[derive(Clone, Debug, Default)]
pub struct Health {
    families: [Times; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// When it was last up to date.
    updated: Option<Instant>,
    /// Since when the oldest change has waited.
    pending: Option<Instant>,
}

/// What [`Health`] says at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether all families are healthy.
    pub healthy: bool,
    /// When the family that was last brought up to date was; none if none has been.
    pub updated: Option<Instant>,
    /// The families that have been up to date, or are waiting to be.
    pub families: Vec<FamilyHealth>,
}

/// What [`Health`] says of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyHealth {
    /// The family.
    pub family: Family,
    /// When it was last up to date; none if it has never been.
    pub updated: Option<Instant>,
    /// Whether no change has waited for too long.
    pub healthy: bool,
}

impl Health {
    /// A change is there that is not programmed yet.
    pub fn queued(&mut self, family: Family, now: Instant) {
        self.times(family).pending.get_or_insert(now);
    }

    /// All changes are programmed.
    pub fn updated(&mut self, family: Family, now: Instant) {
        *self.times(family) = Times {
            updated: Some(now),
            pending: None,
        };
    }

    /// Whether no change of any family has waited for too long. So it is while nothing is known
    /// yet: a node that starts must not be taken for a broken one.
    #[must_use]
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.families.iter().all(|times| times.is_healthy(now))
    }

    /// All of it.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        let families = Family::ALL.into_iter().zip(&self.families);
        let known = families.filter(|(_, times)| times.updated.or(times.pending).is_some());
        Report {
            healthy: self.is_healthy(now),
            updated: self.families.iter().filter_map(|t| t.updated).max(),
            families: known
                .map(|(family, times)| FamilyHealth {
                    family,
                    updated: times.updated,
                    healthy: times.is_healthy(now),
                })
                .collect(),
        }
    }

    fn times(&mut self, family: Family) -> &mut Times {
        let [v4, v6] = &mut self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

impl Times {
    fn is_healthy(&self, now: Instant) -> bool {
        self.pending
            .is_none_or(|since| now.saturating_duration_since(since) < TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn s55_a_node_that_starts_is_healthy() {
        let health = Health::default();
        let report = health.report(Instant::now());
        assert!(report.healthy);
        assert_eq!(report.updated, None);
        assert_eq!(report.families, []);
    }

    #[test]
    fn s55_a_change_that_waits_for_a_minute_makes_it_unhealthy_until_it_is_programmed() {
        let start = Instant::now();
        let mut health = Health::default();
        health.queued(Family::V4, start);
        // A later change does not make the first one younger.
        health.queued(Family::V4, start + 59 * SECOND);
        assert!(health.is_healthy(start + 59 * SECOND));
        assert!(!health.is_healthy(start + 60 * SECOND));
        health.updated(Family::V4, start + 61 * SECOND);
        assert!(health.is_healthy(start + 1000 * SECOND));
    }

    #[test]
    fn s55_one_family_that_is_late_is_enough() {
        let start = Instant::now();
        let mut health = Health::default();
        for family in Family::ALL {
            health.queued(family, start);
        }
        health.updated(Family::V4, start + SECOND);
        let report = health.report(start + 60 * SECOND);
        assert!(!report.healthy);
        assert_eq!(report.updated, Some(start + SECOND));
        let healthy: Vec<_> = report.families.iter().map(|f| f.healthy).collect();
        assert_eq!(healthy, [true, false]);
    }
}
