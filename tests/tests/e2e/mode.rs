//! Whether labs are as unkind as they shall be: the whole suite runs in more than one mode.

use std::env;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;

use etherparse::TcpHeader;
use lb_tests::lab::{Cluster, MODE_VARIABLE, Place as _};
use lb_tests::tool::Protocol;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use serde_json::Value;

/// What a program prints in the first node; nothing if it fails.
fn output(cluster: &Cluster, program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = cluster.node(0).command(program).expect("a cgroup");
    let output = command.args(arguments).output().expect("a program");
    let text = || String::from_utf8(output.stdout).expect("text");
    output.status.success().then(text)
}

/// How many invalid packets the first node has dropped; nothing if it has no rules against them.
fn dropped(cluster: &Cluster) -> Option<u64> {
    let list = ["-j", "list", "table", "inet", "invalid"];
    let rules: Value = serde_json::from_str(&output(cluster, "nft", &list)?).expect("JSON");
    let rules = rules["nftables"].as_array().expect("rules").iter();
    let parts = rules.flat_map(|rule| rule["rule"]["expr"].as_array().into_iter().flatten());
    let counters: Vec<u64> = parts
        .filter_map(|part| part["counter"]["packets"].as_u64())
        .collect();
    assert_eq!(counters.len(), 3, "forward, input and output");
    Some(counters.iter().sum())
}

/// Whether a device of the first node computes no checksums.
fn is_tx_off(cluster: &Cluster, device: &str) -> bool {
    let features = output(cluster, "ethtool", &["-k", device]).expect("features");
    features.contains("tx-checksumming: off")
}

/// Sends the second packet of a connection whose first one nobody has sent.
fn answer_unasked(cluster: &Cluster) {
    let node = SocketAddrV4::new(cluster.node(0).ipv4(), 8000);
    let mut header = TcpHeader::new(4000, node.port(), 1, 1000);
    (header.syn, header.ack) = (true, true);
    let from = cluster.client().ipv4().octets();
    let checksum = header.calc_checksum_ipv4_raw(from, node.ip().octets(), &[]);
    header.checksum = checksum.expect("a short packet");
    let send = || {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
        let socket = socket(AddressFamily::Inet, SockType::Raw, flags, protocol)?;
        let to = SockaddrIn::from(node);
        sendto(
            socket.as_raw_fd(),
            &header.to_bytes(),
            &to,
            MsgFlags::empty(),
        )
    };
    let sent = cluster.client().netns().run(send).expect("a namespace");
    sent.expect("a packet");
}

#[test]
fn labs_are_as_unkind_as_the_environment_says() {
    let words = env::var(MODE_VARIABLE).unwrap_or_default();
    let cluster = Cluster::builder().nodes(1).build().expect("a lab");
    let pod = cluster.pod("pod", 0).expect("a pod");
    assert_eq!(
        is_tx_off(&cluster, pod.host_veth()),
        words.contains("tx-off")
    );
    assert_eq!(dropped(&cluster).is_some(), words.contains("drop-invalid"));
}

#[test]
fn an_unkind_lab_leaves_checksums_to_nobody_and_drops_what_is_invalid() {
    let options = Cluster::builder().nodes(1).host_tx_offload(false);
    let cluster = options.drop_invalid().build().expect("a lab");
    let pod = cluster.pod("pod", 0).expect("a pod");
    assert!(is_tx_off(&cluster, pod.host_veth()));
    let _server = cluster.node(0).serve(8000).expect("a server");
    let ask = || {
        let to = cluster.node(0).addresses().map(|ip| (ip, 8000).into());
        for (to, protocol) in to.into_iter().zip(Protocol::ALL) {
            cluster.client().request(protocol, to).expect("an answer");
        }
    };
    ask();
    assert_eq!(dropped(&cluster), Some(0));
    answer_unasked(&cluster);
    // What comes after it is answered after it was dropped.
    ask();
    assert_eq!(dropped(&cluster), Some(1));
}
