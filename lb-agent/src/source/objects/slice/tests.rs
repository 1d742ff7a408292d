use super::*;
use crate::source::objects::tests::{convert, convert_good};

const HEAD: &str = "metadata: {name: s-1, namespace: ns, labels: {kubernetes.io/service-name: s}}";

/// Converts the one endpoint, in flow style, of an IPv4 slice in which nothing is wrong.
#[track_caller]
fn endpoint(endpoint: &str) -> model::Endpoint {
    let yaml = format!("{{{HEAD}, addressType: IPv4, endpoints: [{endpoint}]}}");
    let slice = convert_good::<EndpointSlice>(&yaml).slice;
    assert_eq!(slice.endpoints.len(), 1);
    slice.endpoints[0].clone()
}

/// Converts a slice with these fields, in flow style; exactly `expected` is rejected.
#[track_caller]
fn rejected(rest: &str, expected: &[&str]) -> Option<OwnedSlice> {
    let (slice, rejections) = convert::<EndpointSlice>(&format!("{{{HEAD}, {rest}}}"));
    let expected: Vec<_> = expected
        .iter()
        .map(|text| format!("EndpointSlice ns/s-1: {text}"))
        .collect();
    assert_eq!(rejections, expected, "{rest}");
    slice
}

#[track_caller]
fn check_conditions(conditions: &str, expected: (bool, bool, bool)) {
    let endpoint = endpoint(&format!("{{addresses: [10.0.0.1]{conditions}}}"));
    let seen = (endpoint.ready, endpoint.serving, endpoint.terminating);
    assert_eq!(seen, expected, "{conditions}");
}

#[test]
fn s10_missing_conditions_have_defaults() {
    check_conditions("", (true, true, false));
    check_conditions(", conditions: null", (true, true, false));
    check_conditions(", conditions: {}", (true, true, false));
    check_conditions(", conditions: {ready: false}", (false, true, false));
    check_conditions(", conditions: {serving: false}", (true, false, false));
    let terminating = ", conditions: {ready: false, serving: true, terminating: true}";
    check_conditions(terminating, (false, true, true));
}

#[test]
fn s8_only_the_first_address_is_used() {
    let endpoint = endpoint("{addresses: [10.0.0.1, 10.0.0.2], nodeName: node1}");
    assert_eq!(endpoint.addr.to_string(), "10.0.0.1");
    assert_eq!(endpoint.node.as_deref(), Some("node1"));
}

#[test]
fn hints_are_read() {
    let endpoint = endpoint(
        "{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: node1}]}}",
    );
    let set = |names: &[&str]| names.iter().copied().collect();
    assert_eq!(endpoint.for_zones, set(&["a", "b"]));
    assert_eq!(endpoint.for_nodes, set(&["node1"]));
}

#[test]
fn s5_s6_slices_without_service_and_of_names_are_ignored() {
    for yaml in [
        "{metadata: {name: s}, addressType: IPv4}",
        "{metadata: {name: s, labels: {kubernetes.io/service-name: ''}}, addressType: IPv4}",
        "{metadata: {name: s, labels: {kubernetes.io/service-name: s}}, addressType: FQDN, endpoints: [{addresses: [x.example]}]}",
    ] {
        assert_eq!(convert::<EndpointSlice>(yaml), (None, Vec::new()), "{yaml}");
    }
}

#[test]
fn s7_ports_without_name_or_number_are_ignored() {
    let yaml = format!(
        "{{{HEAD}, addressType: IPv6, ports: [{{port: 1}}, {{name: a}}, {{name: b, port: 0}}, {{name: '', port: 2}}, {{name: c, port: 3, protocol: UDP}}]}}"
    );
    let owned = convert_good::<EndpointSlice>(&yaml);
    assert_eq!(owned.service.to_string(), "ns/s");
    let ports = owned.slice.ports.iter();
    let ports: Vec<_> = ports
        .map(|p| (p.name.as_str(), p.protocol, p.port))
        .collect();
    let (tcp, udp) = (lb_common::protocol::TCP, lb_common::protocol::UDP);
    assert_eq!(ports, [("", tcp, 2), ("c", udp, 3)]);
}

