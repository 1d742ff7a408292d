//! What every behaviour is tested for: both families, TCP and UDP.

use std::net::SocketAddr;

use super::{
    BACKEND_PORT, Bench, Family, Packet, Program, SERVICE_PORT, Transport, on_bench,
    service::node_port,
};

/// A family and a transport protocol, in which a test speaks of addresses and packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The family.
    pub family: Family,
    /// The transport protocol.
    pub transport: Transport,
}

impl Case {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_family = |family| {
            Transport::ALL
                .map(|transport| Self { family, transport })
                .into_iter()
        };
        Family::ALL.into_iter().flat_map(of_family)
    }

    /// Whether this is TCP.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        self.transport == Transport::Tcp
    }

    /// A client outside of the cluster.
    #[must_use]
    pub fn client(self, port: u16) -> SocketAddr {
        (self.family.client(1), port).into()
    }

    /// A pod of the node under test, as a client.
    #[must_use]
    pub fn pod_client(self, port: u16) -> SocketAddr {
        (self.family.pod(1, 99), port).into()
    }

    /// Where Service `number` is dialled within the cluster.
    #[must_use]
    pub fn vip(self, number: u8) -> SocketAddr {
        (self.family.vip(number), SERVICE_PORT).into()
    }

    /// Where Service `number` is dialled from everywhere, if it has such an address.
    #[must_use]
    pub fn external(self, number: u8) -> SocketAddr {
        (self.family.external(number), SERVICE_PORT).into()
    }

    /// Where Service `number` is dialled from outside, at the node under test.
    #[must_use]
    pub fn node_port(self, number: u8) -> SocketAddr {
        (self.family.node(1), node_port(number)).into()
    }

    /// Where the node under test sends from by its uplink.
    #[must_use]
    pub fn snat(self, port: u16) -> SocketAddr {
        (self.family.node(1), port).into()
    }

    /// Where pod `number` of node `node` listens.
    #[must_use]
    pub fn backend(self, node: u8, number: u8) -> SocketAddr {
        (self.family.pod(node, number), BACKEND_PORT).into()
    }

    /// The first packet of a connection: a SYN, or a datagram.
    #[must_use]
    pub fn opening(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.transport.opening(src, dst)
    }

    /// A packet within a connection: an ACK, or a datagram.
    #[must_use]
    pub fn following(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.transport.following(src, dst)
    }

    /// The first answer: a SYN with an ACK, or a datagram.
    #[must_use]
    pub fn answer(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.transport.answer(src, dst)
    }
}

/// Runs `test` for every case, on a bench that knows of no Service and no connection.
pub fn each_case(test: impl Fn(&mut Bench, Case) + Sync) {
    on_bench(|bench| {
        for case in Case::all() {
            bench.clear();
            test(bench, case);
        }
    });
}

/// Runs `test` for every case, at XDP and at tcx of the uplink.
pub fn each_case_on_the_wire(test: impl Fn(&mut Bench, Case, Program) + Sync) {
    each_case(|bench, case| {
        for program in Program::WIRE {
            bench.clear();
            test(bench, case, program);
        }
    });
}
