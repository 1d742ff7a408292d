//! What holds whatever the model says: a connection that has begun stays with its backend, and comes
//! from the same port, however the tables change (item 58).

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    protocol,
    wire::tcp::{ACK, FIN, RST, SYN},
};

use super::{Disagreement, talk::ends};
use crate::programs::{Program, Verdict};

/// A client, whom it dials, and by which protocol.
type Tuple = (SocketAddr, SocketAddr, u8);

/// What backends have seen of TCP connections that have not ended.
#[derive(Debug, Default)]
pub(super) struct Constancy {
    seen: HashMap<Tuple, Seen>,
    /// What a SYN has begun, and whether it came from a pod.
    begun: HashMap<Tuple, bool>,
    /// Who has sent something behind extension headers: it may have ended any of its connections.
    unsure: HashSet<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// These are the ends of its packets, and whether the client is a pod.
    As([SocketAddr; 2], bool),
    /// One side has ended it: whatever comes now may go elsewhere.
    Ended,
}

/// What a TCP packet says that begins with its header.
struct Segment {
    tuple: Tuple,
    flags: u8,
}

impl Segment {
    fn of(frame: &[u8]) -> Option<Self> {
        let (number, l4) = match frame.get(12..14)? {
            [8, 0] if [frame.get(20)? & 0x1f, *frame.get(21)?] == [0, 0] => {
                (*frame.get(23)?, 14 + usize::from(frame.get(14)? & 15) * 4)
            }
            [0x86, 0xdd] => (*frame.get(20)?, 54),
            _ => return None,
        };
        let [src, dst] = ends(frame)?;
        (number == protocol::TCP).then_some(Self {
            tuple: (src, dst, number),
            flags: *frame.get(l4 + 13)?,
        })
    }
}

/// Whether extension headers hide what a packet is.
fn is_hidden(frame: &[u8]) -> bool {
    const OPEN: [u8; 4] = [
        protocol::TCP,
        protocol::UDP,
        protocol::SCTP,
        protocol::ICMPV6,
    ];
    matches!(frame.get(12..21), Some([0x86, 0xdd, .., next]) if !OPEN.contains(next))
}

impl Constancy {
    /// Forgets everything: an episode begins, or records are lost.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.begun.clear();
        self.unsure.clear();
    }

    /// Nobody knows what has become of a packet: it may have ended its connection, or another one whose
    /// place it has taken.
    pub(super) fn lose_track(&mut self, before: &[u8]) {
        for seen in self.seen.values_mut() {
            *seen = Seen::Ended;
        }
        if let Some(Segment { tuple, .. }) = Segment::of(before) {
            self.seen.insert(tuple, Seen::Ended);
        }
    }

    /// A packet has become `after`; `is_frontend` says whether somebody is dialled at an address.
    pub(super) fn check(
        &mut self,
        is_frontend: impl Fn(SocketAddr) -> bool,
        program: Program,
        before: &[u8],
        verdict: Verdict,
        after: &[u8],
    ) -> Result<(), Disagreement> {
        let is_inside = program == Program::PodIngress;
        self.note_end(before);
        if verdict != Verdict::Drop {
            self.note_reply(after);
        }
        let Some([client, _]) = ends(before) else {
            return Ok(());
        };
        let Some(Segment { tuple, flags }) = Segment::of(before) else {
            if is_hidden(before) {
                self.unsure.insert(client.ip());
            }
            return Ok(());
        };
        if !is_inside && !Program::WIRE.contains(&program) {
            return Ok(());
        }
        if flags & (SYN | ACK | RST) == SYN && verdict != Verdict::Drop {
            // The client begins something on its port. What has ended there has ended still.
            self.seen
                .retain(|other, seen| other.0 != client || *seen == Seen::Ended && *other != tuple);
            self.begun.insert(tuple, is_inside);
            return Ok(());
        }
        if !is_frontend(tuple.1) {
            return Ok(());
        }
        // A SYN that begins nothing tells of no connection that goes on.
        if flags & (SYN | FIN | RST) != 0 {
            self.seen.insert(tuple, Seen::Ended);
            return Ok(());
        }
        // Neither dropped, nor left alone, nor answered.
        let sent = Segment::of(after)
            .filter(|sent| verdict != Verdict::Drop && before != after && sent.flags == flags);
        let Some(sent) = sent else {
            return Ok(());
        };
        let now = [sent.tuple.0, sent.tuple.1];
        self.compare(tuple, now, is_inside)
    }

    /// Notes how a backend sees a packet of a connection, which must be as before.
    fn compare(
        &mut self,
        tuple: Tuple,
        now: [SocketAddr; 2],
        is_inside: bool,
    ) -> Result<(), Disagreement> {
        let is_unsure = |end: &SocketAddr| self.unsure.contains(&end.ip());
        if [tuple.0, now[1]].iter().any(is_unsure) {
            self.seen.insert(tuple, Seen::Ended);
            return Ok(());
        }
        // Pins do not tell where a client's packets enter: who forges those of a pod from outside takes its
        // pin away.
        let began_inside = self.begun.get(&tuple).copied().unwrap_or(is_inside);
        match self.seen.entry(tuple).or_insert(Seen::As(now, is_inside)) {
            Seen::As(_, was_inside) if [*was_inside, began_inside] != [is_inside; 2] => {
                self.seen.insert(tuple, Seen::Ended);
                Ok(())
            }
            Seen::As(earlier, _) if *earlier != now => Err(Disagreement(format!(
                "the connection {tuple:?} was {earlier:?}, and is {now:?} now"
            ))),
            _ => Ok(()),
        }
    }

    /// The same of a packet that nobody has seen become a reply: it is dropped once it is noted.
    fn note_end(&mut self, before: &[u8]) {
        let Some(Segment { tuple, flags }) = Segment::of(before) else {
            return;
        };
        if flags & (FIN | RST) != 0 {
            let there = [tuple.1, tuple.0];
            let of_backend = self
                .seen
                .values_mut()
                .filter(|seen| matches!(seen, Seen::As(ends, _) if *ends == there));
            of_backend.for_each(|seen| *seen = Seen::Ended);
        }
    }

    /// What a backend ends may be begun anew elsewhere.
    fn note_reply(&mut self, after: &[u8]) {
        if let Some(Segment { tuple, flags }) = Segment::of(after)
            && flags & (FIN | RST) != 0
        {
            let reply = (tuple.1, tuple.0, tuple.2);
            self.seen.insert(reply, Seen::Ended);
        }
    }
}
