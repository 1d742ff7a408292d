//! How far a connection is, and how long it may be idle there.

use super::{Mark, ends};
use crate::{Protocol, protocol};

/// How long a RST is given to prove true, in seconds.
///
/// Sequence numbers are not followed, so a RST may be forged: whoever did not accept it goes on, and
/// the next packet of either side gives the flow its old time back. Once expired, the record is
/// swept away: conntrack's ten seconds would let one forged segment end a connection that is only
/// idle. Two minutes are longer than the retransmissions, keepalives and application heartbeats of
/// those that are alive, and no longer than a closed connection is kept.
const RESET_S: u32 = 120;

/// How long an answer may be under way when its client has gone to another backend, in seconds: as long as
/// conntrack keeps what is over (`nf_conntrack_proto_tcp.c`, close).
const LEFT_S: u32 = 10;

/// Phase of a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No reply yet.
    Opening = 1,
    /// Both sides have been heard.
    Established = 2,
    /// One side has sent a FIN.
    Closing = 3,
    /// Both sides have sent a FIN.
    Closed = 4,
    /// One side has sent a RST, and nobody has gone on since.
    Reset = 5,
    /// Its client has gone to another backend: only answers that are under way are left of it.
    Left = 6,
}

impl Phase {
    /// The phase that follows from the bits of [`Flow::ends`] and from [`Flow::answered`].
    #[inline(always)]
    #[must_use]
    pub fn of(ends: u8, answered: u8) -> Self {
        const BOTH: u8 = ends::FIN_FORWARD | ends::FIN_REPLY;
        if ends & ends::LEFT != 0 {
            Self::Left
        } else if ends & ends::RST != 0 {
            Self::Reset
        } else if ends & BOTH == BOTH {
            Self::Closed
        } else if ends != 0 {
            Self::Closing
        } else if answered != 0 {
            Self::Established
        } else {
            Self::Opening
        }
    }

    /// How long a flow may be idle in this phase, in seconds.
    ///
    /// Linux's conntrack times (`nf_conntrack_proto_tcp.c`, `nf_conntrack_proto_udp.c`), with
    /// kube-proxy's established and close-wait times (item 60). SCTP's chunks are not read: it has
    /// the time of an association that is established (`nf_conntrack_proto_sctp.c`).
    #[inline(always)]
    #[must_use]
    pub fn lifetime_s(self, protocol: Protocol) -> u32 {
        match (self, protocol) {
            (Self::Opening, protocol::TCP) => 120,
            (Self::Established, protocol::TCP) => 86_400,
            (Self::Closing, protocol::TCP) => 3_600,
            (Self::Closed, protocol::TCP) => 120,
            (Self::Reset, protocol::TCP) => RESET_S,
            (Self::Left, _) => LEFT_S,
            (Self::Opening, _) => 30,
            (_, protocol::SCTP) => 210,
            (_, _) => 120,
        }
    }

    /// For how many ticks beside that the client's last packets may have gone by a [`Mark`](super::Mark), if it counts: a
    /// connection of TCP may be idle for so long that it does not.
    #[inline(always)]
    #[must_use]
    pub fn marked_ticks(self, protocol: Protocol) -> u64 {
        u64::from(self == Self::Established && protocol == protocol::UDP) * Mark::LASTS
    }
}
