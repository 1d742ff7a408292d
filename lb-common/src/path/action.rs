//! What a hook decides to do with a packet.

use super::Scratch;
use crate::{
    counter::Outcome,
    rewrite::{Rewrite, quoted::ErrorRewrite},
};

/// What is to be done with a packet.
///
/// Where to, and what is counted, the scratch memory says: an enum with addresses in it would live on the
/// stack. One with anything in it is read where it holds nothing, too, which verifiers before Linux 6.3
/// refuse.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// It is no Service's business: it goes on as it came.
    Pass,
    /// It goes on as it came, to a hook that can do more.
    Defer,
    /// It is dropped, for the reason [`Scratch::outcome`].
    Drop,
    /// Its sender is told that nobody serves it: [`Message::refusal`](crate::answer::Message::refusal).
    Reject,
    /// Its sender is told [`Scratch::message`] about it: [`answer::tell`](crate::answer::tell).
    Tell,
    /// Its sender is told that the connection is over: the backend is gone. With the same answer.
    Reset,
    /// It is an ICMP echo request, which is answered: [`answer::echo`](crate::answer::echo).
    Echo,
    /// Its destination becomes [`Scratch::dst`], and it goes on its way through the stack.
    ToBackend,
    /// Its source becomes [`Scratch::src`], and it goes on its way.
    ToClient,
    /// Both ends are rewritten, and it goes on its way: the client's own port was taken. Or it goes
    /// by [`Scratch::hop`], a bridge, as if that had never let it up ([`Outcome::Direct`]).
    /// [`Scratch::outcome`] says which way it goes.
    Remap,
    /// Both ends are rewritten, and it leaves by [`Scratch::hop`] at once.
    Out,
    /// Both ends are rewritten, and it goes back to where it came from: the pod at the veth's
    /// other end.
    Bounce,
}

impl Action {
    /// What becomes of the packet's headers.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(self, scratch: &Scratch) -> Rewrite {
        let (src, dst) = (scratch.src.by_words(), scratch.dst.by_words());
        let (src, dst) = match self {
            Self::Out | Self::Bounce | Self::Remap => (Some(src), Some(dst)),
            Self::ToBackend => (None, Some(dst)),
            Self::ToClient => (Some(src), None),
            Self::Pass
            | Self::Defer
            | Self::Drop
            | Self::Reject
            | Self::Reset
            | Self::Tell
            | Self::Echo => (None, None),
        };
        Rewrite {
            src,
            dst,
            routed: matches!(self, Self::Out),
        }
    }
}

/// What becomes of an ICMP error; [`Scratch::way`]. Numbers in memory: the verifier follows what is
/// done about errors once, and not for each action.
pub mod way {
    /// [`Action::ToBackend`](super::Action::ToBackend)
    pub const TO_BACKEND: u32 = 0;
    /// [`Action::ToClient`](super::Action::ToClient)
    pub const TO_CLIENT: u32 = 1;
    /// [`Action::Remap`](super::Action::Remap), towards the backend.
    pub const REMAP: u32 = 2;
    /// [`Action::Remap`](super::Action::Remap), towards the client.
    pub const REMAP_BACK: u32 = 3;
    /// [`Action::Out`](super::Action::Out)
    pub const OUT: u32 = 4;
    /// [`Action::Bounce`](super::Action::Bounce)
    pub const BOUNCE: u32 = 5;
    /// [`Action::Remap`](super::Action::Remap), by a bridge.
    pub const DIRECT: u32 = 6;
}

impl Action {
    /// The way of an ICMP error, of which `outcome` would be counted; nothing if it has none.
    #[inline(always)]
    #[must_use]
    pub fn way(self, outcome: Outcome) -> Option<u32> {
        match self {
            Self::ToBackend => Some(way::TO_BACKEND),
            Self::ToClient => Some(way::TO_CLIENT),
            Self::Remap => Some(match outcome {
                Outcome::Replied => way::REMAP_BACK,
                Outcome::Direct => way::DIRECT,
                _ => way::REMAP,
            }),
            Self::Out => Some(way::OUT),
            Self::Bounce => Some(way::BOUNCE),
            Self::Pass
            | Self::Defer
            | Self::Drop
            | Self::Reject
            | Self::Reset
            | Self::Tell
            | Self::Echo => None,
        }
    }
}

impl Scratch {
    /// Drops the packet for a reason.
    #[inline(always)]
    pub(super) fn drops(&mut self, reason: Outcome) -> Action {
        self.outcome = reason;
        Action::Drop
    }

    /// Lets both ends of the packet be rewritten; what counts is which way it goes.
    #[inline(always)]
    pub(super) fn remaps(&mut self, outcome: Outcome) -> Action {
        self.outcome = outcome;
        Action::Remap
    }

    /// What becomes of an ICMP error that goes [`way`](Self::way).
    #[inline(always)]
    #[must_use]
    pub fn rewrite_error(&self) -> ErrorRewrite<'_> {
        let routed = self.way == way::OUT;
        ErrorRewrite {
            src: (self.way != way::TO_BACKEND).then_some(&self.src),
            dst: (self.way != way::TO_CLIENT).then_some(&self.dst),
            routed,
        }
    }
}
