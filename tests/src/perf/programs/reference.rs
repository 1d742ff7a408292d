//! What the programs are held against: single operations, and the two programs that bound them
//! (`lb-ebpf/src/reference.rs`).

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap};
use bytemuck::{Pod, Zeroable};

use super::{
    UNIT,
    calm::{Round, Rounds},
    cell::Rig,
    driver::{Batch, FLOWS_MAX, Load, Target},
    establish::unknown,
    tables,
    walk::{Walk, case, ends, frame},
};
use crate::{
    perf::{report::Row, samples::Samples},
    programs::{Family, Program},
};

pub(super) const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// Flows of the look-ups among some, and among many.
pub(super) const SOME: usize = 1 << 16;
pub(super) const MANY: usize = 1 << 19;

/// The part of the word of both ports that is the destination's, in wire order.
const PORT_OF_DESTINATION: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Frontends of the reference program: as many as ours usually have.
const FRONTENDS: u32 = 10_000;
/// Backends of each, of all that there are.
const BACKENDS: u32 = 4096;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Dialled {
    addr: u32,
    port: u16,
    protocol: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Pair([u32; 2]);

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: `bytemuck::Pod` is all that is asked, and `Raw` has the layout of its only field.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

/// What they cost.
pub(super) struct Found {
    /// Minimal stateless DNAT.
    pub(super) dnat: Samples,
    others: Vec<(&'static str, Samples)>,
}

impl Found {
    pub(super) fn rows(&self) -> Vec<Row> {
        let all = self.others.iter().map(|(name, samples)| (*name, samples));
        let all = all.chain([("minimal stateless DNAT, 64k flows", &self.dnat)]);
        all.map(|(name, samples)| Row::of(name, samples, UNIT))
            .collect()
    }
}

/// Measures them.
pub(super) fn measure(rig: &mut Rig) -> Result<Found> {
    fill(rig)?;
    let mut others = vec![("return: the harness itself", harness(rig)?)];
    for (name, program, verdict) in [
        ("bare redirect", "lab_xdp_redirect", XDP_REDIRECT),
        ("array element", "lab_xdp_array", XDP_TX),
        ("hash hit, 8-byte key", "lab_xdp_hash", XDP_TX),
    ] {
        others.push((name, cost(rig, program, verdict, 1)?));
    }
    let room = insert(rig, 0)?;
    shuffle(rig);
    for (name, flows) in [
        ("LRU hit, hot", 1),
        ("LRU hit, 64k flows", 1 << 16),
        ("LRU hit, 512k flows", MANY),
    ] {
        others.push((name, cost(rig, "lab_xdp_lru", XDP_TX, flows)?));
    }
    others.push(("LRU insertion with room", room));
    more(rig, MANY, MANY / 4)?;
    let evicting = insert(rig, MANY + MANY / 4)?;
    others.push(("LRU insertion with eviction", evicting));
    let dnat = cost(rig, "lab_xdp_dnat", XDP_TX, SOME)?;
    others.extend(tables::measure(rig)?);
    Ok(Found { dnat, others })
}

/// What the driver takes with a program that only returns: it is subtracted from all else.
fn harness(rig: &mut Rig) -> Result<Samples> {
    let packet = packet();
    let batch = Batch {
        first: 0,
        packets: SOME,
    };
    let round = |_| Ok(rig.driver.run(Target::Return, load(&packet, 1), batch)?.ns);
    (0..rig.rounds).map(round).collect()
}

/// What a look-up costs.
pub(super) fn cost(rig: &mut Rig, program: &str, verdict: u32, flows: usize) -> Result<Samples> {
    /// Some milliseconds.
    const PACKETS: usize = 1 << 15;
    let all = Batch {
        first: 0,
        packets: flows,
    };
    let batches = (0..).map(|round| Batch {
        first: if flows == 1 { 0 } else { round * PACKETS },
        packets: PACKETS,
    });
    measure_one(
        rig,
        program,
        verdict,
        flows,
        [all].into_iter().chain(batches),
    )
}

/// What insertions cost, of flows that are not there, from the one with this number on.
fn insert(rig: &mut Rig, first: usize) -> Result<Samples> {
    const EACH: usize = 1 << 14;
    let batches = (0..MANY / 2 / EACH).map(|round| Batch {
        first: first + round * EACH,
        packets: EACH,
    });
    let cost = measure_one(rig, "lab_xdp_insert", XDP_TX, FLOWS_MAX, batches)?;
    if first == 0 {
        // The look-ups are to find all of them.
        more(rig, 0, MANY)?;
    }
    Ok(cost)
}

/// Rounds of one of the lab's programs; the first one only warms up.
pub(super) fn measure_one(
    rig: &mut Rig,
    program: &str,
    verdict: u32,
    flows: usize,
    mut batches: impl Iterator<Item = Batch>,
) -> Result<Samples> {
    let (_, ifindex) = rig.bench.loaded(Program::Xdp)?;
    rig.driver.test_own(program, ifindex)?;
    let packet = packet();
    let load = load(&packet, flows);
    let (begun, mut rounds) = (Instant::now(), Rounds::new(f64::INFINITY));
    let warm = batches.next().context("nothing to measure")?;
    rig.driver.run(Target::Tested, load, warm)?;
    let mut before = rig.driver.run(Target::Return, load, warm)?.ns;
    for batch in batches {
        let tested = rig.driver.run(Target::Tested, load, batch)?;
        let after = rig.driver.run(Target::Return, load, batch)?.ns;
        ensure!(
            tested.verdict == verdict,
            "{program}: verdict {}",
            tested.verdict
        );
        rounds.push(Round {
            before,
            tested: tested.ns,
            after,
        });
        before = after;
        if rounds.calm() >= rig.rounds || begun.elapsed() >= rig.patience {
            break;
        }
    }
    Ok(rounds.net())
}

/// Puts the flows that are there into another order: whoever visits them as they were inserted visits memory in order,
/// too, and is flattered by that.
pub(super) fn shuffle(rig: &mut Rig) {
    fastrand::Rng::with_seed(2).shuffle(&mut rig.driver.flows_mut()[..MANY]);
}

/// Inserts flows, unmeasured.
fn more(rig: &mut Rig, first: usize, packets: usize) -> Result<()> {
    insert_by(rig, "lab_xdp_insert", Batch { first, packets })
}

/// Inserts flows by one of the lab's programs, unmeasured.
pub(super) fn insert_by(rig: &mut Rig, program: &str, batch: Batch) -> Result<()> {
    rig.driver.test_own(program, 0)?;
    rig.driver
        .run(Target::Tested, load(&packet(), FLOWS_MAX), batch)?;
    Ok(())
}

fn load(frame: &[u8], flows: usize) -> Load<'_> {
    Load {
        frame,
        family: 4,
        flows,
    }
}

fn packet() -> Vec<u8> {
    let case = case(Family::V4);
    frame(case.following(case.client(4000), frontend(0)))
}

fn frontend(number: u32) -> SocketAddr {
    let first = Ipv4Addr::new(10, 128, 0, 1).to_bits();
    (Ipv4Addr::from_bits(first + number), 80).into()
}

/// Gives the reference programs what they look up, and the driver its flows.
pub(super) fn fill(rig: &mut Rig) -> Result<()> {
    let map = rig.driver.map_mut("REF_FRONTENDS")?;
    let mut frontends: HashMap<_, Raw<Dialled>, Raw<Pair>> = map.try_into()?;
    for number in 0..FRONTENDS {
        let SocketAddr::V4(dialled) = frontend(number) else {
            continue;
        };
        let key = Dialled {
            addr: u32::from_ne_bytes(dialled.ip().octets()),
            port: dialled.port().to_be(),
            protocol: 6,
        };
        let place = Pair([number * 8 % BACKENDS, 7]);
        let put = frontends.insert(Raw(key), Raw(place), 0);
        put.context("fill REF_FRONTENDS")?;
    }
    let map = rig.driver.map_mut("REF_BACKENDS")?;
    let mut backends: Array<_, Raw<Pair>> = map.try_into()?;
    for index in 0..BACKENDS {
        let addr = Ipv4Addr::from_bits(Ipv4Addr::new(10, 32, 0, 1).to_bits() + index);
        let target = Pair([u32::from_ne_bytes(addr.octets()), 8080_u16.to_be().into()]);
        backends
            .set(index, Raw(target), 0)
            .context("fill REF_BACKENDS")?;
    }
    let mut flows = unknown(&Walk::XDP_SNAT, Family::V4, 0, FLOWS_MAX);
    let [dst, ports] = {
        let ends = ends(frontend(1), frontend(0));
        [ends.dst, ends.ports & PORT_OF_DESTINATION]
    };
    for ends in &mut flows {
        ends.dst = dst;
        ends.ports = ends.ports & !PORT_OF_DESTINATION | ports;
    }
    fastrand::Rng::with_seed(1).shuffle(&mut flows);
    rig.driver.flows_mut().copy_from_slice(&flows);
    Ok(())
}
