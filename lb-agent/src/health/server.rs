//! `/healthz`, `/livez` and `/readyz`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    ready::Prober,
    state::{FamilyHealth, Report},
    status::Status,
};
use crate::{
    http::{JSON, Reply, Request, Site},
    metrics::Metrics,
};

/// How Go writes a time that was never set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Answers the probes of cloud load balancers and of the kubelet.
#[derive(Debug)]
pub struct HealthSite {
    status: Arc<Status>,
    prober: Prober,
    metrics: Arc<Metrics>,
}

impl HealthSite {
    /// Answers out of `status`, and what `prober` is told.
    #[must_use]
    pub fn new(status: Arc<Status>, prober: Prober, metrics: Arc<Metrics>) -> Self {
        Self {
            status,
            prober,
            metrics,
        }
    }
}

impl Site for HealthSite {
    async fn answer(&self, request: Request) -> Reply {
        let report = || self.status.report(Instant::now());
        match request.path.as_str() {
            "/healthz" => {
                let reply = reply(&report(), Some(self.status.is_eligible()), Clock::now());
                self.metrics.healthz_answered(reply.status);
                reply
            }
            "/livez" => {
                let reply = reply(&report(), None, Clock::now());
                self.metrics.livez_answered(reply.status);
                reply
            }
            "/readyz" => {
                let readiness = self.prober.ask().await;
                let status = if readiness.ready { 200 } else { 503 };
                json(status, &readiness)
            }
            _ => Reply::not_found(),
        }
    }
}

/// The same moment by two clocks.
#[derive(Clone, Copy, Debug)]
struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            now: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// A moment of the past by the wall clock, as Go writes it.
    fn format(self, moment: Option<Instant>) -> String {
        let wall = moment.and_then(|moment| {
            let ago = self.now.saturating_duration_since(moment);
            Timestamp::try_from(self.wall.checked_sub(ago)?).ok()
        });
        wall.map_or_else(|| NEVER.to_owned(), |wall| wall.to_string())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

/// The answer to `/healthz`, or without `eligible`, to `/livez`.
fn reply(report: &Report, eligible: Option<bool>, clock: Clock) -> Reply {
    let current_time = clock.format(Some(clock.now));
    let family = |family: &FamilyHealth| FamilyBody {
        last_updated: clock.format(family.updated),
        healthy: family.healthy,
    };
    let body = Body {
        // What is healthy is up to date.
        last_updated: if report.healthy {
            current_time.clone()
        } else {
            clock.format(report.updated)
        },
        current_time,
        node_eligible: eligible,
        healthy: report.healthy,
        status: report
            .families
            .iter()
            .map(|of| (of.family.name(), family(of)))
            .collect(),
    };
    let good = report.healthy && eligible != Some(false);
    json(if good { 200 } else { 503 }, &body)
}

fn json(status: u16, body: &impl Serialize) -> Reply {
    // None of these types can fail.
    let body = serde_json::to_string(body).unwrap_or_else(|error| error.to_string());
    Reply::new(status, JSON, body).header("x-content-type-options", "nosniff")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::{Family, Health};

    const START: &str = "2026-01-02T03:04:05Z";

    /// `seconds` after a start at [`START`].
    fn at(start: Instant, seconds: u64) -> Clock {
        let wall: Timestamp = START.parse().unwrap();
        let later = Duration::from_secs(seconds);
        Clock {
            now: start + later,
            wall: SystemTime::from(wall) + later,
        }
    }

    fn both(start: Instant) -> Health {
        let mut health = Health::default();
        for family in Family::ALL {
            health.updated(family, start);
        }
        health
    }

    #[test]
    fn s55_a_healthy_body_says_now() {
        let start = Instant::now();
        let reply = reply(&both(start).report(start), Some(true), at(start, 5));
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.body,
            r#"{"lastUpdated":"2026-01-02T03:04:10Z","currentTime":"2026-01-02T03:04:10Z","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":true}}}"#
        );
        let nosniff = ("x-content-type-options", "nosniff".to_owned());
        assert!(reply.headers.contains(&nosniff));
    }

    #[test]
    fn s55_an_ineligible_node_is_503_at_healthz_and_no_matter_at_livez() {
        let start = Instant::now();
        let report = both(start).report(start);
        let healthz = reply(&report, Some(false), at(start, 0));
        assert_eq!(healthz.status, 503);
        assert!(
            healthz
                .body
                .contains(r#""nodeEligible":false,"healthy":true"#)
        );
        let livez = reply(&report, None, at(start, 0));
        assert_eq!(livez.status, 200);
        assert!(!livez.body.contains("nodeEligible"));
    }

    #[test]
    fn s55_an_unhealthy_body_says_when_it_was_last_up_to_date() {
        let start = Instant::now();
        let mut health = both(start);
        health.queued(Family::V6, start + Duration::from_secs(1));
        let clock = at(start, 61);
        let reply = reply(&health.report(clock.now), None, clock);
        assert_eq!(reply.status, 503);
        assert!(
            reply
                .body
                .starts_with(r#"{"lastUpdated":"2026-01-02T03:04:05Z""#)
        );
        assert!(
            reply
                .body
                .contains(r#""IPv4":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":true}"#)
        );
        assert!(reply.body.contains(r#""healthy":false"#));
    }

    #[test]
    fn s55_what_was_never_up_to_date_says_so() {
        let start = Instant::now();
        let mut health = Health::default();
        health.queued(Family::V4, start);
        let clock = at(start, 60);
        let reply = reply(&health.report(clock.now), None, clock);
        assert!(
            reply
                .body
                .starts_with(r#"{"lastUpdated":"0001-01-01T00:00:00Z""#)
        );
    }
}
