//! From a backend back to the client.

use lb_common::{Addr, FlowKey, Tuple, counter::Outcome, flow::edge, protocol};

use super::{
    Change, Fate, Meeting, Model, Next, clients::Site, clients::Source, end, memory::Connection,
};

fn key(tuple: &Tuple, edge: u32) -> FlowKey {
    let dst = if edge == edge::WIRE_INGRESS {
        Addr::UNSPECIFIED
    } else {
        tuple.dst
    };
    FlowKey {
        src: tuple.src,
        dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        edge,
        protocol: tuple.protocol,
        pad: 0,
        pad_half: 0,
    }
}

/// Only ports of a range are ever given to a packet whose source changes, but for SCTP, whose ports
/// stay.
fn has_fixed_ports(tuple: &Tuple) -> bool {
    tuple.protocol == protocol::SCTP
}

impl Model {
    /// The connection that a packet is a reply of, which is noted.
    fn replied(
        &mut self,
        meeting: &Meeting<'_>,
        edge: u32,
        is_right: impl Fn(&Connection) -> bool,
    ) -> Option<Connection> {
        let connection = self
            .memory
            .connections
            .get_mut(&key(&meeting.packet.tuple, edge))?;
        if !is_right(connection) || meeting.packet.is_error() && connection.left {
            return None;
        }
        if !meeting.packet.is_error() {
            connection.note_reply(meeting.packet);
        }
        Some(*connection)
    }

    /// A reply to a client whose address the backend saw: it is to come from the frontend. Where
    /// the client's port was another one, it gets that back, too.
    pub(super) fn reply(&mut self, meeting: &Meeting<'_>, site: Site) -> Option<Fate> {
        let edge = site.edge(Source::Kept);
        let client = self.replied(meeting, edge, |_| true)?.client;
        let is_same_port = client.src_port == meeting.packet.tuple.dst_port;
        Some(Fate::Changed(Change {
            src: Some(end(client.dst, client.dst_port)),
            dst: (!is_same_port).then(|| end(client.src, client.src_port)),
            next: Next::On,
            counted: Outcome::Replied,
        }))
    }

    /// A reply to the node's own address leaves for the client at once.
    pub(super) fn snat_reply(&mut self, meeting: &Meeting<'_>) -> Option<Fate> {
        let tuple = meeting.packet.tuple;
        if !self.config.may_be_snat(tuple.dst, tuple.dst_port) && !has_fixed_ports(&tuple) {
            return None;
        }
        let is_right = |connection: &Connection| connection.snat == tuple.dst;
        let client = self.replied(meeting, edge::WIRE_INGRESS, is_right)?.client;
        let Some(way) = self.way_from(meeting, client.src) else {
            return Some(Fate::Left);
        };
        Some(self.leave(
            meeting.packet,
            Change {
                src: Some(end(client.dst, client.dst_port)),
                dst: Some(end(client.src, client.src_port)),
                next: Next::Out(way),
                counted: Outcome::Redirected,
            },
        ))
    }

    /// A reply of a pod to itself returns to it. What a pod forges of another's replies comes back
    /// to it, too: it has deceived nobody but itself.
    pub(super) fn hairpin_reply(&mut self, meeting: &Meeting<'_>, pod: u32) -> Option<Fate> {
        let tuple = &meeting.packet.tuple;
        if !self.config.is_snat_port(tuple.dst_port) && !has_fixed_ports(tuple) {
            return None;
        }
        let client = self.replied(meeting, pod, |_| true)?.client;
        Some(Fate::Changed(Change {
            src: Some(end(client.dst, client.dst_port)),
            dst: Some(end(client.src, client.src_port)),
            next: Next::Back,
            counted: Outcome::Redirected,
        }))
    }

    /// A client that opens a connection to a backend's own address must not meet an earlier one
    /// to a frontend on the same ports: its replies would be translated. Decides nothing.
    pub(super) fn forget_reverse(&mut self, meeting: &Meeting<'_>, site: Site) -> Option<Fate> {
        if meeting.packet.opens() {
            let Tuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
            } = meeting.packet.tuple;
            let reply = Tuple {
                src: dst,
                dst: src,
                src_port: dst_port,
                dst_port: src_port,
                protocol,
            };
            let edge = site.edge(Source::Kept);
            self.memory.connections.remove(&key(&reply, edge));
        }
        None
    }
}
