//! The programs and the model side by side.

use std::{cell::OnceCell, collections::HashMap, fmt, net::SocketAddr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use lb_common::{
    Counter, DatapathConfig, FlowKey, FrontendKey, Pin, PinKey, config,
    counter::{Hook, Outcome},
    protocol,
};

use super::{
    compare::{compare_all, hashed, known, said, told},
    constancy::Constancy,
    episode::{Constants, Episode, Step, describe, hex},
    maps::small_maps,
    packets,
    services::{self, Served},
    statistics::Statistics,
    tables::tables,
};
use crate::{
    model::{Chance, Connection, Devices, Expected, Model, Tables},
    programs::{Bench, Family, Frame, Kernel, Program, Verdict},
};

/// What programs and model disagree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement(pub String);

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) verdict: Verdict,
    pub(super) frame: Vec<u8>,
}

/// Makes the model wrong: what it remembers and expects after a packet, by what it remembered
/// before.
pub type Distortion = fn(&mut Model, &HashMap<FlowKey, Connection>, &mut Expected);

/// The programs and the model.
pub struct Rig {
    bench: Bench,
    kernel: Kernel,
    model: Model,
    pub(super) constants: Constants,
    constancy: Constancy,
    /// What the counters of this episode ought to be.
    counted: Vec<u64>,
    /// What they were before.
    counters: Vec<u64>,
    /// Shows that the fuzzer can fail.
    pub distortion: Option<Distortion>,
    /// What was met so far.
    pub statistics: Statistics,
}

/// What the programs chose, looked up if somebody asks.
struct Chosen<'a> {
    kernel: &'a Kernel,
    /// The packet as it came.
    frame: &'a [u8],
    hook: Hook,
    /// What the counters were before the packet.
    before: &'a dyn Fn(usize) -> u64,
    pin: OnceCell<Option<Pin>>,
}

impl Chance for Chosen<'_> {
    fn has_counted(&self, outcome: Outcome) -> bool {
        let index = Counter {
            hook: self.hook,
            outcome,
        }
        .index();
        self.kernel.counter(index) > (self.before)(index as usize)
    }

    fn pin(&self, key: &PinKey) -> Option<Pin> {
        *self.pin.get_or_init(|| self.kernel.pin(key))
    }

    fn has_written_macs(&self) -> bool {
        const ADDRESSES: usize = 12;
        self.kernel.out().get(..ADDRESSES) != self.frame.get(..ADDRESSES)
    }

    fn has(&self, key: &FlowKey, client: &PinKey) -> bool {
        let flow = self.kernel.flow(key);
        flow.is_some_and(|flow| flow.tuple().pin() == *client)
    }
}

/// Few source ports, so that they run out.
fn config(constants: Constants) -> DatapathConfig {
    let usual = DatapathConfig {
        snat_port_first: 61_000,
        snat_port_last: 61_031,
        // The model knows no time but what it is told.
        icmp_errors_per_second: 0,
        ..DatapathConfig::DEFAULT
    };
    match constants {
        Constants::Usual => usual,
        Constants::Other => {
            let own = Family::ALL.map(|family| family.node(1).into());
            let config = DatapathConfig {
                flags: config::flags::RESET_VANISHED,
                ..usual
            };
            own.into_iter()
                .fold(config, DatapathConfig::with_snat_address)
        }
    }
}

impl Rig {
    /// Sets all up, and hands it over.
    ///
    /// # Errors
    ///
    /// If it cannot be set up: without root, or on an old kernel.
    pub fn with<T: Send>(
        constants: Constants,
        work: impl FnOnce(&mut Self) -> T + Send,
    ) -> Result<T> {
        let (netns, mut bench) = Bench::set_up("fuzz", config(constants), small_maps())?;
        let kernel = bench.kernel()?;
        let [uplink, pod, tunnel] = bench.devices();
        let devices = Devices {
            uplink,
            pod,
            tunnel,
        };
        let hands_across = constants == Constants::Other;
        if hands_across {
            use lb_common::interface::flags::{DIRECT4, DIRECT6};
            bench.allow_direct(DIRECT4 | DIRECT6);
        }
        let mut rig = Self {
            model: Model {
                hands_across,
                ..Model::new(*bench.config(), devices)
            },
            constants,
            constancy: Constancy::default(),
            counted: vec![0; Counter::ELEMENTS as usize],
            counters: Vec::new(),
            bench,
            kernel,
            distortion: None,
            statistics: Statistics::default(),
        };
        // A program that is run finds its device in the network namespace of the calling thread.
        netns.run(|| work(&mut rig)).context("enter the bench")
    }

