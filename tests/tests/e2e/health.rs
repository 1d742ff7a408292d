//! What a node says of itself: to load balancers, to the kubelet, and to Prometheus.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use aya::maps::{Array, Map, MapData};
use lb_agent::dataplane::bpf::{pinned_entries, pinned_frontends};
use lb_common::FrontendKey;
use lb_common::maps::{FLOWS, FRONTEND_INDEX, FRONTENDS, LAYOUT_VERSION, OPENING};
use lb_tests::lab::{Agent, Cluster, Node, Place as _, Pod};

use crate::http::{Answer, ask, get};

const CHECK_PORT: u16 = 32_123;
const OTHER_CHECK_PORT: u16 = 32_124;
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// One node with an agent, and a pod so that there are devices of pods.
struct Stage {
    // Fields drop in this order.
    agent: Agent,
    _pod: Pod,
    cluster: Cluster,
}

impl Stage {
    fn new(manifest: &str, flags: &[&str]) -> Self {
        let cluster = Cluster::builder().nodes(1).build().expect("a lab");
        let pod = cluster.pod("alpaca-1", 0).expect("a pod");
        write(&cluster, manifest);
        let agent = start_agent(&cluster, flags);
        Self {
            agent,
            _pod: pod,
            cluster,
        }
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn write(&self, manifest: &str) {
        write(&self.cluster, manifest);
    }

    /// The answer to the client outside, at a port of the node's address of a family.
    fn answer_outside(&self, port: u16, is_v6: bool, path: &str) -> anyhow::Result<Answer> {
        let addr = self.node().addresses()[usize::from(is_v6)];
        get(self.cluster.client(), SocketAddr::new(addr, port), path)
    }

    /// Waits until a path of the health port answers with this code; returns the body.
    #[track_caller]
    fn health(&mut self, path: &str, status: u16) -> String {
        let to = SocketAddr::new(self.node().addresses()[0], HEALTHZ_PORT);
        let client = self.cluster.client();
        let body = RefCell::new(String::new());
        let what = format!("{path} answers {status}");
        let waited = self.agent.wait_for(&what, |_| {
            get(client, to, path).is_ok_and(|answer| {
                body.replace(answer.body);
                answer.status == status
            })
        });
        waited.expect("an answer");
        body.into_inner()
    }

    /// Waits until a probe of a Service is told that there are so many endpoints.
    #[track_caller]
    fn counted(&mut self, port: u16, is_v6: bool, endpoints: usize) -> Answer {
        let what = format!("{endpoints} endpoints at port {port} (IPv6: {is_v6})");
        let to = SocketAddr::new(self.node().addresses()[usize::from(is_v6)], port);
        let client = self.cluster.client();
        let wanted = format!("\"localEndpoints\": {endpoints},");
        let waited = self.agent.wait_for(&what, |_| {
            get(client, to, "/").is_ok_and(|answer| answer.body.contains(&wanted))
        });
        waited.expect("an answer");
        self.answer_outside(port, is_v6, "/").expect("an answer")
    }
}

fn start_agent(cluster: &Cluster, flags: &[&str]) -> Agent {
    let manifests = cluster.dir().join("manifests.yaml");
    let manifests = manifests.to_str().expect("a path in UTF-8");
    let flags = [&["--manifests", manifests], flags].concat();
    Agent::start(cluster.node(0), &flags).expect("an agent")
}

/// Writes the manifests; whole, or not at all.
fn write(cluster: &Cluster, manifest: &str) {
    let path = cluster.dir().join("manifests.yaml");
    let new = path.with_extension("new");
    fs::write(&new, manifest).expect("a manifest");
    fs::rename(&new, &path).expect("a manifest in its place");
}

/// A Service of a load balancer that checks this node's health at `check_port`.
fn etl(check_port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: etl, namespace: default}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: {check_port}
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, 'fd00:10:96::20']
  ports:
  - {{name: a, protocol: TCP, port: 80}}
  - {{name: b, protocol: UDP, port: 81}}
"
    )
}

/// A slice of that Service: addresses, each with its node, and whether it is ready and terminates.
fn slice(name: &str, endpoints: &[(&str, &str, bool, bool)]) -> String {
    let family = if endpoints.iter().any(|(addr, ..)| addr.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    let mut text = format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: etl}}}}
addressType: {family}
ports: [{{name: a, protocol: TCP, port: 8080}}, {{name: b, protocol: UDP, port: 8081}}]
endpoints:
"
    );
    for (addr, node, ready, terminating) in endpoints {
        text += &format!(
            "- {{addresses: ['{addr}'], nodeName: {node}, \
             conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}}}\n"
        );
    }
    text
}

