//! The lab, on itself: who reaches whom, and what is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::lab::{self, Cluster, Cni, Fabric, Netns, Place as _, Request, Site};
use lb_tests::tool::{Protocol, Reply};

const PORT: u16 = 8000;
const TIMEOUT: Duration = Duration::from_secs(2);

fn cluster(cni: Cni, fabric: Fabric) -> Cluster {
    Cluster::builder()
        .nodes(2)
        .cni(cni)
        .fabric(fabric)
        .build()
        .unwrap()
}

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

/// Whether a device computes checksums, as `ethtool` says it.
fn tx_offload(netns: &Netns, device: &str) -> String {
    let output = netns
        .command("ethtool")
        .args(["-k", device])
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("tx-checksumming: "))
        .unwrap();
    line.to_owned()
}

#[test]
fn tx_offload_is_off_where_it_was_asked_to_be() {
    for host_tx_offload in [true, false] {
        let options = Cluster::builder().nodes(1).host_tx_offload(host_tx_offload);
        let cluster = options.build().unwrap();
        let pod = cluster.pod("a", 0).unwrap();
        let node = cluster.node(0);
        let (switch, peer) = node.uplink_peer();
        assert_eq!(tx_offload(switch, peer), "off");
        assert_eq!(tx_offload(node.netns(), node.uplink()), "on");
        let expected = if host_tx_offload { "on" } else { "off" };
        assert_eq!(tx_offload(node.netns(), pod.host_veth()), expected);
    }
}

/// A kernel file that shows the network of whoever reads it.
fn network_file(netns: &Netns, path: &str) -> String {
    netns.run(|| fs::read_to_string(path)).unwrap().unwrap()
}

#[test]
fn pods_leave_room_for_the_tunnel_header() {
    for (cni, fabric) in Cni::ALL
        .into_iter()
        .flat_map(|cni| Fabric::ALL.map(|f| (cni, f)))
    {
        let cluster = cluster(cni, fabric);
        let pod = cluster.pod("a", 0).unwrap();
        let mtu = |netns: &Netns, device| {
            let output = netns
                .command("ip")
                .args(["-o", "link", "show", device])
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            let mut words = output.split(' ').skip_while(|word| *word != "mtu");
            words.nth(1).unwrap().parse::<u32>().unwrap()
        };
        let expected = if fabric == Fabric::Vxlan { 1450 } else { 1500 };
        assert_eq!(mtu(pod.netns(), "eth0"), expected);
        assert_eq!(mtu(cluster.node(0).netns(), pod.host_veth()), expected);
        assert_eq!(mtu(cluster.node(0).netns(), "eth0"), 1500);
    }
}

#[test]
fn nodes_filter_strictly_by_reverse_path() {
    let cluster = cluster(Cni::Ptp, Fabric::Vxlan);
    let pod = cluster.pod("a", 0).unwrap();
    for device in ["all", "eth0", "vxlan0", pod.host_veth()] {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
        assert_eq!(
            network_file(cluster.node(0).netns(), &path),
            "1\n",
            "{device}"
        );
    }
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

#[test]
fn a_held_connection_keeps_its_port_and_ends_with_its_server() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let (pod, client) = (cluster.pod("a", 0).unwrap(), cluster.client());
    let node = cluster.node(1);
    let server = node.serve(PORT).unwrap();
    for (protocol, from) in [(Protocol::Tcp, pod.site()), (Protocol::Udp, client.site())] {
        let request = Request {
            hold: true,
            count: 0,
            source_port: 4000,
            ..Request::new(protocol, (node.ipv6(), PORT).into())
        };
        let mut requests = from.start(&request).unwrap();
        let clients: BTreeSet<SocketAddr> = requests
            .by_ref()
            .take(20)
            .map(|reply| reply.unwrap().seen_client)
            .collect();
        assert_eq!(clients.len(), 1, "{clients:?}");
        assert!(requests.finish().into_iter().all(|reply| reply.is_ok()));
    }
    let request = Request {
        hold: true,
        count: 0,
        ..Request::new(Protocol::Tcp, (node.ipv4(), PORT).into())
    };
    let mut requests = pod.start(&request).unwrap();
    requests.next().unwrap().unwrap();
    drop(server);
    let last = requests.last().unwrap();
    last.unwrap_err();
}

