//! Connections, made by their own packets.

use std::{net::SocketAddr, ops::Range};

use anyhow::{Context as _, Result, ensure};
use lb_common::counter::Outcome;

use super::{
    driver::Ends,
    walk::{Walk, case, count, ends, frame},
};
use crate::programs::{Family, Frame, Kernel, Program, Verdict};

/// Where the ends of a packet are in its frame.
#[derive(Clone, Copy)]
struct Fields([usize; 3]);

impl Fields {
    fn of(family: Family) -> Self {
        // As `lb-ebpf/src/drive.rs` has them: the last words of both addresses, and the ports.
        match family {
            Family::V4 => Self([26, 30, 34]),
            Family::V6 => Self([34, 50, 54]),
        }
    }

    fn write(self, frame: &mut [u8], ends: Ends) {
        for (at, word) in self.0.into_iter().zip([ends.src, ends.dst, ends.ports]) {
            frame[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
    }

    fn read(self, frame: &[u8]) -> Result<Ends> {
        let word = |at: usize| {
            let bytes = frame.get(at..at + 4).context("a short frame")?;
            Ok::<_, anyhow::Error>(u32::from_ne_bytes(bytes.try_into()?))
        };
        let [src, dst, ports] = self.0.map(word);
        Ok(Ends {
            src: src?,
            dst: dst?,
            ports: ports?,
            pad: 0,
        })
    }
}

impl Ends {
    /// Those of an answer.
    fn back(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: self.ports.rotate_left(16),
            pad: 0,
        }
    }
}

/// The ends of the packets of some flows, in their order.
#[derive(Debug, Default)]
pub(super) struct Established {
    pub(super) forward: Vec<Ends>,
    pub(super) reply: Vec<Ends>,
    /// Source and destination of a reply.
    pub(super) example: Option<[SocketAddr; 2]>,
}

impl Established {
    /// More of them.
    pub(super) fn append(&mut self, mut more: Self) {
        self.forward.append(&mut more.forward);
        self.reply.append(&mut more.reply);
        self.example = self.example.or(more.example);
    }
}

/// Lets clients connect: SYN, answer, and the third packet, after which a connection is kept.
pub(super) fn establish(
    kernel: &mut Kernel,
    walk: &Walk,
    family: Family,
    numbers: Range<u32>,
) -> Result<Established> {
    let (case, fields) = (case(family), Fields::of(family));
    let frontend = walk.frontend(family, numbers.start);
    let client = walk.client(family, numbers.start);
    let mut syn = frame(case.opening(client, frontend));
    let mut third = frame(case.following(client, frontend));
    let mut answer = Vec::new();
    let before = counts(kernel, walk)?;
    let mut established = Established::default();
    let expected = u64::from(numbers.end - numbers.start);
    for number in numbers {
        let forward = flow(walk, family, number);
        fields.write(&mut syn, forward);
        run(kernel, walk.forward, &syn, walk.verdict)?;
        if answer.is_empty() {
            let [client, backend] = crate::programs::ends(kernel.out());
            answer = frame(case.answer(backend, client));
            established.example = Some([backend, client]);
        }
        let reply = fields.read(kernel.out())?.back();
        fields.write(&mut answer, reply);
        run(kernel, walk.reply, &answer, walk.reply_verdict)?;
        fields.write(&mut third, forward);
        run(kernel, walk.forward, &third, walk.verdict)?;
        established.forward.push(forward);
        established.reply.push(reply);
    }
    let [new, answered] = counts(kernel, walk)?;
    let new = new - before[0];
    ensure!(new == expected, "{new} of {expected} connections were new");
    // Where one program meets both ways, it counts them alike.
    let each = if walk.forward == walk.reply { 3 } else { 1 };
    let answered = (answered - before[1]) / each;
    ensure!(
        answered == expected,
        "{answered} of {expected} connections were answered"
    );
    Ok(established)
}

/// Connections that were new, and replies.
fn counts(kernel: &Kernel, walk: &Walk) -> Result<[u64; 2]> {
    Ok([
        count(kernel, walk.forward, Outcome::NewFlow)?,
        count(kernel, walk.reply, walk.reply_outcome)?,
    ])
}

/// The ends of the first packets of so many flows that are not there yet.
pub(super) fn unknown(walk: &Walk, family: Family, first: u32, count: usize) -> Vec<Ends> {
    (first..)
        .take(count)
        .map(|number| flow(walk, family, number))
        .collect()
}

fn flow(walk: &Walk, family: Family, number: u32) -> Ends {
    ends(walk.client(family, number), walk.frontend(family, number))
}

fn run(kernel: &mut Kernel, program: Program, bytes: &[u8], expected: Verdict) -> Result<()> {
    let verdict = kernel.run(program, Frame::of(bytes))?;
    ensure!(
        verdict == expected,
        "{program:?} said {verdict:?}, not {expected:?}"
    );
    Ok(())
}