#[test]
fn s51_s52_s53_a_load_balancer_is_told_of_the_ready_endpoints_of_this_node() {
    let two = slice(
        "one",
        &[
            ("10.200.0.1", "node1", true, false),
            ("10.200.0.2", "node1", true, false),
            ("10.200.0.3", "node1", false, true),
            ("10.200.0.4", "node2", true, false),
        ],
    );
    let six = slice("two", &[("fd00:200::1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(CHECK_PORT), two, six].concat(), &[]);
    let answer = stage.counted(CHECK_PORT, false, 2);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"etl\"\n\t},\n\
         \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
    );
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(answer.head.iter().any(|line| line == header), "{answer:?}");
    }
    assert_eq!(stage.counted(CHECK_PORT, true, 1).status, 200);
    let to = SocketAddr::new(stage.node().addresses()[0], CHECK_PORT);
    let posted = ask(stage.cluster.client(), to, "POST", "/any/path");
    assert_eq!(posted.expect("an answer").status, 200);
}

#[test]
fn s51_health_checks_are_answered_at_the_addresses_of_node_ports_only() {
    let ready = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let flags = ["--nodeport-addresses", "192.168.77.0/24,fd00:77::/64"];
    let mut stage = Stage::new(&[etl(CHECK_PORT), ready].concat(), &flags);
    assert_eq!(stage.counted(CHECK_PORT, false, 1).status, 200);
    for addr in stage.node().pod_gateway() {
        let to = SocketAddr::new(addr, CHECK_PORT);
        assert!(get(stage.node(), to, "/").is_err(), "{to}");
    }
}

#[test]
fn s51_s52_the_answer_follows_the_endpoints_and_the_service() {
    let ready = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(CHECK_PORT), ready.clone()].concat(), &[]);
    assert_eq!(stage.counted(CHECK_PORT, false, 1).status, 200);

    let ending = slice("one", &[("10.200.0.1", "node1", false, true)]);
    stage.write(&[etl(CHECK_PORT), ending].concat());
    assert_eq!(stage.counted(CHECK_PORT, false, 0).status, 503);

    stage.write(&[etl(OTHER_CHECK_PORT), ready.clone()].concat());
    assert_eq!(stage.counted(OTHER_CHECK_PORT, false, 1).status, 200);
    assert!(
        stage.answer_outside(CHECK_PORT, false, "/").is_err(),
        "moved"
    );

    let cluster_policy = etl(OTHER_CHECK_PORT).replace("Policy: Local", "Policy: Cluster");
    stage.write(&[cluster_policy, ready].concat());
    let to = SocketAddr::new(stage.node().addresses()[0], OTHER_CHECK_PORT);
    let client = stage.cluster.client();
    let closed = |_: &_| get(client, to, "/").is_err();
    let waited = stage.agent.wait_for("the port is closed", closed);
    waited.expect("maps in step");
}

#[test]
fn s54_a_port_that_is_taken_is_said_and_answered_once_it_is_free() {
    let cluster = Cluster::builder().nodes(1).build().expect("a lab");
    let taken = listen(cluster.node(0), CHECK_PORT);
    let ready = slice("one", &[("10.200.0.1", "node1", true, false)]);
    write(&cluster, &[etl(CHECK_PORT), ready].concat());
    let mut agent = start_agent(&cluster, &[]);
    let log = agent.log().to_owned();
    let said = |_: &_| contains(&log, "FailedToStartServiceHealthcheck");
    agent.wait_for("it is said", said).expect("a log");
    drop(taken);
    let to = SocketAddr::new(cluster.node(0).addresses()[0], CHECK_PORT);
    let answered = |_: &_| get(cluster.client(), to, "/").is_ok_and(|answer| answer.status == 200);
    agent
        .wait_for("it is answered", answered)
        .expect("an answer");
}

fn node(taints: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Node
metadata: {{name: node1}}
spec: {{taints: [{taints}]}}
"
    )
}

