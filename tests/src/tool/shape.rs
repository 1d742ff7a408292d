//! Requests that are not the plain ones of a socket.

use std::fmt;
use std::str::FromStr;

use super::UsageError;

/// What a client's packets look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As the kernel makes them.
    #[default]
    Plain,
    /// UDP: in fragments of 1,280 bytes.
    Fragments(Order),
    /// IPv4: with an option that records the route. IPv6: with hop-by-hop options.
    Options,
    /// IPv4: with as many options as there can be. IPv6: with hop-by-hop and destination options.
    ManyOptions,
    /// UDP: without checksum.
    Unchecked,
}

/// In which order the fragments of a datagram are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first one first.
    InOrder,
    /// The first one last.
    Reversed,
    /// The last one, then the others as they come.
    LastFirst,
    /// Odd ones before even ones, backwards.
    Shuffled,
    /// Each one twice.
    Duplicated,
    /// With one that says otherwise of eight bytes of another.
    Overlapping,
}

impl Order {
    /// The orders in which a datagram must arrive.
    pub const INTACT: [Self; 5] = [
        Self::InOrder,
        Self::Reversed,
        Self::LastFirst,
        Self::Shuffled,
        Self::Duplicated,
    ];
}

impl Shape {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::Plain, "plain"),
        (Self::Fragments(Order::InOrder), "fragments-in-order"),
        (Self::Fragments(Order::Reversed), "fragments-reversed"),
        (Self::Fragments(Order::LastFirst), "fragments-last-first"),
        (Self::Fragments(Order::Shuffled), "fragments-shuffled"),
        (Self::Fragments(Order::Duplicated), "fragments-duplicated"),
        (Self::Fragments(Order::Overlapping), "fragments-overlapping"),
        (Self::Options, "options"),
        (Self::ManyOptions, "many-options"),
        (Self::Unchecked, "unchecked"),
    ];
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(shape, _)| shape == self);
        out.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for Shape {
    type Err = UsageError;

    fn from_str(name: &str) -> Result<Self, UsageError> {
        let named = Self::NAMES.iter().find(|(_, known)| *known == name);
        named
            .map(|(shape, _)| *shape)
            .ok_or_else(|| UsageError::Value {
                option: "--shape".to_owned(),
                value: name.to_owned(),
            })
    }
}
