//! The columns of each kind.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::since;
use crate::apiserver::store::Kind;
use crate::apiserver::store::object::{is_terminating, items, labels, number, strings, text};

/// A column of a table.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Only for those who want more.
    pub(super) is_wide: bool,
    pub(super) cell: fn(&Value, Timestamp) -> Value,
}

const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        is_wide: false,
        cell,
    }
}

const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        is_wide: true,
        cell,
    }
}

const NAME: Column = column("Name", |object, _| json!(text(object, "/metadata/name")));
const AGE: Column = column("Age", |object, now| {
    since(object, "/metadata/creationTimestamp", now)
});

static SERVICES: [Column; 7] = [
    NAME,
    column("Type", |service, _| json!(text(service, "/spec/type"))),
    column("Cluster-IP", |service, _| {
        or_none(text(service, "/spec/clusterIP"))
    }),
    column("External-IP", |service, _| {
        json!(external_addresses(service))
    }),
    column("Port(s)", |service, _| json!(service_ports(service))),
    AGE,
    wide("Selector", |service, _| {
        json!(map(service.pointer("/spec/selector")))
    }),
];

static SLICES: [Column; 5] = [
    NAME,
    column("AddressType", |slice, _| json!(text(slice, "/addressType"))),
    column("Ports", |slice, _| json!(slice_ports(slice))),
    column("Endpoints", |slice, _| json!(endpoints(slice))),
    AGE,
];

static NODES: [Column; 10] = [
    NAME,
    column("Status", |node, _| json!(node_status(node))),
    column("Roles", |node, _| json!(roles(node))),
    AGE,
    column("Version", |node, _| {
        json!(text(node, "/status/nodeInfo/kubeletVersion"))
    }),
    wide("Internal-IP", |node, _| json!(address(node, "InternalIP"))),
    wide("External-IP", |node, _| json!(address(node, "ExternalIP"))),
    wide("OS-Image", |node, _| {
        json!(or_unknown(text(node, "/status/nodeInfo/osImage")))
    }),
    wide("Kernel-Version", |node, _| {
        json!(or_unknown(text(node, "/status/nodeInfo/kernelVersion")))
    }),
    wide("Container-Runtime", |node, _| {
        json!(or_unknown(text(
            node,
            "/status/nodeInfo/containerRuntimeVersion"
        )))
    }),
];

static PODS: [Column; 9] = [
    NAME,
    column("Ready", |pod, _| json!(ready_containers(pod))),
    column("Status", |pod, _| json!(pod_status(pod))),
    column("Restarts", |_, _| json!("0")),
    AGE,
    wide("IP", |pod, _| or_none(text(pod, "/status/podIP"))),
    wide("Node", |pod, _| or_none(text(pod, "/spec/nodeName"))),
    wide("Nominated Node", |_, _| json!("<none>")),
    wide("Readiness Gates", |_, _| json!("<none>")),
];

static DEPLOYMENTS: [Column; 6] = [
    NAME,
    column("Ready", |deployment, _| {
        let ready = number(deployment, "/status/readyReplicas");
        json!(format!("{ready}/{}", number(deployment, "/spec/replicas")))
    }),
    column("Up-to-date", |deployment, _| {
        json!(number(deployment, "/status/updatedReplicas"))
    }),
    column("Available", |deployment, _| {
        json!(number(deployment, "/status/availableReplicas"))
    }),
    AGE,
    wide("Selector", |deployment, _| {
        json!(map(deployment.pointer("/spec/selector/matchLabels")))
    }),
];

static NAMESPACES: [Column; 3] = [
    NAME,
    column("Status", |namespace, _| {
        json!(text(namespace, "/status/phase"))
    }),
    AGE,
];

static EVENTS: [Column; 5] = [
    column("Last Seen", |event, now| {
        let last = "/lastTimestamp";
        let is_old = !text(event, last).is_empty();
        since(event, if is_old { last } else { "/eventTime" }, now)
    }),
    column("Type", |event, _| json!(text(event, "/type"))),
    column("Reason", |event, _| json!(text(event, "/reason"))),
    column("Object", |event, _| {
        let kind = text(event, "/involvedObject/kind").to_lowercase();
        json!(format!("{kind}/{}", text(event, "/involvedObject/name")))
    }),
    column("Message", |event, _| json!(text(event, "/message").trim())),
];