#[test]
fn s55_healthz_says_no_on_a_node_that_is_about_to_go_and_livez_does_not() {
    let mut stage = Stage::new(&[etl(0), node("")].concat(), &[]);
    let body = stage.health("/healthz", 200);
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["nodeEligible"], true);
    assert_eq!(body["healthy"], true);
    assert_eq!(body["lastUpdated"], body["currentTime"]);

    let taint = "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}";
    stage.write(&[etl(0), node(taint)].concat());
    assert!(
        stage
            .health("/healthz", 503)
            .contains("\"nodeEligible\":false")
    );
    let live: serde_json::Value = serde_json::from_str(&stage.health("/livez", 200)).expect("JSON");
    assert_eq!(live.get("nodeEligible"), None);
    for family in ["IPv4", "IPv6"] {
        assert_eq!(live["status"][family]["healthy"], true);
    }
    let over_v6 = stage.answer_outside(HEALTHZ_PORT, true, "/livez");
    assert_eq!(over_v6.expect("an answer").status, 200);
    let nothing = stage.answer_outside(HEALTHZ_PORT, false, "/metrics");
    assert_eq!(nothing.expect("an answer").status, 404);

    stage.write(&etl(0));
    assert!(
        stage
            .health("/healthz", 200)
            .contains("\"nodeEligible\":true")
    );
}

#[test]
fn readyz_sends_a_packet_through_the_programs_and_leaves_nothing_behind() {
    let endpoints = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let six = slice("two", &[("fd00:200::1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(0), endpoints, six].concat(), &[]);
    let body = stage.health("/readyz", 200);
    let passed = |name| format!(r#"{{"name":"{name}","ok":true}}"#);
    for check in ["sync", "links", "canary"].map(passed) {
        assert!(body.contains(&check), "{body}");
    }
    for map in [FLOWS, OPENING] {
        let flows = pinned_entries(stage.agent.pin_dir(), map).expect("a map");
        assert_eq!(flows, 0, "{map}");
    }
}

/// Names of the pinned links that end so.
fn links(pin_dir: &Path, ending: &str) -> Vec<String> {
    let found = Command::new("find").arg(pin_dir).output().expect("find");
    let found = String::from_utf8(found.stdout).expect("paths in UTF-8");
    let paths = found.lines().filter(|path| path.ends_with(ending));
    paths.map(str::to_owned).collect()
}

#[test]
fn readyz_says_no_when_a_link_is_taken_away_until_the_agent_has_made_it_anew() {
    let endpoints = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(0), endpoints].concat(), &[]);
    stage.health("/readyz", 200);
    let pins = stage.agent.pin_dir().to_owned();
    type Way<'a> = &'a dyn Fn(&str);
    let detach = |pin: &str| {
        let mut bpftool = Command::new("bpftool");
        let status = bpftool.args(["link", "detach", "pinned", pin]).status();
        assert!(status.expect("bpftool").success(), "detach {pin}");
    };
    let remove = |pin: &str| fs::remove_file(pin).expect("a pin");
    let ways: [(&str, Way<'_>); 4] = [
        ("-pod-ingress", &detach),
        ("-xdp-native", &detach),
        ("-wire-egress", &remove),
        ("/socket-connect4-1", &remove),
    ];
    for (ending, take_away) in ways {
        let found = links(&pins, ending);
        let pin = found.first().unwrap_or_else(|| panic!("no {ending}"));
        let name = pin.rsplit('/').next().unwrap_or_default().to_owned();
        let name = name.trim_end_matches("-1").to_owned();
        take_away(pin);
        let to = SocketAddr::new(stage.node().addresses()[0], HEALTHZ_PORT);
        let client = stage.cluster.client();
        let blamed = |_: &_| {
            get(client, to, "/readyz")
                .is_ok_and(|answer| answer.status == 503 && answer.body.contains(&name))
        };
        let waited = stage.agent.wait_for(&format!("{name} is missed"), blamed);
        waited.expect("an answer");
        stage.health("/readyz", 200);
    }
}

#[test]
fn readyz_says_no_when_the_maps_do_not_translate_until_the_agent_has_written_them_anew() {
    let endpoints = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(0), endpoints].concat(), &[]);
    stage.health("/readyz", 200);
    for loses_frontends in [false, true] {
        let pins = stage.agent.pin_dir();
        empty_index(pins);
        if loses_frontends {
            for key in pinned_frontends(pins).expect("a map").keys() {
                remove_frontend(pins, key);
            }
        }
        let body = stage.health("/readyz", 503);
        assert!(body.contains("10.96.0.20:80/TCP got the verdict"), "{body}");
        stage.health("/readyz", 200);
        let frontends = pinned_frontends(stage.agent.pin_dir()).expect("a map");
        assert!(!frontends.is_empty());
    }
}

#[test]
fn s56_metrics_and_the_mode_are_told_on_the_node_itself() {
    let endpoints = slice("one", &[("10.200.0.1", "node1", true, false)]);
    let mut stage = Stage::new(&[etl(0), endpoints].concat(), &[]);
    stage.health("/readyz", 200);
    stage.health("/healthz", 200);
    let here = SocketAddr::from(([127, 0, 0, 1], METRICS_PORT));
    let told = |path| get(stage.node(), here, path).expect("an answer");
    let mode = told("/proxyMode");
    assert_eq!((mode.status, mode.body.as_str()), (200, "ebpf"));
    assert_eq!(told("/healthz").body, "ok");
    let metrics = told("/metrics").body;
    for line in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_service_changes_total 1\n",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0\n",
        "lb_map_entries{map=\"BACKENDS\"} 2",
        "lb_map_capacity{map=\"FLOWS\"} 524288",
        "lb_map_capacity{map=\"OPENING\"} 131072",
        "lb_sweep_duration_seconds_count 1",
        "lb_packets_total{hook=\"pod_ingress\",outcome=\"to_stack\"}",
        "lb_services 1\n",
        "process_open_fds ",
        "# EOF\n",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
    assert!(!metrics.contains("kubeproxy_proxy_healthz_total{code=\"200\"} 0\n"));
    assert!(
        stage
            .answer_outside(METRICS_PORT, false, "/metrics")
            .is_err()
    );
}

#[test]
fn s56_metrics_can_be_ours_alone_and_probes_nowhere() {
    let flags = [
        "--kube-proxy-metrics-compat=false",
        "--healthz-bind-address=",
        "--metrics-bind-address=[::]:9000",
    ];
    let mut stage = Stage::new(&etl(0), &flags);
    let to = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 9000);
    let client = stage.cluster.node(0);
    let served = |_: &_| {
        get(client, to, "/metrics").is_ok_and(|answer| answer.body.contains("lb_services 1\n"))
    };
    let waited = stage.agent.wait_for("metrics", served);
    waited.expect("an answer");
    let metrics = get(stage.node(), to, "/metrics").expect("an answer").body;
    assert!(!metrics.contains("kubeproxy_"), "{metrics}");
    assert!(stage.answer_outside(HEALTHZ_PORT, false, "/livez").is_err());
}