    /// Constants of the programs.
    #[must_use]
    pub fn config(&self) -> &DatapathConfig {
        self.bench.config()
    }

    /// Begins an episode: nothing is remembered.
    ///
    /// # Errors
    ///
    /// If the agent does not serve what it should.
    pub fn begin(&mut self, episode: &Episode) -> Result<(), Disagreement> {
        self.statistics.episodes += 1;
        // Tables know their predecessors: the last episode must not show.
        self.forget()?;
        self.bench.renew_known();
        self.bench.program(&services::model(&[], &episode.nets));
        self.model.memory = crate::model::Memory::default();
        self.constancy.clear();
        self.counted.fill(0);
        self.counters = self.read_counters()?;
        self.serve(&episode.services, &episode.nets)
    }

    fn forget(&mut self) -> Result<(), Disagreement> {
        self.kernel.take_flows().map_err(broken)?;
        self.kernel.take_opening().map_err(broken)?;
        self.bench.forget_marks();
        self.kernel.take_pins().map_err(broken)?;
        self.kernel.take_affinity().map_err(broken)?;
        self.kernel.take_pieces().map_err(broken)?;
        Ok(())
    }

    fn evict(&mut self) -> Result<(), Disagreement> {
        self.kernel.take_flows().map_err(broken)?;
        self.kernel.take_opening().map_err(broken)?;
        self.bench.forget_marks();
        self.model.memory.connections.clear();
        self.constancy.clear();
        Ok(())
    }

    /// Carries out a step of an episode. Nothing if the kernel refuses the packet.
    pub(super) fn step(&mut self, step: &Step) -> Result<Option<Met>, Disagreement> {
        match step {
            Step::Packet {
                program,
                frame,
                summed,
                returns,
            } => {
                let known = Program::ALL
                    .into_iter()
                    .find(|known| known.name() == program);
                let program = known.ok_or_else(|| Disagreement(format!("no program {program}")))?;
                let frame = Frame {
                    bytes: frame,
                    gso_size: 0,
                    summed: *summed && program != Program::Xdp,
                    returns: *returns,
                    mark: 0,
                };
                self.packet(program, frame)
            }
            Step::Serve(services) => {
                self.statistics.changes += 1;
                self.bench.renew_known();
                let nets = self.model.tables.nets.clone();
                self.serve(services, &nets).map(|()| None)
            }
            Step::Evict => {
                self.evict()?;
                Ok(None)
            }
            Step::Leave => {
                let connections = self.model.memory.connections.values();
                let clients = connections.map(|connection| connection.client.pin());
                let clients: Vec<PinKey> = clients.collect();
                self.bench.leave(&clients);
                let left = clients.into_iter().map(|client| (client, Pin::ELSEWHERE));
                self.model.memory.pins.extend(left);
                self.evict()?;
                Ok(None)
            }
        }
    }