#[test]
fn a_bad_endpoint_costs_itself_only() {
    let slice = rejected(
        "addressType: IPv4, endpoints: [{addresses: [x]}, {addresses: []}, {addresses: ['fd00::1']},
          {addresses: [169.254.169.254]}, {addresses: [10.0.0.1], conditions: {ready: maybe}},
          {addresses: [010.0.0.2]}]",
        &[
            "endpoints[0].addresses[0]: `x` is not an IP address",
            "endpoints[1].addresses[0]: is missing",
            "endpoints[2].addresses[0]: `fd00::1` is not of the slice's addressType",
            "endpoints[3].addresses[0]: `169.254.169.254` may not be an endpoint: it is \
             unspecified, loopback, link-local or multicast",
            "endpoints[4].conditions.ready: invalid type: string \"maybe\", expected a boolean",
        ],
    );
    let endpoints = &slice.unwrap().slice.endpoints;
    let addrs: Vec<_> = endpoints.iter().map(|e| e.addr.to_string()).collect();
    assert_eq!(addrs, ["10.0.0.2"]);
}

#[test]
fn a_slice_needs_a_family() {
    assert_eq!(
        rejected("x: 1", &["addressType: is missing: use IPv4 or IPv6"]),
        None
    );
    assert_eq!(
        rejected(
            "addressType: IPX",
            &["addressType: `IPX`: use IPv4 or IPv6"]
        ),
        None
    );
}

#[test]
fn unnamed_ports_of_manifests_get_the_empty_name() {
    let mut slice: EndpointSlice =
        serde_json::from_str(r#"{"ports": [{"port": 1}, 7, {"name": "a", "port": 2}]}"#).unwrap();
    slice.set_defaults();
    let names: Vec<_> = slice
        .ports
        .valid()
        .unwrap()
        .iter()
        .map(|port| port.valid().and_then(|port| port.name.valid()).cloned())
        .collect();
    assert_eq!(names, [Some(String::new()), None, Some("a".to_owned())]);
}

#[test]
fn s69_a_slice_says_when_it_was_changed() {
    let triggered = |annotations: &str| {
        let yaml = format!(
            "{{metadata: {{name: s-1, labels: {{kubernetes.io/service-name: s}}, \
             annotations: {annotations}}}, addressType: IPv4}}"
        );
        let triggered = convert_good::<EndpointSlice>(&yaml).slice.triggered;
        triggered.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap())
    };
    for (value, expected) in [
        ("2026-11-22T08:08:33Z", Some(1_795_334_913_000)),
        ("2026-11-22T09:08:33.25+01:00", Some(1_795_334_913_250)),
        ("yesterday", None),
        ("''", None),
    ] {
        let found = triggered(&format!("{{{TRIGGERED}: {value}}}"));
        assert_eq!(found.map(|d| d.as_millis()), expected, "{value}");
    }
    assert_eq!(triggered("{}"), None);
    assert_eq!(triggered(&format!("{{{TRIGGERED}: 7}}")), None);
}

#[test]
fn s12_the_time_of_a_change_is_no_change() {
    let slice = |time: Option<SystemTime>| Slice {
        triggered: time,
        ..Slice::default()
    };
    assert_eq!(slice(None), slice(Some(SystemTime::UNIX_EPOCH)));
}

#[test]
fn what_is_wrong_with_a_slice_regards_its_service() {
    let yaml = format!("{{{HEAD}, addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}]}}");
    let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    let object: EndpointSlice = serde_json::from_value(value).unwrap();
    let name = object.metadata().valid().unwrap().object_name();
    let mut fields = Fields::new(EndpointSlice::KIND, name);
    object.convert(&mut fields);
    let rejections = fields.into_rejections();
    assert_eq!(rejections[0].cause, Cause::InvalidEndpointAddress);
    let regarding = rejections[0].regarding.as_ref().unwrap();
    assert_eq!(regarding.to_string(), "Service ns/s");
}