#[test]
fn a_server_answers_from_the_address_that_was_asked() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let pod = cluster.pod("a", 0).unwrap();
    let node = cluster.node(0);
    let _servers = [node.serve(PORT).unwrap(), pod.serve(PORT).unwrap()];
    // Not the address that the route to the client would choose.
    let bridge = node.pod_networks().0.hosts().next().unwrap();
    cluster
        .router()
        .netns()
        .ip(&[format!("route add {bridge} via {}", node.ipv4())])
        .unwrap();
    for protocol in Protocol::ALL {
        let reply = cluster
            .client()
            .request(protocol, (bridge, PORT).into())
            .unwrap();
        assert_eq!(reply.peer, (bridge, PORT).into());
        assert_eq!(reply.seen_server, (bridge, PORT).into());
        for loopback in ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let reply = pod.request(protocol, (loopback, PORT).into()).unwrap();
            assert_eq!(reply.seen_client.ip(), loopback);
        }
    }
}

#[test]
fn a_client_without_a_count_goes_on_until_it_is_stopped() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let _server = node.serve(PORT).unwrap();
    let to = (node.ipv4(), PORT).into();
    let endless = Request {
        count: 0,
        ..Request::new(Protocol::Udp, to)
    };
    let requests = cluster.client().start(&endless).unwrap();
    // Long enough to fill a pipe, were it not read.
    let counted = Request {
        count: 1000,
        ..endless
    };
    assert_eq!(
        cluster
            .client()
            .start(&counted)
            .unwrap()
            .filter(Result::is_ok)
            .count(),
        1000
    );
    let replies = requests.finish();
    let numbers: Vec<_> = replies
        .into_iter()
        .map(|reply| reply.unwrap().number)
        .collect();
    let count = numbers.len() as u64;
    assert!(numbers.into_iter().eq(0..count), "a reply is missing");
}

#[test]
fn a_request_that_nobody_answers_fails_in_time() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    // Routed, but nobody has it.
    let nobody = SocketAddr::from(([203, 0, 113, 99], PORT));
    for protocol in Protocol::ALL {
        let timeout = Duration::from_millis(100);
        let request = Request {
            timeout,
            ..Request::new(protocol, nobody)
        };
        let start = Instant::now();
        let error = cluster
            .node(0)
            .start(&request)
            .unwrap()
            .next()
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains("within 100ms"), "{error:#}");
        assert!(start.elapsed() < TIMEOUT);
    }
}

#[test]
fn node_processes_are_in_the_nodes_cgroup_and_see_bpffs() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let script = format!(
        "cat /proc/self/cgroup && ls -d {}",
        node.pin_dir().display()
    );
    let output = node
        .command("sh")
        .unwrap()
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.contains(&format!("0::/{}/node1\n", cluster.name())),
        "{output}"
    );
    let pod = cluster.pod("a", 0).unwrap();
    assert!(pod.cgroup().starts_with(node.cgroup()));
}

#[test]
fn a_removed_pod_leaves_nothing_on_its_node() {
    for cni in Cni::ALL {
        let cluster = cluster(cni, Fabric::Direct);
        let pod = cluster.pod("a", 0).unwrap();
        let (veth, cgroup) = (pod.host_veth().to_owned(), pod.cgroup().to_owned());
        let devices = || network_file(cluster.node(0).netns(), "/proc/thread-self/net/dev");
        assert!(devices().contains(&veth));
        pod.remove().unwrap();
        assert!(!devices().contains(&veth));
        assert!(!cgroup.exists());
        // Its name is free again.
        cluster.pod("a", 0).unwrap();
    }
}

/// The inode of a namespace: its identity.
fn inode(netns: &Netns) -> u64 {
    netns
        .run(|| fs::metadata("/proc/thread-self/ns/net").unwrap().ino())
        .unwrap()
}

/// The network namespaces that have a process in them.
fn used_namespaces() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let namespaces =
        processes.filter_map(|process| fs::metadata(process.path().join("ns/net")).ok());
    namespaces.map(|namespace| namespace.ino()).collect()
}

