use serde_json::{Value, json};

use super::*;

/// Services as the API server has them.
struct Services(Allocations);

impl Services {
    fn new() -> Self {
        let networks = ["10.96.0.0/16", "fd00:10:96::/112"];
        Self(Allocations::new(
            networks.map(|n| n.parse().unwrap()).to_vec(),
        ))
    }

    fn write(&mut self, name: &str, spec: Value, old: Option<&Value>) -> Result<Value, Status> {
        let mut service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        if let Some(old) = old {
            service["status"] = old["status"].clone();
        }
        prepare(&mut service, old, &mut self.0)?;
        self.0
            .replace(&Name::new("default", name), old, Some(&service));
        Ok(service)
    }

    fn create(&mut self, name: &str, spec: Value) -> Value {
        self.write(name, spec, None).unwrap()
    }

    /// Changes some fields, as a merge patch does.
    fn patch(&mut self, old: &Value, patch: Value) -> Result<Value, Status> {
        let mut spec = old["spec"].clone();
        json_patch::merge(&mut spec, &patch);
        self.write(text(old, "/metadata/name"), spec, Some(old))
    }

    #[track_caller]
    fn refuses(&mut self, spec: Value, message: &str) {
        let error = self.write("bad", spec, None).unwrap_err();
        assert_eq!(error.code, 422);
        assert_eq!(
            error.message,
            format!("Service \"bad\" is invalid: {message}")
        );
    }
}

fn ports() -> Value {
    json!([{"port": 80}])
}

#[test]
fn a_bare_service_gets_what_the_real_server_gives() {
    let service = Services::new().create(
        "a",
        json!({"ports": [{"port": 80}], "selector": {"a": "b"}}),
    );
    assert_eq!(
        service["spec"],
        json!({
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"a": "b"}, "type": "ClusterIP", "sessionAffinity": "None",
            "clusterIP": "10.96.1.0", "clusterIPs": ["10.96.1.0"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        })
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
}

#[test]
fn the_recorded_services_are_stored_as_they_were() {
    let list = include_str!("../../../../data/api/list-services.json");
    let list: Value = serde_json::from_str(list).unwrap();
    let mut services = Services::new();
    for recorded in items(&list, "/items") {
        // What users had applied, with the addresses and ports that were allocated then.
        let mut again = recorded.clone();
        prepare(&mut again, None, &mut services.0).unwrap();
        assert_eq!(again, *recorded);
        // What users had applied, as an update that says nothing of what is allocated.
        let applied = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
        let Ok(applied) = serde_json::from_str::<Value>(text(recorded, applied)) else {
            continue;
        };
        if matches!(
            text(recorded, "/metadata/name"),
            "alpaca-tutorial" | "sticky" | "external-name"
        ) {
            // These were changed afterwards.
            continue;
        }
        let mut again = recorded.clone();
        again["spec"] = applied["spec"].clone();
        prepare(&mut again, Some(recorded), &mut services.0).unwrap();
        assert_eq!(again, *recorded);
    }
}

#[test]
fn families_follow_policy_families_and_addresses() {
    let mut services = Services::new();
    let prefer = services.create(
        "a",
        json!({"ports": ports(), "ipFamilyPolicy": "PreferDualStack"}),
    );
    assert_eq!(prefer["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(strings(&prefer, "/spec/clusterIPs").len(), 2);
    let six = services.create("b", json!({"ports": ports(), "ipFamilies": ["IPv6"]}));
    assert!(text(&six, "/spec/clusterIP").starts_with("fd00:10:96::"));
    let fixed = services.create(
        "c",
        json!({"ports": ports(), "clusterIP": "10.96.0.17", "clusterIPs": ["10.96.0.17", "fd00:10:96::11"],
            "ipFamilyPolicy": "RequireDualStack"}),
    );
    assert_eq!(fixed["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let single = services
        .patch(&fixed, json!({"ipFamilyPolicy": "SingleStack"}))
        .unwrap();
    assert_eq!(single["spec"]["clusterIPs"], json!(["10.96.0.17"]));
    let again = services
        .patch(&single, json!({"ipFamilyPolicy": "PreferDualStack"}))
        .unwrap();
    assert_eq!(strings(&again, "/spec/clusterIPs").len(), 2);
    services.refuses(
        json!({"ports": ports(), "ipFamilies": ["IPv4", "IPv6"]}),
        "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or \
         PreferDualStack when multiple families are specified",
    );
}

#[test]
fn headless_and_external_services_hold_no_address() {
    let mut services = Services::new();
    let headless = services.create("a", json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
    let manual = services.create("b", json!({"clusterIP": "None"}));
    assert_eq!(manual["spec"]["ipFamilyPolicy"], "RequireDualStack");
    let external = services.create(
        "c",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    );
    assert_eq!(external["spec"].get("clusterIP"), None);
    let patch = json!({"type": "ClusterIP", "externalName": null, "ports": ports()});
    let internal = services.patch(&external, patch).unwrap();
    assert_eq!(internal["spec"]["clusterIP"], "10.96.1.0");
    let patch = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = services.patch(&internal, patch).unwrap();
    assert_eq!(external["spec"].get("clusterIPs"), None);
    let next = services.create("d", json!({"ports": ports(), "clusterIP": "10.96.1.0"}));
    assert_eq!(next["spec"]["clusterIP"], "10.96.1.0");
}

#[test]
fn a_change_of_type_allocates_and_frees_ports() {
    let mut services = Services::new();
    let internal = services.create("a", json!({"ports": ports()}));
    let node_port = services
        .patch(&internal, json!({"type": "NodePort"}))
        .unwrap();
    assert_eq!(node_port["spec"]["ports"][0]["nodePort"], 30_086);
    assert_eq!(node_port["spec"]["externalTrafficPolicy"], "Cluster");
    let patch = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let balancer = services.patch(&node_port, patch).unwrap();
    assert_eq!(balancer["spec"]["ports"][0]["nodePort"], 30_086);
    assert_eq!(balancer["spec"]["healthCheckNodePort"], 30_087);
    let mut balancer = balancer;
    balancer["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.77.0.5"}]}});
    let internal = services
        .patch(&balancer, json!({"type": "ClusterIP"}))
        .unwrap();
    for gone in [
        "healthCheckNodePort",
        "externalTrafficPolicy",
        "allocateLoadBalancerNodePorts",
    ] {
        assert_eq!(internal["spec"].get(gone), None);
    }
    assert_eq!(internal["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(internal["status"], json!({"loadBalancer": {}}));
    let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_086}]});
    services.write("b", taken.clone(), None).unwrap();
    services.refuses(
        taken,
        "spec.ports[0].nodePort: Invalid value: 30086: provided port is already allocated",
    );
}

