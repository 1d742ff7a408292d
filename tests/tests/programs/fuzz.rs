//! The programs against a model of them, on random packets; see [`lb_tests::fuzz`].

use std::{fs, path::Path, sync::Mutex};

use lb_tests::{
    fuzz::{self, Constants, Distortion, Episode, Options, Rig},
    programs::Verdict,
};

/// Benches of one name cannot be set up at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn with_rig<T: Send>(constants: Constants, work: impl FnOnce(&mut Rig) -> T + Send) -> T {
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    Rig::with(constants, work).expect("a bench for the kernel programs")
}

fn option(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

#[test]
fn programs_do_with_random_packets_what_the_model_says() {
    for (constants, packets) in fuzz::share(option("LB_FUZZ_PACKETS", 1_000_000)) {
        let options = Options {
            packets,
            seed: option("LB_FUZZ_SEED", 1),
        };
        if let Some(found) = with_rig(constants, |rig| fuzz::fuzz(rig, &options)) {
            panic!(
                "{}\n{}\n{}",
                found.episode.to_json().unwrap(),
                found.episode,
                found.disagreement
            );
        }
    }
}

/// Each file is an episode on which programs and model once disagreed.
#[test]
fn episodes_of_earlier_disagreements() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .expect("the regressions")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    assert!(
        !paths.is_empty(),
        "no regressions in {}",
        directory.display()
    );
    let episodes = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("a regression");
        (path, Episode::from_json(&text).expect("an episode"))
    });
    let episodes: Vec<_> = episodes.collect();
    for constants in [Constants::Usual, Constants::Other] {
        let of_these = episodes
            .iter()
            .filter(|(_, episode)| episode.constants == constants);
        with_rig(constants, |rig| {
            for (path, episode) in of_these {
                if let Err(disagreement) = fuzz::replay(rig, episode) {
                    panic!("{}: {disagreement}\n{episode}", path.display());
                }
            }
        });
    }
}

/// A model that is wrong in one thing, so that the fuzzer has something to find.
#[track_caller]
fn check_found(distortion: Distortion, steps_at_most: usize) {
    with_rig(Constants::Usual, |rig| {
        rig.distortion = Some(distortion);
        let options = Options {
            packets: 200_000,
            seed: 3,
        };
        let found = fuzz::fuzz(rig, &options).expect("a disagreement is found");
        let steps = found.episode.steps.len();
        assert!(
            steps <= steps_at_most,
            "{steps} steps left of {}",
            found.episode
        );
        rig.distortion = None;
        fuzz::replay(rig, &found.episode).expect("they agree where the model is right");
    });
}

#[test]
fn fuzzer_finds_a_wrong_byte() {
    check_found(
        |_, _, expected| {
            let frame = expected
                .frame
                .as_mut()
                .filter(|_| expected.verdict == Verdict::Out);
            if let Some(ttl) = frame
                .filter(|frame| frame[12] == 8)
                .and_then(|f| f.get_mut(22))
            {
                *ttl = ttl.wrapping_add(1);
            }
        },
        2,
    );
}

#[test]
fn fuzzer_finds_a_wrong_count() {
    check_found(
        |_, _, expected| {
            expected
                .counted
                .pop_if(|outcome| *outcome == lb_common::counter::Outcome::Replied);
        },
        2,
    );
}

#[test]
fn fuzzer_finds_a_wrong_phase() {
    check_found(
        |model, _, _| {
            for connection in model.memory.connections.values_mut() {
                connection.reset = false;
            }
        },
        3,
    );
}

#[test]
fn fuzzer_finds_a_connection_that_should_have_been_forgotten() {
    check_found(
        |model, before, _| {
            for (key, connection) in before {
                model.memory.connections.entry(*key).or_insert(*connection);
            }
        },
        6,
    );
}
