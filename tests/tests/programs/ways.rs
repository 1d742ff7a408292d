//! A table in one array, changed by two processors and by user space at once.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use lb_tests::ways::{Hammer, Table};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

/// Environment variable that says how often the table is changed.
const OPERATIONS: &str = "LB_RACE_OPERATIONS";
/// So often, unless it says otherwise.
const FEW: u64 = 20_000_000;
/// Operations of one call of the kernel.
const EACH: u64 = 1_000_000;

/// Buckets, and keys: two for each way, so that some have no room now and then.
const BUCKETS: u32 = 4;
const KEYS: u64 = 64;

fn operations() -> u64 {
    let given = std::env::var(OPERATIONS).ok();
    given.map_or(FEW, |given| given.parse().expect(OPERATIONS))
}

/// Two processors that this thread may use.
fn two_processors() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("processors");
    let all = 0..CpuSet::count();
    let usable: Vec<usize> = all.filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect();
    match usable[..] {
        [one, other, ..] => [one, other],
        _ => panic!("this test needs two processors, which change a table at once"),
    }
}

/// Changes the table for as long as the others do, and looks at it; what it has done.
fn change_and_look(table: &Table, has_ended: &AtomicBool) -> Hammer {
    let mut hammer = table.hammer(99);
    let mut random = fastrand::Rng::with_seed(1);
    while !has_ended.load(Relaxed) {
        for _ in 0..8 {
            table.strike(&mut hammer, &mut random);
        }
        let seen = table.look();
        assert_eq!((seen.torn, seen.doubled), (0, 0), "{seen:?}");
    }
    hammer
}

/// Tells user space that the processors have ended, whatever became of them.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn table_that_two_processors_and_user_space_change_at_once_loses_and_doubles_nothing() {
    check(cfg!(target_arch = "x86_64"), operations());
}

#[test]
fn the_same_holds_where_processors_see_stores_in_another_order() {
    check(false, operations().min(FEW));
}

fn check(stores_in_order: bool, operations: u64) {
    let mut table = Table::load(BUCKETS, KEYS, stores_in_order).expect("table");
    let (processors, rounds) = (two_processors(), operations.div_ceil(2 * EACH));
    let has_ended = AtomicBool::new(false);
    let ours = thread::scope(|scope| {
        let user_space = scope.spawn(|| change_and_look(&table, &has_ended));
        let run = |cpu| {
            let table = &table;
            move || (0..rounds).try_for_each(|_| table.run_on(cpu, EACH as u32))
        };
        let ending = Ending(&has_ended);
        let both = processors.map(|cpu| scope.spawn(run(cpu)));
        let results = both.map(|thread| thread.join().expect("processor"));
        drop(ending);
        results.into_iter().for_each(|result| result.expect("run"));
        user_space.join().expect("user space")
    });
    assert!(ours.published > 0 && ours.removed > 0, "{ours:?}");
    let mut all = table.processors().expect("counts");
    all.push(ours);
    let sum = |count: fn(&Hammer) -> u64| all.iter().map(count).sum::<u64>();
    let seen = table.look();
    println!("{all:#?}\n{seen:?}");
    assert_eq!((seen.torn, seen.doubled, seen.claimed), (0, 0, 0));
    assert_eq!(sum(|hammer| hammer.torn), 0);
    let gone = sum(|hammer| hammer.displaced) + sum(|hammer| hammer.removed);
    assert_eq!(sum(|hammer| hammer.published), gone + seen.present);
    for count in [
        |hammer: &Hammer| hammer.displaced,
        |hammer: &Hammer| hammer.there,
        |hammer: &Hammer| hammer.no_room,
        |hammer: &Hammer| hammer.raced,
        |hammer: &Hammer| hammer.read,
    ] {
        assert!(sum(count) > 0, "{all:?}");
    }
}
