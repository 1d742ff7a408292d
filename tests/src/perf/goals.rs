//! What the load balancer is to reach: for each figure the gate, which it must not miss, and the
//! goal.

/// Which side of a bound is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// No more than this.
    AtMost,
    /// No less than this.
    AtLeast,
    /// No further than this from zero.
    Within,
}

impl Direction {
    /// Whether a value keeps to a bound.
    pub(super) fn is_met(self, value: f64, bound: f64) -> bool {
        match self {
            Self::AtMost => value <= bound,
            Self::AtLeast => value >= bound,
            Self::Within => value.abs() <= bound,
        }
    }

    /// As it stands before the bound.
    pub(super) fn sign(self) -> char {
        match self {
            Self::AtMost => '≤',
            Self::AtLeast => '≥',
            Self::Within => '±',
        }
    }
}

/// A figure that there are bounds for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Goal {
    /// Name of the figure.
    pub(super) name: &'static str,
    /// Its unit.
    pub(super) unit: &'static str,
    /// Which side of both is right.
    pub(super) direction: Direction,
    /// What must be.
    pub(super) gate: Option<f64>,
    /// What should be.
    pub(super) goal: Option<f64>,
}

const fn at_most(name: &'static str, unit: &'static str, gate: f64, goal: f64) -> Goal {
    bounds(name, unit, Direction::AtMost, gate, goal)
}

const fn at_least(name: &'static str, unit: &'static str, gate: f64, goal: f64) -> Goal {
    bounds(name, unit, Direction::AtLeast, gate, goal)
}

const fn within(name: &'static str, unit: &'static str, gate: f64, goal: f64) -> Goal {
    bounds(name, unit, Direction::Within, gate, goal)
}

const fn bounds(
    name: &'static str,
    unit: &'static str,
    direction: Direction,
    gate: f64,
    goal: f64,
) -> Goal {
    Goal {
        name,
        unit,
        direction,
        gate: Some(gate),
        goal: Some(goal),
    }
}

/// A figure with a goal and no gate.
const fn aim(name: &'static str, unit: &'static str, direction: Direction, goal: f64) -> Goal {
    Goal {
        name,
        unit,
        direction,
        gate: None,
        goal: Some(goal),
    }
}

const NS: &str = "ns/packet";
const TIMES: &str = "×";

/// All of them. What a program costs is net of the harness, at XDP, of IPv4, with 10,000 Services,
/// flows in random order.
pub(super) const GOALS: &[Goal] = &[
    at_most("established, hot: DNAT", NS, 130.0, 60.0),
    at_most("established, hot: DNAT + SNAT", NS, 130.0, 70.0),
    at_most("established, 64k flows: TCP DNAT", NS, 500.0, 100.0),
    at_most("established, 64k flows: DNAT + SNAT", NS, 500.0, 350.0),
    at_most("established, 512k flows: TCP DNAT", NS, 430.0, 100.0),
    at_most("established, 512k flows: DNAT + SNAT", NS, 430.0, 380.0),
    at_most("reply, hot", NS, 130.0, 80.0),
    at_most("reply, 64k flows", NS, 550.0, 350.0),
    at_most("reply, 512k flows", NS, 480.0, 380.0),
    at_most("new connection: with room", NS, 700.0, 480.0),
    at_most("new connection: table full", NS, 1200.0, 500.0),
    at_most("new connection: SYN flood", NS, 1200.0, 500.0),
    // Of all hooks, the dearest.
    at_most(
        "a packet for no Service, each hook of its way",
        NS,
        80.0,
        35.0,
    ),
    at_least(
        "throughput against plain forwarding, one flow",
        TIMES,
        2.5,
        3.2,
    ),
    at_least(
        "throughput against plain forwarding, 64k flows",
        TIMES,
        1.8,
        2.7,
    ),
    at_least(
        "throughput against plain forwarding, all new",
        TIMES,
        1.0,
        2.0,
    ),
    at_least("throughput against nftables, one flow", TIMES, 4.0, 5.5),
    at_least("throughput against nftables, 64k flows", TIMES, 4.0, 5.5),
    at_least("throughput against nftables, all new", TIMES, 4.0, 8.0),
    at_least(
        "new flows against iptables with 10,000 Services",
        TIMES,
        100.0,
        250.0,
    ),
    // How much dearer, one of them in use.
    within("the same with 10,000 Services instead of 1", "%", 5.0, 3.0),
    within("the same with 100,000 Services instead of 1", "%", 5.0, 3.0),
    at_least("IPv6 against IPv4", TIMES, 0.75, 0.9),
    at_least("tcx against nftables, same walks", TIMES, 1.5, 2.0),
    at_least(
        "TCP connections/s pod → ClusterIP, per packet, against nftables",
        TIMES,
        1.3,
        1.4,
    ),
    at_least(
        "TCP connections/s pod → ClusterIP, through sockets, against nftables",
        TIMES,
        1.3,
        1.4,
    ),
    aim(
        "TCP connections/s pod → ClusterIP, through sockets, against a direct connection",
        TIMES,
        Direction::AtLeast,
        0.98,
    ),
    at_most(
        "first sync of 10,000 × 10 from the API stand-in: time",
        "s",
        10.0,
        2.0,
    ),
    at_most(
        "first sync of 10,000 × 10 from the API stand-in: memory",
        "MiB",
        150.0,
        80.0,
    ),
    aim(
        "first sync of 100,000 × 10 from the API stand-in: time",
        "s",
        Direction::AtMost,
        30.0,
    ),
    aim(
        "first sync of 100,000 × 10 from the API stand-in: memory",
        "MiB",
        Direction::AtMost,
        600.0,
    ),
    at_most("writing those maps", "ms", 250.0, 100.0),
    at_most(
        "one endpoint changed among 10,000 Services: event received → maps written, p99",
        "ms",
        5.0,
        1.0,
    ),
    at_most("memory per connection, IPv4", "bytes", 256.0, 96.0),
    at_most("memory per connection, IPv6", "bytes", 320.0, 160.0),
];

/// The bounds of a figure, if there are any.
pub(super) fn of(name: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| goal.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_one_goal_that_is_no_laxer_than_its_gate() {
        let names: BTreeSet<_> = GOALS.iter().map(|goal| goal.name).collect();
        assert_eq!(names.len(), GOALS.len());
        for goal in GOALS {
            if let (Some(gate), Some(aim)) = (goal.gate, goal.goal) {
                assert!(goal.direction.is_met(aim, gate), "{goal:?}");
            }
        }
    }

    #[test]
    fn bound_is_met_on_its_right_side() {
        assert!(Direction::AtMost.is_met(1.0, 2.0) && !Direction::AtMost.is_met(3.0, 2.0));
        assert!(Direction::AtLeast.is_met(3.0, 2.0) && !Direction::AtLeast.is_met(1.0, 2.0));
        assert!(Direction::Within.is_met(-2.0, 2.0) && !Direction::Within.is_met(-3.0, 2.0));
    }
}
