//! What holds for a flow whatever its packets are.

use core::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const HZ: u32 = 250;

fn at(tick: u64) -> Now {
    Now {
        tick,
        ticks_per_second: HZ,
    }
}

/// A packet of a flow.
#[derive(Clone, Copy, Debug)]
struct Met {
    direction: Direction,
    flags: u8,
    sequence: u32,
    ack: u32,
    /// Ticks since the one before.
    after: u64,
}

fn any_packet() -> impl Strategy<Value = Met> {
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Reply)];
    // Few numbers, so that they fit now and then.
    let number = || prop_oneof![0_u32..4, any::<u32>()];
    let after = prop_oneof![0_u64..10, 0..u64::from(HZ) * 100];
    (direction, 0_u8..32, number(), number(), after).prop_map(
        |(direction, flags, sequence, ack, after)| Met {
            direction,
            flags,
            sequence,
            ack,
            after,
        },
    )
}

fn begin(protocol: Protocol) -> Flow {
    let tuple = Tuple {
        src: Ipv4Addr::new(10, 0, 0, 1).into(),
        dst: Ipv4Addr::new(10, 96, 0, 17).into(),
        src_port: 40_000,
        dst_port: 80,
        protocol,
    };
    let mut flow = Flow::zeroed();
    flow.begin(&tuple, SYN, &Addr::UNSPECIFIED, &Hop::NONE, at(1000));
    flow
}

/// Lets a flow meet a packet as the programs do; whether it confirms the flow.
fn meet(flow: &mut Flow, packet: Met, now: Now) -> bool {
    let due = flow.note(packet.direction, packet.flags, now);
    match packet.direction {
        Direction::Forward => flow.is_confirmed_by(packet.flags, packet.ack, due),
        Direction::Reply => {
            flow.expect_ack(packet.flags, packet.sequence);
            false
        }
    }
}

proptest! {
    /// Who has not heard the backend cannot know what it has sent.
    #[test]
    fn a_flow_is_confirmed_only_by_who_knows_the_backends_numbers(
        packets in prop::collection::vec(any_packet(), 1..20),
    ) {
        let (mut flow, mut tick) = (begin(protocol::TCP), 1000);
        let mut newest = None;
        for packet in packets {
            tick += packet.after;
            let confirmed = meet(&mut flow, packet, at(tick));
            if packet.direction == Direction::Reply && packet.flags & RST == 0 {
                newest = Some(packet);
            }
            let Some(newest) = newest else {
                prop_assert!(!confirmed, "no answer yet");
                continue;
            };
            let is_syn = newest.flags & SYN != 0;
            let off = packet.ack.wrapping_sub(newest.sequence).cast_signed();
            let fits = if is_syn { off == 1 } else { off.unsigned_abs() <= ACK_SLACK };
            let is_segment = packet.flags & (SYN | RST | ACK) == ACK;
            let expected = packet.direction == Direction::Forward && is_segment && fits;
            prop_assert_eq!(confirmed, expected, "{:?} after {:?}", packet, newest);
        }
    }

    /// Where there is no room, it is tried again once a second, and never for a flow that is in.
    #[test]
    fn a_flow_that_found_no_room_waits_for_a_second(
        packets in prop::collection::vec(any_packet(), 1..20),
        is_in: bool,
    ) {
        let (mut flow, mut tick) = (begin(protocol::UDP), 1000);
        flow.confirmed = if is_in { confirmed::YES } else { confirmed::REFUSED };
        let mut tries = 0;
        for packet in &packets {
            tick += packet.after;
            tries += u64::from(meet(&mut flow, *packet, at(tick)));
        }
        let seconds = (tick - 1000) / u64::from(HZ);
        let most = if is_in { 0 } else { seconds };
        prop_assert!(tries <= most);
    }

    /// A packet always gives its flow the time of the phase that it leads to, to within a second; so
    /// one that is met in time, or that revives a record, keeps it.
    #[test]
    fn a_packet_renews_the_time_of_its_phase(
        packets in prop::collection::vec(any_packet(), 1..20),
        protocol in prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(protocol::SCTP)],
    ) {
        let (mut flow, mut tick) = (begin(protocol), 1000);
        for packet in packets {
            tick += packet.after;
            meet(&mut flow, packet, at(tick));
            let lifetime = u64::from(flow.phase().lifetime_s(protocol) - 1) * u64::from(HZ);
            prop_assert!(!flow.is_expired(at(tick + lifetime)), "{:?}", flow.phase());
        }
    }

    /// A RST that nobody accepts leaves nothing behind, whenever it comes.
    #[test]
    fn a_rst_is_undone_by_whoever_goes_on(
        packets in prop::collection::vec(any_packet(), 1..20),
        rst in any_packet(),
        next in any_packet(),
    ) {
        let rst = Met { flags: RST | rst.flags & ACK, after: 0, ..rst };
        let next = Met { flags: next.flags & !(RST | SYN), after: 0, ..next };
        let (mut plain, mut tick) = (begin(protocol::TCP), 1000);
        for packet in packets {
            tick += packet.after;
            meet(&mut plain, packet, at(tick));
        }
        let mut forged = plain;
        meet(&mut forged, rst, at(tick));
        prop_assert_eq!(forged.phase(), Phase::Reset);
        prop_assert!(!forged.is_expired(at(tick + 100 * u64::from(HZ))));
        let confirms = [&mut plain, &mut forged].map(|flow| meet(flow, next, at(tick)));
        prop_assert_eq!(confirms[0], confirms[1]);
        prop_assert_eq!(plain.phase(), forged.phase());
        prop_assert_eq!(plain.ack, forged.ack);
    }

    /// Both ends' FINs close a flow, and only a new SYN opens it again.
    #[test]
    fn what_is_closed_stays_closed(packets in prop::collection::vec(any_packet(), 0..20)) {
        let mut flow = begin(protocol::TCP);
        for direction in [Direction::Forward, Direction::Reply] {
            let _ = flow.note(direction, FIN | ACK, at(1000));
        }
        for packet in packets {
            meet(&mut flow, packet, at(1000));
            prop_assert!(flow.phase() >= Phase::Closed);
        }
        flow.reopen(at(1000));
        prop_assert_eq!(flow.phase(), Phase::Opening);
    }
}