/// What on this machine carries the lab's name.
fn traces(lab: &str, cgroup_root: &Path) -> Vec<String> {
    let directories = [
        Path::new("/run/netns"),
        Path::new("/sys/fs/bpf"),
        Path::new("/run/lb-lab"),
    ];
    let entries = directories
        .into_iter()
        .chain([cgroup_root])
        .flat_map(|directory| {
            fs::read_dir(directory)
                .unwrap()
                .flatten()
                .map(|entry| entry.path().display().to_string())
        });
    let is_of_lab = |path: &String| {
        path.split('/').any(|name| {
            name.strip_prefix(lab)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).map(str::to_owned));
    entries.chain(mounts).filter(is_of_lab).collect()
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (mut lab, mut root, mut inodes) = (String::new(), Path::new("/").to_owned(), Vec::new());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let cluster = cluster(Cni::Bridge, Fabric::Vxlan);
        let pod = cluster.pod("a", 0).unwrap();
        let _server = pod.serve(PORT).unwrap();
        // A process that nobody waits for.
        let mut shell = cluster.node(0).command("sh").unwrap();
        shell.args(["-c", "sleep 1000 &"]).status().unwrap();
        fs::create_dir(cluster.node(0).pin_dir().join("maps")).unwrap();
        lab = cluster.name().to_owned();
        root = cluster
            .node(0)
            .cgroup()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned();
        inodes = [
            pod.netns(),
            cluster.node(0).netns(),
            cluster.client().netns(),
        ]
        .map(inode)
        .to_vec();
        assert!(traces(&lab, &root).len() >= 11);
        panic!("on purpose");
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert_eq!(traces(&lab, &root), Vec::<String>::new());
    let used = used_namespaces();
    assert!(
        inodes.iter().all(|inode| !used.contains(inode)),
        "a process lives on"
    );
}

/// Removes a kept lab, whatever becomes of the test.
struct Remove(String);

impl Drop for Remove {
    fn drop(&mut self) {
        lab::remove_lab(&self.0).unwrap();
    }
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let _server = node.serve(PORT).unwrap();
    let error = format!("{:#}", node.serve(PORT).unwrap_err());
    assert!(error.contains("serve port 8000 in node1"), "{error}");
    assert!(error.contains("Address already in use"), "{error}");
}

#[test]
fn a_kept_lab_goes_on_until_it_is_removed() {
    let (remove, root, pod_address, path) = {
        let cluster = cluster(Cni::Bridge, Fabric::Direct);
        let pod = cluster.pod("a", 0).unwrap();
        let _server = pod.serve(PORT).unwrap();
        let text = cluster.keep().unwrap();
        let remove = Remove(cluster.name().to_owned());
        let path = cluster.node(1).netns().path();
        assert!(
            text.contains(&format!("nsenter --net={}\n", path.display())),
            "{text}"
        );
        let root = cluster
            .node(0)
            .cgroup()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned();
        (remove, root, pod.ipv4(), path)
    };
    let mut nsenter = Command::new("nsenter");
    nsenter
        .arg(format!("--net={}", path.display()))
        .arg(env!("CARGO_BIN_EXE_lab-tool"));
    let request = Request::new(Protocol::Tcp, (pod_address, PORT).into());
    let output = nsenter.args(request.arguments()).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains(r#""server":"a""#), "{output}");
    lab::remove_kept().unwrap();
    assert!(!traces(&remove.0, &root).is_empty(), "its process is alive");
    let name = remove.0.clone();
    drop(remove);
    assert_eq!(traces(&name, &root), Vec::<String>::new());
    lab::remove_lab("lb").unwrap_err();
}

#[test]
fn what_a_dead_process_left_is_removed() {
    // The process is dead once it has been waited for.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let lab = format!("lb-{}-0", child.id());
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let root = cluster
        .node(0)
        .cgroup()
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    // Forgotten, as a killed process would leave it.
    std::mem::forget(Netns::create(&format!("{lab}-node1")).unwrap());
    fs::create_dir_all(root.join(&lab).join("node1/pods/a")).unwrap();
    fs::create_dir_all(format!("/run/lb-lab/{lab}/node1")).unwrap();
    fs::create_dir_all(format!("/sys/fs/bpf/{lab}-node1/maps")).unwrap();
    fs::write(format!("/run/lb-lab/{lab}/keep"), "").unwrap();
    lab::remove_dead().unwrap();
    assert_eq!(traces(&lab, &root).len(), 5, "a kept lab stays");
    fs::remove_file(format!("/run/lb-lab/{lab}/keep")).unwrap();
    lab::remove_dead().unwrap();
    assert_eq!(traces(&lab, &root), Vec::<String>::new());
    assert!(
        !traces(cluster.name(), &root).is_empty(),
        "a living lab stays"
    );
}
