use super::*;
use crate::source::objects::tests::{convert, convert_good};

/// Converts a Service with this `spec` in flow style, in which nothing is wrong.
#[track_caller]
fn good(spec: &str) -> model::Service {
    convert_good::<Service>(&format!("{{metadata: {{name: s}}, spec: {spec}}}"))
}

/// Converts a Service with this `spec`; exactly `expected` is rejected (field and reason).
#[track_caller]
fn rejected(spec: &str, expected: &[&str]) -> Option<model::Service> {
    let yaml = format!("{{metadata: {{name: s, namespace: ns}}, spec: {spec}}}");
    let (service, rejections) = convert::<Service>(&yaml);
    let expected: Vec<_> = expected
        .iter()
        .map(|text| format!("Service ns/s: {text}"))
        .collect();
    assert_eq!(rejections, expected, "{spec}");
    service
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn defaults_are_those_of_the_api() {
    let service = good("{clusterIP: 10.96.0.17, ports: [{port: 8000}]}");
    let expected = model::Service {
        kind: ServiceKind::ClusterIp,
        cluster_ips: addrs(&["10.96.0.17"]),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: lb_common::protocol::TCP,
            port: 8000,
            node_port: 0,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
        algorithm: Algorithm::Maglev,
    };
    assert_eq!(service, expected);
}

#[test]
fn everything_is_read() {
    let service = convert_good::<Service>(
        "
metadata: {name: s}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.17
  clusterIPs: [10.96.0.17, 'fd00:10:96::11']
  externalIPs: [198.51.100.77, 198.51.100.77, 'fd00::77']
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 30999
  loadBalancerSourceRanges: [203.0.113.0/24, ' 198.51.100.0/25']
  ports:
  - {name: dns, protocol: UDP, port: 53, nodePort: 30053, targetPort: 5353}
  - {name: assoc, protocol: SCTP, port: 54}
status:
  loadBalancer:
    ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: x.example}, {ip: 192.0.2.3, ipMode: VIP}]
",
    );
    assert_eq!(service.kind, ServiceKind::LoadBalancer);
    assert_eq!(
        service.cluster_ips,
        addrs(&["10.96.0.17", "fd00:10:96::11"])
    );
    assert_eq!(service.external_ips, addrs(&["198.51.100.77", "fd00::77"]));
    assert_eq!(
        service.load_balancer_ips,
        addrs(&["192.0.2.1", "192.0.2.3"])
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.health_check_node_port, 30999);
    let ranges: Vec<IpNet> = ["203.0.113.0/24", "198.51.100.0/25"]
        .map(|text| text.parse().unwrap())
        .into();
    assert_eq!(service.source_ranges, ranges);
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.port, p.node_port))
        .collect();
    let (udp, sctp) = (lb_common::protocol::UDP, lb_common::protocol::SCTP);
    assert_eq!(ports, [("dns", udp, 53, 30053), ("assoc", sctp, 54, 0)]);
}

#[test]
fn headless_services_have_no_address() {
    assert!(
        good("{clusterIP: None, clusterIPs: [None]}")
            .cluster_ips
            .is_empty()
    );
    assert!(good("{clusterIP: ''}").cluster_ips.is_empty());
    assert!(
        good("{clusterIP: None, clusterIPs: [10.0.0.1]}")
            .cluster_ips
            .is_empty()
    );
    let external = good("{type: ExternalName, externalName: example.com}");
    assert_eq!(external.kind, ServiceKind::ExternalName);
}

#[test]
fn s67_cluster_addresses_may_stand_in_the_list_only() {
    let service = good("{clusterIPs: [10.96.0.1, 'fd00::1']}");
    assert_eq!(service.cluster_ips, addrs(&["10.96.0.1", "fd00::1"]));
}

#[test]
fn s67_a_family_has_one_cluster_address() {
    let service = rejected(
        "{clusterIPs: [10.96.0.1, 10.96.0.2, x]}",
        &[
            "spec.clusterIPs[1]: `10.96.0.2`: 10.96.0.1 is the family's address already",
            "spec.clusterIPs[2]: `x` is not an IP address",
        ],
    );
    assert_eq!(service.unwrap().cluster_ips, addrs(&["10.96.0.1"]));
}

#[test]
fn affinity_has_a_default_and_a_limit() {
    let timeout = |spec: &str| good(spec).affinity_timeout_s;
    assert_eq!(timeout("{sessionAffinity: None}"), None);
    assert_eq!(timeout("{sessionAffinity: ClientIP}"), Some(10_800));
    let config = "sessionAffinityConfig: {clientIP: {timeoutSeconds";
    let spec = |seconds: i64| format!("{{sessionAffinity: ClientIP, {config}: {seconds}}}}}}}");
    assert_eq!(timeout(&spec(30)), Some(30));
    assert_eq!(timeout(&spec(86_400)), Some(86_400));
    for wrong in [0, -1, 86_401] {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let reason = format!("{field}: {wrong} is not from 1 to 86400; 10800 is used");
        let service = rejected(&spec(wrong), &[&reason]).unwrap();
        assert_eq!(service.affinity_timeout_s, Some(10_800));
    }
}