static SERVICE_CIDRS: [Column; 3] = [
    NAME,
    column("CIDRs", |cidr, _| {
        json!(strings(cidr, "/spec/cidrs").join(","))
    }),
    AGE,
];

/// The columns of a kind.
pub(super) fn of(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Namespace => &NAMESPACES,
        Kind::Node => &NODES,
        Kind::Service => &SERVICES,
        Kind::EndpointSlice => &SLICES,
        Kind::Pod => &PODS,
        Kind::Event => &EVENTS,
        Kind::ServiceCidr => &SERVICE_CIDRS,
        Kind::Deployment => &DEPLOYMENTS,
    }
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
}

fn joined(mut words: Vec<String>, none: &str) -> String {
    words.retain(|word| !word.is_empty());
    if words.is_empty() {
        none.to_owned()
    } else {
        words.join(",")
    }
}

fn map(map: Option<&Value>) -> String {
    let fields = map.and_then(Value::as_object).into_iter().flatten();
    let pairs = fields.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    joined(pairs.collect(), "<none>")
}

fn external_addresses(service: &Value) -> String {
    let ips = strings(service, "/spec/externalIPs");
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, "/status/loadBalancer/ingress").iter();
            let ingress = ingress.map(|point| match text(point, "/ip") {
                "" => text(point, "/hostname").to_owned(),
                ip => ip.to_owned(),
            });
            joined(ingress.chain(ips).collect(), "<pending>")
        }
        _ => joined(ips, "<none>"),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = items(service, "/spec/ports").iter().map(|port| {
        let (number, protocol) = (self::number(port, "/port"), text(port, "/protocol"));
        match self::number(port, "/nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    joined(ports.collect(), "<none>")
}

/// As many as there is room for.
fn some(words: &[String]) -> String {
    const SHOWN: usize = 3;
    match words.len() {
        0 => "<unset>".to_owned(),
        ..=SHOWN => words.join(","),
        count => format!("{} + {} more...", words[..SHOWN].join(","), count - SHOWN),
    }
}

fn slice_ports(slice: &Value) -> String {
    let ports = items(slice, "/ports")
        .iter()
        .map(|port| match port["port"].as_u64() {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        });
    some(&ports.collect::<Vec<_>>())
}

fn endpoints(slice: &Value) -> String {
    let endpoints = items(slice, "/endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| strings(endpoint, "/addresses"));
    some(&addresses.collect::<Vec<_>>())
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = items(object, "/status/conditions").iter();
    let mut found = conditions.filter(|condition| text(condition, "/type") == kind);
    found
        .next()
        .map_or("", |condition| text(condition, "/status"))
}

fn node_status(node: &Value) -> String {
    let ready = match condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    };
    match node.pointer("/spec/unschedulable") {
        Some(Value::Bool(true)) => format!("{ready},SchedulingDisabled"),
        _ => ready.to_owned(),
    }
}

fn roles(node: &Value) -> String {
    let keys = labels(node).into_iter().flat_map(|labels| labels.keys());
    let roles = keys.filter_map(|key| key.strip_prefix("node-role.kubernetes.io/"));
    joined(roles.map(str::to_owned).collect(), "<none>")
}

fn address(node: &Value, kind: &str) -> String {
    let addresses = items(node, "/status/addresses").iter();
    let mut found = addresses.filter(|address| text(address, "/type") == kind);
    let address = found.next().map_or("", |address| text(address, "/address"));
    if address.is_empty() {
        "<none>".to_owned()
    } else {
        address.to_owned()
    }
}

fn ready_containers(pod: &Value) -> String {
    let all = items(pod, "/spec/containers").len();
    let ready = if condition(pod, "Ready") == "True" {
        all
    } else {
        0
    };
    format!("{ready}/{all}")
}

fn pod_status(pod: &Value) -> &str {
    if is_terminating(pod) {
        "Terminating"
    } else {
        text(pod, "/status/phase")
    }
}
