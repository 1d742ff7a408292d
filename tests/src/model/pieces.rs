//! Packets in pieces: the first one tells the ports of all.

use lb_common::{FragmentKey, counter::Outcome};

use super::{Fate, Model, headers::Reading};
use crate::programs::Program;

/// Pieces of one packet that wait for the first one, at most, and how long each may be.
const HELD_MAX: usize = 16;
const HELD_LEN_MAX: usize = 9600;

/// What is known of a packet in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// The first one has come: source and destination port.
    Known(u16, u16),
    /// So many have come before it.
    Waiting(usize),
}

impl Model {
    /// The first piece of a packet: the others belong to the same flow.
    pub(super) fn first_piece(&mut self, program: Program, piece: &Reading<'_>, key: FragmentKey) {
        let key = at(program, key);
        let ports = Pieces::Known(piece.tuple.src_port, piece.tuple.dst_port);
        self.memory.pieces.insert(key, ports);
    }

    /// A later piece, which gets its ports, if they are known. One that comes too early waits where
    /// the packet may be for a Service, or is leaving; else it is left alone.
    pub(super) fn later_piece(
        &mut self,
        program: Program,
        piece: &mut Reading<'_>,
        key: FragmentKey,
    ) -> Result<(), Fate> {
        let key = at(program, key);
        let held = match self.memory.pieces.get(&key) {
            Some(Pieces::Known(src, dst)) => {
                (piece.tuple.src_port, piece.tuple.dst_port) = (*src, *dst);
                return Ok(());
            }
            Some(Pieces::Waiting(held)) => *held,
            None => 0,
        };
        let is_leaving = matches!(program, Program::WireEgress | Program::PodEgress);
        if !is_leaving && !self.may_be_ours(program, piece) {
            return Err(Fate::Untouched);
        }
        if held < HELD_MAX && piece.frame.len() <= HELD_LEN_MAX {
            self.memory.pieces.insert(key, Pieces::Waiting(held + 1));
            return Err(Fate::Dropped(Outcome::FragmentHeld));
        }
        // What is for the node itself, the node can put together.
        let vip = self.tables.vip(&piece.tuple.dst);
        let is_a_services = vip.is_some_and(|vip| !vip.is_node);
        Err(if is_leaving || !is_a_services {
            Fate::Untouched
        } else {
            Fate::Dropped(Outcome::FragmentLost)
        })
    }

    /// Whether a packet that comes in may be for a Service, or a reply to the node's own address.
    fn may_be_ours(&self, program: Program, piece: &Reading<'_>) -> bool {
        let dst = piece.tuple.dst;
        let device = match program {
            Program::PodIngress => self.devices.pod,
            Program::Tunnel => self.devices.tunnel,
            _ => self.devices.uplink,
        };
        self.tables.vip(&dst).is_some() || self.devices.source(device, piece.is_v4) == Some(dst)
    }
}

/// Each hook sees the pieces of a packet for itself.
fn at(program: Program, key: FragmentKey) -> FragmentKey {
    FragmentKey {
        hook: program.hook() as u8,
        ..key
    }
}