    fn packet(&mut self, program: Program, frame: Frame<'_>) -> Result<Option<Met>, Disagreement> {
        let bytes = frame.bytes;
        let verdict = match self.kernel.run(program, frame) {
            Ok(verdict) => verdict,
            // What no device would hand over, `BPF_PROG_TEST_RUN` does not either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.statistics.refused += 1;
                return Ok(None);
            }
            // What the kernel has summed is right no more. Nobody looks at the sum of what is sent, or
            // dropped.
            Err(error) if error.raw_os_error() == Some(libc::EBADMSG) => {
                return self.gone_with_another_sum(program, frame);
            }
            Err(error) => return Err(Disagreement(format!("{program:?}: {error}"))),
        };
        let expected = self.expect(program, frame);
        self.compare(program, verdict, &expected)?;
        self.check_sums(program, bytes, verdict)?;
        let frontends = &self.model.tables.frontends;
        let is_frontend = |dst: SocketAddr| {
            let key = FrontendKey::new(dst.ip().into(), dst.port(), protocol::TCP);
            frontends.contains_key(&key)
        };
        self.constancy
            .check(is_frontend, program, bytes, verdict, self.kernel.out())?;
        Ok(Some(Met {
            verdict,
            frame: self.kernel.out().to_vec(),
        }))
    }

    fn gone_with_another_sum(
        &mut self,
        program: Program,
        frame: Frame<'_>,
    ) -> Result<Option<Met>, Disagreement> {
        let expected = self.expect(program, frame);
        if expected.verdict != Verdict::Next {
            // What it became is not known.
            self.constancy.lose_track(frame.bytes);
            return Ok(None);
        }
        Err(Disagreement(format!(
            "{program:?}: the kernel's sum of the packet is wrong afterwards; expected {expected:?}"
        )))
    }

    /// What the model expects.
    fn expect(&mut self, program: Program, frame: Frame<'_>) -> Expected {
        let (counters, counted) = (&self.counters, &self.counted);
        let chosen = Chosen {
            kernel: &self.kernel,
            frame: frame.bytes,
            hook: program.hook(),
            before: &|index| counters[index] + counted[index],
            pin: OnceCell::new(),
        };
        let before = self
            .distortion
            .map(|_| self.model.memory.connections.clone());
        let mut expected = self
            .model
            .meet(program, frame.bytes, frame.returns, &chosen);
        if let (Some(distort), Some(before)) = (self.distortion, before) {
            distort(&mut self.model, &before, &mut expected);
        }
        self.statistics.note(program, &expected);
        for outcome in &expected.counted {
            let counter = Counter {
                hook: program.hook(),
                outcome: *outcome,
            };
            self.counted[counter.index() as usize] += 1;
        }
        expected
    }

    /// A packet whose checksums were right leaves with right ones. By a third way to sum.
    fn check_sums(
        &self,
        program: Program,
        before: &[u8],
        verdict: Verdict,
    ) -> Result<(), Disagreement> {
        let out = self.kernel.out();
        let is_spoilt = verdict != Verdict::Drop
            && packets::are_sums_right(out) == Some(false)
            && packets::are_sums_right(before) == Some(true);
        if is_spoilt {
            return Err(Disagreement(format!(
                "{program:?} spoilt a checksum: {}",
                hex::digits(out)
            )));
        }
        Ok(())
    }

    fn compare(
        &self,
        program: Program,
        verdict: Verdict,
        expected: &Expected,
    ) -> Result<(), Disagreement> {
        let out = self.kernel.out();
        let same = match &expected.frame {
            Some(frame) => frame == out && expected.marked == self.kernel.is_marked(),
            None => true,
        };
        if same && verdict == expected.verdict {
            return Ok(());
        }
        let tell = |frame: &[u8]| format!("{}\n    {}", hex::digits(frame), describe(frame));
        let wanted = expected.frame.as_deref().map_or_else(String::new, tell);
        Err(Disagreement(format!(
            "{program:?} made of the last packet:\n  {verdict:?}, marked: {}, {}\n\
             and the model:\n  {:?}, marked: {}, counted {:?}, {wanted}\n\
             In this episode the programs and the model counted otherwise:{}",
            self.kernel.is_marked(),
            tell(out),
            expected.verdict,
            expected.marked,
            expected.counted,
            self.miscounts()?,
        )))
    }

    /// Serves something else. Established connections stay where they are.
    fn serve(&mut self, services: &[Served], nets: &[IpNet]) -> Result<(), Disagreement> {
        self.bench.program(&services::model(services, nets));
        let before = std::mem::take(&mut self.model.tables);
        self.model.tables = tables(&mut self.bench, services, nets)?;
        self.adopt_pins(&before)
    }

    /// Those connections are pinned to which the new tables do not lead. Of several with one
    /// client's tuple, one is.
    fn adopt_pins(&mut self, before: &Tables) -> Result<(), Disagreement> {
        if self.model.memory.connections.is_empty() {
            return Ok(());
        }
        let mut lost: HashMap<PinKey, (Vec<Pin>, bool)> = HashMap::new();
        for (key, pin, must_be) in self.model.lost(before) {
            let (allowed, any_must_be) = lost.entry(key).or_default();
            allowed.push(pin);
            *any_must_be |= must_be;
        }
        for (key, (allowed, must_be)) in lost {
            let pin = self.kernel.pin(&key);
            match pin.filter(|pin| allowed.contains(pin)) {
                Some(pin) => {
                    self.model.memory.pins.insert(key, pin);
                }
                None if !must_be => {}
                None => {
                    return Err(Disagreement(format!(
                        "the agent changed tables: the pin of {key:?} is {pin:?}, and should be \
                         one of {allowed:?}"
                    )));
                }
            }
        }
        let pins = self.kernel.pins().map_err(broken)?;
        compare_all(
            "after a change of tables, PINS",
            &pins.into_iter().collect(),
            &self.model_pins(),
        )
    }

    /// The model's pins, as programs know their keys.
    fn model_pins(&self) -> HashMap<u64, Pin> {
        hashed(&self.model.memory.pins, |key| self.kernel.pin_hash(key))
    }

    fn read_counters(&self) -> Result<Vec<u64>, Disagreement> {
        self.kernel.counters().map_err(broken)
    }

    /// Where the programs' counters and the model's are not the same.
    fn miscounts(&self) -> Result<String, Disagreement> {
        let after = self.read_counters()?;
        let mut text = String::new();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let index = Counter { hook, outcome }.index() as usize;
                let moved = after[index] - self.counters[index];
                let expected = self.counted[index];
                if moved != expected {
                    text += &format!("\n  {outcome:?} at {hook:?}: {moved}, and {expected}");
                }
            }
        }
        Ok(text)
    }

    /// Ends an episode: everything that is remembered and counted is compared.
    ///
    /// # Errors
    ///
    /// What they disagree about.
    pub fn end(&mut self) -> Result<(), Disagreement> {
        let miscounts = self.miscounts()?;
        if !miscounts.is_empty() {
            return Err(Disagreement(format!("they counted otherwise:{miscounts}")));
        }
        let flows = self.kernel.take_flows().map_err(broken)?;
        let opening = self.kernel.take_opening().map_err(broken)?;
        let flows = flows
            .into_iter()
            .map(|(key, flow)| (key, said(&flow, true)));
        let opening = opening.into_iter();
        let flows = flows.chain(opening.map(|(key, flow)| (key, said(&flow, false))));
        let model = self.model.memory.connections.iter();
        let model = model.map(|(key, connection)| (*key, told(connection)));
        compare_all("FLOWS and OPENING", &flows.collect(), &model.collect())?;
        let pins = self.kernel.take_pins().map_err(broken)?;
        compare_all("PINS", &pins.into_iter().collect(), &self.model_pins())?;
        let bound = self.kernel.take_affinity().map_err(broken)?;
        let bound = bound
            .into_iter()
            .map(|(key, affinity)| (key, affinity.backend));
        compare_all("AFFINITY", &bound.collect(), &self.model.memory.bound)?;
        let pieces = self.kernel.take_pieces().map_err(broken)?;
        let pieces = pieces
            .into_iter()
            .map(|(key, pieces)| (key, known(&pieces)));
        compare_all("FRAGMENTS", &pieces.collect(), &self.model.memory.pieces)
    }
}

fn broken(error: std::io::Error) -> Disagreement {
    Disagreement(format!("a map cannot be read: {error}"))
}
