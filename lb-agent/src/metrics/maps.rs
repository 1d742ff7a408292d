//! The kernel's maps, looked at when somebody asks.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lb_common::{
    Counter, DropKey,
    counter::{Hook, Outcome},
    maps::{AFFINITY, FLOWS, MapSpec, OPENING, PINS, SOCKETS},
};
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::{
    drops,
    registry::{Described, MAP_CAPACITY, MAP_ENTRIES, MAP_PRESSURE, PACKETS, described, gauge},
};
use crate::drops::Names;

const PROGRAMS_AHEAD: Described = described(
    "lb_foreign_programs_ahead",
    "Programs of others that run before ours on a device",
);
/// Maps that the programs fill: their elements have to be counted one by one.
const COUNTED: [&str; 5] = [FLOWS, OPENING, PINS, AFFINITY, SOCKETS];
/// How long such a count stands at least.
const COUNT_STANDS: Duration = Duration::from_secs(10);
/// How much of one processor counting may cost: 1/50.
const COUNT_SHARE: u32 = 50;

/// Reads maps beside the agent's loop.
pub trait MapReader: Names + fmt::Debug + Send + Sync + 'static {
    /// The elements of `COUNTERS`, each summed up over all CPUs.
    fn counters(&self) -> Option<Vec<u64>>;
    /// How many elements a hash map has, about.
    fn entries(&self, map: &'static str) -> Option<u64>;
    /// The elements of `DROPS`, each summed up over all CPUs.
    fn drops(&self) -> Option<BTreeMap<DropKey, u64>>;
}

/// What the agent knows of the maps that only it writes, as elements in use; and of the programs that
/// it has put on devices.
#[derive(Debug, Default)]
pub struct Usage {
    entries: Mutex<BTreeMap<&'static str, u64>>,
    /// Programs of others that run before ours.
    programs_ahead: AtomicU64,
}

impl Usage {
    /// Takes note of how many elements maps have.
    pub fn set(&self, entries: impl IntoIterator<Item = (&'static str, u64)>) {
        lock(&self.entries).extend(entries);
    }

    /// Takes note of how many programs of others run before ours.
    pub fn set_programs_ahead(&self, programs: usize) {
        self.programs_ahead
            .store(programs as u64, Ordering::Relaxed);
    }
}

/// The collector of all that is read from maps.
#[derive(Debug)]
pub struct Maps<R> {
    reader: R,
    specs: Vec<MapSpec>,
    usage: Arc<Usage>,
    counts: Mutex<BTreeMap<&'static str, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    entries: u64,
    until: Instant,
}

impl<R: MapReader> Maps<R> {
    /// Looks at the maps of `specs` through `reader`, and at what the agent says in `usage`.
    #[must_use]
    pub fn new(reader: R, specs: Vec<MapSpec>, usage: Arc<Usage>) -> Self {
        Self {
            reader,
            specs,
            usage,
            counts: Mutex::default(),
        }
    }

    /// Elements by map; of those that are counted one by one, now and then.
    fn entries(&self, now: Instant) -> BTreeMap<&'static str, u64> {
        let mut entries = lock(&self.usage.entries).clone();
        let mut counts = lock(&self.counts);
        for spec in self.specs.iter().filter(|s| COUNTED.contains(&s.name)) {
            let stands = |count: &&Count| now < count.until;
            if let Some(count) = counts.get(spec.name).filter(stands) {
                entries.insert(spec.name, count.entries);
                continue;
            }
            let began = Instant::now();
            // Elements that come and go meanwhile may be counted twice.
            let counted = self.reader.entries(spec.name);
            if let Some(counted) = counted.map(|n| n.min(spec.max_entries.into())) {
                let until = now + COUNT_STANDS.max(COUNT_SHARE * began.elapsed());
                let entries_now = Count {
                    entries: counted,
                    until,
                };
                counts.insert(spec.name, entries_now);
                entries.insert(spec.name, counted);
            }
        }
        entries
    }
}