#[test]
fn one_node_port_serves_two_protocols_of_one_port() {
    let ports = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let service = Services::new().create("a", json!({"type": "NodePort", "ports": ports}));
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30_086);
    assert_eq!(service["spec"]["ports"][1]["nodePort"], 30_086);
}

#[test]
fn node_ports_follow_their_port_when_others_come_and_go() {
    let mut services = Services::new();
    let one = services.create(
        "a",
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}]}),
    );
    let ports = json!([{"name": "b", "port": 90}, {"name": "a", "port": 80}]);
    let two = services.patch(&one, json!({"ports": ports})).unwrap();
    assert_eq!(
        two["spec"]["ports"][1]["nodePort"],
        one["spec"]["ports"][0]["nodePort"]
    );
    assert_ne!(
        two["spec"]["ports"][0]["nodePort"],
        one["spec"]["ports"][0]["nodePort"]
    );
}

#[test]
fn affinity_has_a_timeout_only_while_it_is_on() {
    let mut services = Services::new();
    let sticky = services.create(
        "a",
        json!({"ports": ports(), "sessionAffinity": "ClientIP"}),
    );
    let timeout = "/spec/sessionAffinityConfig/clientIP/timeoutSeconds";
    assert_eq!(number(&sticky, timeout), AFFINITY_TIMEOUT);
    let off = services
        .patch(&sticky, json!({"sessionAffinity": "None"}))
        .unwrap();
    assert_eq!(off["spec"].get("sessionAffinityConfig"), None);
}

#[test]
fn services_that_cannot_be_are_refused() {
    let mut services = Services::new();
    services.create("a", json!({"ports": ports(), "clusterIP": "10.96.0.5"}));
    for (spec, message) in [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"type": "Foo", "ports": ports()}),
            "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \
             \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"ports": [{"port": 80}, {"name": "u", "port": 81}]}),
            "spec.ports[0].name: Required value",
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
        (
            json!({"ports": ports(), "clusterIP": "10.96.0.5"}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.5\"]: failed to allocate IP 10.96.0.5: \
             provided IP is already allocated",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30_000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. \
             The range of valid ports is 30000-32767",
        ),
        (
            json!({"ports": ports(), "externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
             externally-accessible services",
        ),
    ] {
        services.refuses(spec, message);
    }
}

#[test]
fn the_address_may_not_change() {
    let mut services = Services::new();
    let service = services.create("a", json!({"ports": ports()}));
    let error = services
        .patch(&service, json!({"clusterIP": "10.96.0.9"}))
        .unwrap_err();
    assert!(error.message.contains("may not change once set"), "{error}");
}