#[test]
fn agents_whose_ports_are_taken_serve_and_answer_once_they_are_free() {
    let cluster = Cluster::builder().nodes(1).build().expect("a lab");
    write(&cluster, &etl(0));
    let taken = listen(cluster.node(0), HEALTHZ_PORT);
    let mut agent = start_agent(&cluster, &[]);
    let served = agent.wait_for("etl is served", |frontends| !frontends.is_empty());
    served.expect("maps in step");
    assert!(
        contains(agent.log(), "sport = :10256"),
        "{}",
        agent.log_end()
    );
    drop(taken);
    let to = SocketAddr::new(cluster.node(0).addresses()[0], HEALTHZ_PORT);
    let answered =
        |_: &_| get(cluster.client(), to, "/livez").is_ok_and(|answer| answer.status == 200);
    agent
        .wait_for("it is answered", answered)
        .expect("an answer");

    let mut strict = start_agent(&cluster, &["--bind-address-hard-fail"]);
    let ended = strict.wait_for("it ends", |_| false);
    let ended = ended.expect_err("the port is taken").to_string();
    assert!(ended.starts_with("lb-agent ended"), "{ended}");
    assert!(contains(strict.log(), "listen to 0.0.0.0:10256"), "{ended}");
}

/// Takes all out of the index in which programs look for frontends, behind the agent's back.
fn empty_index(pins: &Path) {
    let path = pins.join(format!("v{LAYOUT_VERSION}/maps/{FRONTEND_INDEX}"));
    let map = Map::Array(MapData::from_pin(path).expect("a pin"));
    let mut index: Array<MapData, [u64; 8]> = map.try_into().expect("an array");
    for bucket in 0..index.len() {
        index.set(bucket, [0; 8], 0).expect("an empty bucket");
    }
}

/// Takes an element out of `FRONTENDS` behind the agent's back.
fn remove_frontend(pins: &Path, key: &FrontendKey) {
    let map = pins.join(format!("v{LAYOUT_VERSION}/maps/{FRONTENDS}"));
    let bytes = bytemuck::bytes_of(key)
        .iter()
        .map(|byte| format!("{byte:#04x}"));
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["map", "delete", "pinned"]).arg(map);
    let status = bpftool.arg("key").args(bytes).status();
    assert!(status.expect("bpftool").success(), "remove {key:?}");
}

/// Takes a port of a node, over IPv4.
fn listen(node: &Node, port: u16) -> TcpListener {
    let listener = node.netns().run(|| TcpListener::bind(("0.0.0.0", port)));
    listener.expect("a namespace").expect("a free port")
}

fn contains(log: &Path, text: &str) -> bool {
    fs::read_to_string(log).is_ok_and(|log| log.contains(text))
}
