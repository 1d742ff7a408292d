//! Whether this node serves Services, as the agent's loop finds out when it is asked.
//!
//! Only the loop looks at programs and maps; whoever asks over HTTP waits for its answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time,
};

/// How long an answer may take. A loop that is busy for longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is given again: everybody may ask, as often as they like.
const LIFETIME: Duration = Duration::from_millis(250);

/// Asks the agent's loop, which answers by sending.
pub type Probe = oneshot::Sender<Readiness>;

/// Whether this node serves Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every check passed.
    pub ready: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Check {
    /// A check that passes if there are no `reasons` against it.
    #[must_use]
    pub fn new(name: &'static str, reasons: Vec<String>) -> Self {
        Self {
            name,
            ok: reasons.is_empty(),
            reasons,
        }
    }
}

impl From<Vec<Check>> for Readiness {
    fn from(checks: Vec<Check>) -> Self {
        Self {
            ready: checks.iter().all(|check| check.ok),
            checks,
        }
    }
}

/// The asking end.
#[derive(Clone, Debug)]
pub struct Prober {
    probes: mpsc::Sender<Probe>,
    last: Arc<Mutex<Option<(Instant, Readiness)>>>,
}

/// An asking end, and what arrives at the other one.
#[must_use]
pub fn prober() -> (Prober, mpsc::Receiver<Probe>) {
    let (probes, receiver) = mpsc::channel(1);
    let last = Arc::default();
    (Prober { probes, last }, receiver)
}

impl Prober {
    /// Asks, and waits for the answer; who asks at the same time gets the same one.
    pub async fn ask(&self) -> Readiness {
        let mut last = self.last.lock().await;
        if let Some((when, readiness)) = &*last
            && when.elapsed() < LIFETIME
        {
            return readiness.clone();
        }
        let readiness = self.ask_now().await;
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }

    async fn ask_now(&self) -> Readiness {
        let answer = async {
            let (sender, receiver) = oneshot::channel();
            self.probes.send(sender).await.ok()?;
            receiver.await.ok()
        };
        let reason = match time::timeout(TIMEOUT, answer).await {
            Ok(Some(readiness)) => return readiness,
            Ok(None) => "it has ended".to_owned(),
            Err(_) => format!("no answer within {TIMEOUT:?}: it is busy, or stuck"),
        };
        vec![Check::new("agent", vec![reason])].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_at_the_same_time_gets_the_same_answer() {
        let (prober, mut probes) = prober();
        let other = prober.clone();
        let answer = async {
            let probe = probes.recv().await.unwrap();
            probe
                .send(vec![Check::new("sync", Vec::new())].into())
                .unwrap();
            probes.try_recv().is_err()
        };
        let (one, two, only_one) = tokio::join!(prober.ask(), other.ask(), answer);
        assert!(one.ready && only_one);
        assert_eq!(one, two);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_busy_is_not_ready() {
        let (prober, _probes) = prober();
        let readiness = prober.ask().await;
        assert!(!readiness.ready);
        assert!(readiness.checks[0].reasons[0].contains("busy"));
    }

    #[tokio::test]
    async fn a_loop_that_has_ended_is_not_ready() {
        let (prober, probes) = prober();
        drop(probes);
        assert!(!prober.ask().await.ready);
    }

    #[test]
    fn the_body_says_which_check_failed_and_why() {
        let readiness = Readiness::from(vec![
            Check::new("sync", Vec::new()),
            Check::new("links", vec!["7-pod-ingress: detached".into()]),
        ]);
        assert_eq!(
            serde_json::to_value(&readiness).unwrap(),
            serde_json::json!({"ready": false, "checks": [
                {"name": "sync", "ok": true},
                {"name": "links", "ok": false, "reasons": ["7-pod-ingress: detached"]},
            ]})
        );
    }
}
