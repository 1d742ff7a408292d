//! Who reaches whom, in every kind of lab.

use std::net::IpAddr;

use lb_tests::lab::{Cluster, Cni, Fabric, Place as _, Request, Site};
use lb_tests::tool::{Protocol, Reply};

use super::{PORT, cluster};

/// Asks a server in every way; `check` gets the server's address and every reply.
#[track_caller]
fn ask(client: &Site, server: [IpAddr; 2], check: impl Fn(IpAddr, Reply)) {
    for (address, protocol) in server
        .into_iter()
        .flat_map(|ip| Protocol::ALL.map(|p| (ip, p)))
    {
        let reply = client.request(protocol, (address, PORT).into());
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error:#}", client.name()));
        assert_eq!(reply.peer, (address, PORT).into());
        check(address, reply);
    }
}

/// The address of the same family.
fn alike(family: IpAddr, addresses: [IpAddr; 2]) -> IpAddr {
    addresses
        .into_iter()
        .find(|address| address.is_ipv4() == family.is_ipv4())
        .unwrap()
}

/// Everything that a lab of the given CNI and fabric is made for.
fn check_paths(cni: Cni, fabric: Fabric, host_tx_offload: bool) {
    let options = Cluster::builder().nodes(2).cni(cni).fabric(fabric);
    let cluster = options.host_tx_offload(host_tx_offload).build().unwrap();
    let pods = [("a", 0), ("b", 0), ("c", 1)].map(|(name, node)| cluster.pod(name, node).unwrap());
    let [a, b, c] = &pods;
    let (client, node1, node2) = (cluster.client(), cluster.node(0), cluster.node(1));
    let _servers = [
        a.serve(PORT),
        c.serve(PORT),
        node2.serve(PORT),
        client.serve(PORT),
    ]
    .map(|server| server.unwrap());

    // Pods see each other's own addresses, on one node and across.
    for (from, to) in [(b, a), (a, c), (c, a)] {
        ask(from.site(), to.addresses(), |server, reply| {
            assert_eq!(reply.server, to.name());
            assert_eq!(reply.seen_client.ip(), alike(server, from.addresses()));
            assert_eq!(reply.seen_server, (server, PORT).into());
        });
    }
    // The outside reaches nodes, and is seen as itself.
    ask(client.site(), node2.addresses(), |server, reply| {
        assert_eq!(reply.server, "node2");
        assert_eq!(reply.seen_client.ip(), alike(server, client.addresses()));
    });
    // Pods reach the outside and other nodes as their own node.
    for (name, to) in [("client", client.addresses()), ("node2", node2.addresses())] {
        ask(a.site(), to, |server, reply| {
            assert_eq!(reply.server, name);
            assert_eq!(reply.seen_client.ip(), alike(server, node1.addresses()));
        });
    }
    // Nodes reach pods, here and there.
    for to in [a, c] {
        ask(node1.site(), to.addresses(), |_, reply| {
            assert_eq!(reply.server, to.name())
        });
    }
}

#[test]
fn all_paths_work_with_bridge_and_direct_routes() {
    check_paths(Cni::Bridge, Fabric::Direct, true);
}

#[test]
fn all_paths_work_with_bridge_and_vxlan() {
    check_paths(Cni::Bridge, Fabric::Vxlan, true);
}

#[test]
fn all_paths_work_with_ptp_and_direct_routes() {
    check_paths(Cni::Ptp, Fabric::Direct, true);
}

#[test]
fn all_paths_work_with_ptp_and_vxlan() {
    check_paths(Cni::Ptp, Fabric::Vxlan, true);
}

#[test]
fn all_paths_work_without_tx_offload_of_the_pods_host_ends() {
    check_paths(Cni::Bridge, Fabric::Direct, false);
}

#[test]
fn large_requests_pass_in_both_fabrics() {
    for fabric in Fabric::ALL {
        let cluster = cluster(Cni::Bridge, fabric);
        let (a, b) = (cluster.pod("a", 0).unwrap(), cluster.pod("b", 1).unwrap());
        let _server = b.serve(PORT).unwrap();
        for (to, protocol) in b
            .addresses()
            .into_iter()
            .zip([Protocol::Tcp, Protocol::Udp])
        {
            let request = Request {
                size: 20_000,
                ..Request::new(protocol, (to, PORT).into())
            };
            a.start(&request).unwrap().next().unwrap().unwrap();
        }
    }
}

#[test]
fn two_labs_run_side_by_side() {
    let labs = [Cni::Bridge, Cni::Ptp].map(|cni| cluster(cni, Fabric::Direct));
    // Same names, same addresses, nothing in common.
    let pods = labs.each_ref().map(|lab| lab.pod("a", 0).unwrap());
    assert_eq!(pods[0].ipv4(), pods[1].ipv4());
    let _first = pods[0].serve_as("first", PORT).unwrap();
    let to = (pods[0].ipv4(), PORT).into();
    assert_eq!(
        labs[0].node(1).request(Protocol::Tcp, to).unwrap().server,
        "first"
    );
    let error = labs[1]
        .node(1)
        .request(Protocol::Tcp, to)
        .unwrap_err()
        .to_string();
    assert!(error.contains("refused"), "{error}");
    let _second = pods[1].serve_as("second", PORT).unwrap();
    assert_eq!(
        labs[1].node(1).request(Protocol::Tcp, to).unwrap().server,
        "second"
    );
}
