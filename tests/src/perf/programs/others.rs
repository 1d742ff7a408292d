//! Packets that are no ordinary ones of a connection.

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::counter::Outcome;

use super::{
    Cost, Subject,
    cell::{Cell, Pass, Rig},
    driver::{FRAME_LEN, Load},
    establish::establish,
    walk::{Walk, case, frame},
};
use crate::programs::{Family, IcmpError, Program, Verdict};

/// What packets cost that nobody here serves.
pub(super) const UNSERVED: &str = "not a Service";

/// What they cost at each hook that they meet.
pub(super) fn measure(rig: &mut Rig, family: Family, services: u32) -> Result<Vec<Cost>> {
    rig.forget()?;
    let mut costs = Vec::new();
    let mut measure = |rig: &mut Rig, what: &str, hook, one: &One| {
        let of = Subject {
            what: what.to_owned(),
            hook,
            family,
            services,
        };
        if rig.is_wanted(&of) {
            let samples = rig.cost(&one.cell())?;
            costs.push(Cost { of, samples });
        }
        Ok::<_, anyhow::Error>(())
    };
    for program in Program::ALL {
        measure(rig, UNSERVED, name(program), &unserved(family, program))?;
    }
    for walk in [Walk::XDP_SNAT, Walk::TCX_SNAT] {
        establish(&mut rig.kernel, &walk, family, 0..1)?;
        let error = error(rig, &walk, family);
        measure(rig, "ICMP error", walk.hook(), &error)?;
        let [first, later] = pieces(&walk, family);
        measure(rig, "fragment, the first", walk.hook(), &first)?;
        measure(rig, "fragment, a later one", walk.hook(), &later)?;
        rig.forget()?;
    }
    Ok(costs)
}

/// One packet, again and again.
pub(super) struct One {
    program: Program,
    frame: Vec<u8>,
    verdict: Verdict,
    counted: Vec<Outcome>,
}

impl One {
    pub(super) fn cell(&self) -> Cell<'_> {
        Cell {
            program: self.program,
            load: Load {
                frame: &self.frame,
                family: 0,
                flows: 1,
            },
            pass: Pass::Hot { of: 1 },
            verdict: self.verdict,
            counted: &self.counted,
        }
    }

    /// One that XDP leaves to tc.
    fn uncommon(program: Program, frame: Vec<u8>, (verdict, outcome): (Verdict, Outcome)) -> Self {
        let is_left = program == Program::Xdp;
        Self {
            program,
            frame,
            verdict: if is_left { Verdict::Next } else { verdict },
            counted: if is_left {
                Vec::new()
            } else {
                vec![Outcome::Seen, outcome]
            },
        }
    }
}

/// As it stands in a table.
pub(super) fn name(program: Program) -> &'static str {
    match program {
        Program::Xdp => "XDP",
        Program::WireIngress => "tcx ingress",
        Program::WireEgress => "tcx egress",
        Program::Tunnel => "tcx tunnel",
        Program::PodIngress => "tcx from a pod",
        Program::PodEgress => "tcx to a pod",
    }
}

pub(super) fn unserved(family: Family, program: Program) -> One {
    let case = case(family);
    let (client, remote) = (case.client(4000), case.backend(2, 7));
    let pod = SocketAddr::new(family.pod(1, 99), 4000);
    let (src, dst) = match program {
        Program::Xdp | Program::WireIngress | Program::PodEgress => (client, pod),
        Program::Tunnel => (case.backend(4, 7), pod),
        Program::WireEgress => (pod, client),
        Program::PodIngress => (pod, remote),
    };
    One {
        program,
        frame: frame(case.following(src, dst)),
        verdict: Verdict::Next,
        counted: vec![Outcome::Seen],
    }
}

/// Of a router on the way to the backend, about a packet that was given a backend.
fn error(rig: &mut Rig, walk: &Walk, family: Family) -> One {
    let case = case(family);
    let packet = case.following(walk.client(family, 0), walk.frontend(family, 0));
    let [snat, backend] = rig.bench.run(walk.forward, &packet.bytes()).ends();
    let sent = case.following(snat, backend).payload(FRAME_LEN);
    let quoted = match family {
        Family::V4 => FRAME_LEN - 62,
        Family::V6 => FRAME_LEN - 102,
    };
    let frame = IcmpError::too_big(family, 1280).about(family.client(200), &sent, quoted);
    One::uncommon(walk.reply, frame, (walk.reply_verdict, walk.reply_outcome))
}

/// The first piece of a client's packet, and a later one.
fn pieces(walk: &Walk, family: Family) -> [One; 2] {
    let (client, frontend) = (walk.client(family, 0), walk.frontend(family, 0));
    let whole = frame(case(family).following(client, frontend));
    [0, 64].map(|offset| {
        let frame = piece(&whole, family, offset);
        One::uncommon(walk.forward, frame, (walk.verdict, walk.outcome))
    })
}

/// A piece of a longer packet that begins at an offset, in units of eight bytes.
fn piece(whole: &[u8], family: Family, offset: u16) -> Vec<u8> {
    /// Where the IP header begins.
    const IP: usize = 14;
    /// There are more pieces.
    const MORE: u16 = 0x2000;
    let mut bytes = whole.to_vec();
    match family {
        Family::V4 => bytes[IP + 6..IP + 8].copy_from_slice(&(MORE | offset).to_be_bytes()),
        Family::V6 => {
            const HEADERS: usize = IP + 40;
            let next = std::mem::replace(&mut bytes[IP + 6], 44);
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            let extension = [next, 0, high, low, 0, 0, 0, 1];
            bytes.splice(HEADERS..HEADERS, extension);
            bytes.truncate(whole.len());
        }
    }
    bytes
}
