//! Sweeps the records of flows now and then, and says when there is no room for more.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    Counter,
    counter::{Hook, Outcome},
};
use tokio::{
    task::spawn_blocking,
    time::{self, MissedTickBehavior},
};
use tracing::{debug, error, info, warn};

use crate::{
    dataplane::bpf::{self, Known, Sweeper},
    event::{Event, Events},
    metrics::Metrics,
    model::Reference,
};

/// How often it is looked whether connections found no room: then there is a sweep at once.
const LOOK: Duration = Duration::from_secs(5);
/// How often there is one anyway.
const PERIOD: Duration = Duration::from_secs(30);

/// How long a program may take that runs when the side of `KNOWN` is cleared that nobody asks.
const GRACE: Duration = Duration::from_secs(8);

/// Sweeps for as long as somebody waits for it.
pub(super) struct Watch {
    sweeper: Sweeper,
    pin_dir: PathBuf,
    node_name: String,
    metrics: Arc<Metrics>,
    events: Events,
    swept: Option<Instant>,
    renewal: Renewal,
    /// Connections that had found no room when it was last looked.
    refused: Option<u64>,
    /// Whether some had since the time before.
    is_full: bool,
}

impl Watch {
    /// Opens the maps that are pinned below `pin_dir`.
    pub(super) fn open(
        pin_dir: PathBuf,
        ticks_per_second: u32,
        node_name: String,
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Result<Self, bpf::Error> {
        Ok(Self {
            sweeper: Sweeper::open(&pin_dir, ticks_per_second)?,
            renewal: Renewal::open(&pin_dir)?,
            pin_dir,
            node_name,
            metrics,
            events,
            swept: None,
            refused: None,
            is_full: false,
        })
    }

    /// Does not end, unless a sweep panics.
    pub(super) async fn run(mut self) {
        let mut looks = time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // A large map takes a while, for which the loop must not wait.
            let turn = spawn_blocking(move || {
                self.look();
                self
            });
            match turn.await {
                Ok(watch) => self = watch,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    error!(error, "records of connections are not swept any more");
                    return;
                }
            }
        }
    }

    fn look(&mut self) {
        let refused = self.count_refused();
        let new = match (self.refused, refused) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            // What happened before our time has been told.
            _ => 0,
        };
        self.refused = refused.or(self.refused);
        let is_due = self.swept.is_none_or(|swept| swept.elapsed() >= PERIOD);
        if is_due || new > 0 {
            self.sweep(new > 0);
        }
        self.renewal.go_on();
        self.tell_full(new);
    }

    fn sweep(&mut self, is_no_room: bool) {
        self.swept = Some(Instant::now());
        match self.sweeper.sweep(is_no_room) {
            Ok(swept) => {
                debug!(?swept, "swept the records of connections");
                let left = [swept.kept, swept.opening];
                self.metrics.swept(swept.took, swept.removed, left);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                error!(
                    error,
                    "cannot sweep the records of connections; trying again"
                );
            }
        }
    }

    /// How often a connection found no room in `FLOWS`, since the maps were made.
    fn count_refused(&self) -> Option<u64> {
        let counters = bpf::pinned_counters(&self.pin_dir).ok()?;
        let of_hook = |hook| {
            let outcome = Outcome::TableFull;
            let index = Counter { hook, outcome }.index();
            counters.get(index as usize)
        };
        Some(Hook::ALL.into_iter().filter_map(of_hook).sum())
    }

    /// Says once that there is no room, and once that there is.
    fn tell_full(&mut self, new: u64) {
        let was_full = std::mem::replace(&mut self.is_full, new > 0);
        if new > 0 && !was_full {
            let note = "no room for more established connections: new ones are served, but may be \
                        forgotten when many others begin; raise --flows-max";
            warn!(refused = new, "{note}");
            let node = Reference::node(&self.node_name);
            self.events.send(Event::warning(node, "FlowMapFull", note));
        } else if was_full && new == 0 {
            info!("there is room for established connections again");
        }
    }
}

/// Makes anew what programs can know of connections: a side is cleared, complete two looks later, and asked; the other one
/// is not cleared before the next look, when all programs have ended that still asked it.
struct Renewal {
    known: Known,
    /// Since when the side that nobody asks is clear.
    begun: Option<Instant>,
}

impl Renewal {
    fn open(pin_dir: &Path) -> Result<Self, bpf::Error> {
        Ok(Self {
            known: Known::open(pin_dir)?,
            begun: None,
        })
    }

    fn go_on(&mut self) {
        match self.begun {
            None => {
                self.begun = self.known.begin().then(Instant::now);
            }
            // A program takes microseconds, unless its processor is taken away.
            Some(begun) if begun.elapsed() >= GRACE => {
                self.begun = None;
                if let Err(error) = self.known.finish() {
                    let error: &dyn std::error::Error = &error;
                    warn!(
                        error,
                        "cannot find out which connections there are; trying again"
                    );
                }
            }
            Some(_) => {}
        }
    }
}