#[test]
fn a_bad_port_costs_itself_only() {
    let service = rejected(
        "{ports: [{port: 80000}, {}, {port: 1, protocol: ICMP}, {port: x}, {port: 2, name: [a]}, 7, {port: 80}]}",
        &[
            "spec.ports[5]: invalid type: integer `7`, expected struct Port",
            "spec.ports[0].port: 80000 is not a port: use 1 to 65535",
            "spec.ports[1].port: is missing",
            "spec.ports[2].protocol: `ICMP`: use TCP, UDP or SCTP",
            "spec.ports[3].port: invalid type: string \"x\", expected i64",
            "spec.ports[4].name: invalid type: sequence, expected a string",
        ],
    );
    let ports: Vec<_> = service.unwrap().ports.iter().map(|p| p.port).collect();
    assert_eq!(ports, [80]);
}

#[test]
fn node_ports_are_for_types_that_have_them() {
    let service = rejected(
        "{ports: [{port: 80, nodePort: 30080}]}",
        &["spec.ports[0].nodePort: a Service of type ClusterIP has none"],
    );
    assert_eq!(service.unwrap().ports[0].node_port, 0);
    assert_eq!(
        good("{type: NodePort, ports: [{port: 80, nodePort: 30080}]}").ports[0].node_port,
        30080
    );
}

#[test]
fn an_unknown_type_costs_the_service() {
    let reason = "spec.type: `Fancy`: use ClusterIP, NodePort, LoadBalancer or ExternalName";
    assert_eq!(rejected("{type: Fancy}", &[reason]), None);
    let reason = "spec: invalid type: string \"x\", expected struct Spec";
    assert_eq!(rejected("x", &[reason]), None);
}

#[test]
fn an_unreadable_source_range_lets_in_no_one() {
    let (service, rejections) = convert::<Service>(
        "{metadata: {name: s}, spec: {loadBalancerSourceRanges: [10.0.0.0/8, x]},
          status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}",
    );
    let service = service.unwrap();
    assert!(service.load_balancer_ips.is_empty() && service.source_ranges.is_empty());
    assert_eq!(rejections.len(), 1, "{rejections:?}");
}

#[track_caller]
fn selection(spec: &str) -> Option<Selection> {
    let yaml = format!("{{metadata: {{name: s}}, spec: {spec}}}");
    let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    let service: Service = serde_json::from_value(value).unwrap();
    let mut fields = Fields::new(Service::KIND, Metadata::default().object_name());
    service.selection(&mut fields)
}

#[test]
fn a_selector_needs_a_label() {
    assert_eq!(selection("{}"), None);
    assert_eq!(selection("{selector: {}}"), None);
    assert_eq!(
        selection("{selector: {app: a, env: 1}}"),
        None,
        "would select too many"
    );
    assert_eq!(
        selection("{selector: {app: a, env: prod}}")
            .unwrap()
            .labels
            .len(),
        2
    );
}

#[test]
fn a_target_port_is_a_number_a_name_or_the_port_itself() {
    let selection = selection(
        "{selector: {app: a}, publishNotReadyAddresses: true, ports: [{port: 80},
          {port: 81, targetPort: 8081}, {port: 82, targetPort: web}, {port: 83, targetPort: 0},
          {port: 0, targetPort: 1}, {port: 84, targetPort: 70000}]}",
    )
    .unwrap();
    let targets: Vec<_> = selection
        .ports
        .into_iter()
        .map(|port| port.target)
        .collect();
    let number = TargetPort::Number;
    let web = TargetPort::Name("web".to_owned());
    assert_eq!(targets, [number(80), number(8081), web, number(83)]);
    assert!(selection.publish_not_ready);
}

#[test]
fn the_annotation_chooses_the_algorithm() {
    let of = |value: &str| {
        convert::<Service>(&format!(
            "{{metadata: {{name: s, namespace: ns, annotations: {{lb-agent.io/algorithm: {value}}}}}, spec: {{}}}}"
        ))
    };
    let algorithm = |value: &str| of(value).0.map(|service| service.algorithm);
    assert_eq!(algorithm("random"), Some(Algorithm::Random));
    assert_eq!(algorithm("maglev"), Some(Algorithm::Maglev));
    assert_eq!(algorithm("fastest"), Some(Algorithm::Maglev));
    assert_eq!(
        of("fastest").1,
        [
            "Service ns/s: metadata.annotations.lb-agent.io/algorithm: `fastest`: use maglev or random; maglev is used"
        ]
    );
}
