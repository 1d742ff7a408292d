//! One seed.

use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use lb_tests::apiserver::{
    ApiServer, Behaviour, Gone,
    faults::{Chaos, Fault, Matching, Trouble, Verb},
    store::Kind,
};
use tokio::time::{self, Instant, MissedTickBehavior};

use crate::{
    agent::{self, Agent},
    truth,
    world::World,
};

/// Changes of the cluster.
const STEPS: u32 = 30;
/// All is well so long after the last of them.
const DEADLINE: Duration = Duration::from_secs(20);

/// Lets a cluster change while an agent follows it through trouble.
pub(crate) async fn run(seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let server = start(&mut rng, seed)?;
    let mut world = World::new(server, rng.fork())?;
    let mut agent = Agent::start(world.server()).await?;
    let mut ticks = time::interval(Duration::from_millis(rng.u64(1..5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut steps = 0;
    let mut expected = None;
    let deadline = Instant::now() + DEADLINE;
    loop {
        tokio::select! {
            changed = agent.receiver.changed() => {
                changed?;
                agent.follow(None)?;
            }
            _ = ticks.tick(), if steps < STEPS => {
                world.step();
                steps += 1;
            }
            () = time::sleep_until(deadline) => {
                let (found, expected) = (agent.receiver.borrow(), truth::model(world.server()));
                anyhow::bail!("still {found:#?}, not {expected:#?}");
            }
        }
        if steps == STEPS {
            let expected = expected.get_or_insert_with(|| truth::model(world.server()));
            if agent.follow(Some(expected))? {
                return check(&mut agent, &world);
            }
        }
    }
}

/// A server where much goes wrong.
fn start(rng: &mut Rng, seed: u64) -> Result<ApiServer> {
    let ms = Duration::from_millis;
    let behaviour = Behaviour {
        bookmark_interval: ms(rng.u64(5..100)),
        watch_timeout: ms(rng.u64(20..400)),
        has_streaming_lists: rng.u32(0..4) > 0,
        gone: if rng.bool() {
            Gone::InStream
        } else {
            Gone::Status
        },
        ..Behaviour::default()
    };
    let server = ApiServer::builder()
        .without_slices()
        .behaviour(behaviour)
        .history_limit(rng.usize(5..200));
    let has_tls = rng.u32(0..16) == 0;
    let server = if has_tls { server.tls() } else { server };
    let server = server.start()?;
    let faults = server.faults();
    faults.unleash(Chaos::new(seed).pause(ms(10)));
    let kinds = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Node,
        Kind::ServiceCidr,
    ];
    // Not by chance: an end of patience each time.
    if rng.u32(0..8) == 0 {
        let kind = kinds[rng.usize(..kinds.len())];
        let silence = Fault::Stream {
            after: rng.usize(0..4),
            trouble: Trouble::Silence,
        };
        faults.once(Matching::new(Verb::Watch, kind), silence);
    }
    if rng.u32(0..16) == 0 {
        let kind = kinds[rng.usize(..kinds.len())];
        let verb = if rng.bool() { Verb::Watch } else { Verb::List };
        faults.once(Matching::new(verb, kind), Fault::Silent);
    }
    Ok(server)
}

/// The end: maps that say what the cluster says, and no Service that was missing for a while.
fn check(agent: &mut Agent, world: &World) -> Result<()> {
    let lost: Vec<_> = agent.lost.difference(&world.broken).collect();
    ensure!(lost.is_empty(), "missing in between: {lost:?}");
    let (found, expected) = (
        agent.tables()?,
        agent::compiled(&truth::model(world.server()))?,
    );
    ensure!(
        found == expected,
        "the maps say {found:#?}, and ought to say {expected:#?}"
    );
    Ok(())
}