impl<R: MapReader> Collector for Maps<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ahead = self.usage.programs_ahead.load(Ordering::Relaxed);
        PROGRAMS_AHEAD.encode(&mut encoder, &gauge(ahead as f64))?;
        let entries = self.entries(Instant::now());
        let rows = |value: &dyn Fn(&MapSpec) -> Option<f64>| {
            let rows = self.specs.iter().filter_map(|spec| {
                let labels = [("map", spec.name.to_owned())];
                Some((labels, gauge(value(spec)?)))
            });
            rows.collect::<Vec<_>>()
        };
        let used = |spec: &MapSpec| entries.get(spec.name).map(|used| *used as f64);
        let capacity = |spec: &MapSpec| f64::from(spec.max_entries);
        let kind = MetricType::Gauge;
        MAP_CAPACITY.encode_rows(&mut encoder, kind, rows(&|spec| Some(capacity(spec))))?;
        MAP_ENTRIES.encode_rows(&mut encoder, MetricType::Gauge, rows(&used))?;
        let pressure = |spec: &MapSpec| Some(used(spec)? / capacity(spec));
        MAP_PRESSURE.encode_rows(&mut encoder, MetricType::Gauge, rows(&pressure))?;
        let counters = self.reader.counters().unwrap_or_default();
        PACKETS.encode_rows(&mut encoder, MetricType::Counter, packets(&counters))?;
        let dropped = self.reader.drops().unwrap_or_default();
        drops::encode(&mut encoder, &dropped, &self.reader)
    }
}

fn packets(
    counters: &[u64],
) -> impl Iterator<Item = ([(&'static str, String); 2], ConstCounter<u64>)> + '_ {
    let all = Hook::ALL
        .into_iter()
        .flat_map(|hook| Outcome::ALL.map(|outcome| Counter { hook, outcome }));
    all.filter_map(|counter| {
        let count = counters.get(counter.index() as usize)?;
        let Counter { hook, outcome } = counter;
        let labels = [
            ("hook", snake_case(&format!("{hook:?}"))),
            ("outcome", snake_case(&format!("{outcome:?}"))),
        ];
        Some((labels, ConstCounter::new(*count)))
    })
}

/// `WireIngress` as `wire_ingress`.
pub(super) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// What is behind a lock is whole after every statement: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lb_common::{BackendRef, maps::SPECS};

    use super::*;

    /// One more element each time that it is counted.
    #[derive(Debug, Default)]
    struct Growing(AtomicU64);

    impl MapReader for Growing {
        fn counters(&self) -> Option<Vec<u64>> {
            None
        }

        fn entries(&self, map: &'static str) -> Option<u64> {
            (map == FLOWS).then(|| self.0.fetch_add(1, Ordering::Relaxed))
        }

        fn drops(&self) -> Option<BTreeMap<DropKey, u64>> {
            None
        }
    }

    impl Names for Growing {
        fn device(&self, _: u32) -> Option<String> {
            None
        }

        fn backend(&self, _: BackendRef) -> Option<SocketAddr> {
            None
        }
    }

    #[test]
    fn a_count_of_a_large_map_stands_for_a_while() {
        let maps = Maps::new(Growing::default(), SPECS.to_vec(), Default::default());
        let now = Instant::now();
        assert_eq!(maps.entries(now)[FLOWS], 0);
        assert_eq!(maps.entries(now + COUNT_STANDS / 2)[FLOWS], 0);
        assert_eq!(maps.entries(now + 2 * COUNT_STANDS)[FLOWS], 1);
        assert_eq!(
            maps.entries(now).get(PINS),
            None,
            "what cannot be read is left out"
        );
    }

    #[test]
    fn names_of_hooks_are_in_snake_case() {
        assert_eq!(snake_case("WireIngress"), "wire_ingress");
        assert_eq!(snake_case("Xdp"), "xdp");
    }
}
