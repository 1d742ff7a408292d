//! Where the endpoints of a Service come from.

use super::{SERVICE, endpoints, good, name};

/// The endpoints of the Service `alpaca` and these Pods, flow style.
#[track_caller]
fn check_pods(service: &str, pods: &[&str], expected: &[&str]) {
    let mut text = service.to_owned();
    for pod in pods {
        text.push_str("\n---\napiVersion: v1\nkind: Pod\n");
        text.push_str(pod);
    }
    assert_eq!(endpoints(&good(&text), "alpaca"), expected);
}

const POD1: &str = "
metadata: {name: a, labels: {app: alpaca}}
spec: {nodeName: node1, containers: [{ports: [{name: web, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
";

#[test]
fn pods_that_match_become_endpoints() {
    let pod2 = "
metadata: {name: b, labels: {app: alpaca, more: x}}
spec: {nodeName: node2, containers: [{ports: [{name: web, containerPort: 8080}]}]}
status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]}
";
    check_pods(
        SERVICE,
        &[POD1, pod2],
        &[
            "alpaca-ipv4 8080 10.0.0.1 node1 ready,serving",
            "alpaca-ipv4 8080 10.0.0.2 node2 ",
        ],
    );
}

#[test]
fn pods_of_other_labels_and_namespaces_do_not() {
    let other_label = POD1.replace("app: alpaca", "app: llama");
    let other_namespace = POD1.replace("name: a,", "name: a, namespace: prod,");
    let no_label = POD1.replace("labels: {app: alpaca}", "labels: {}");
    check_pods(SERVICE, &[&other_label], &[]);
    check_pods(SERVICE, &[&other_namespace], &[]);
    check_pods(SERVICE, &[&no_label], &[]);
    let both = SERVICE.replace("{app: alpaca}", "{app: alpaca, env: prod}");
    check_pods(&both, &[POD1], &[]);
}

#[test]
fn pods_give_a_slice_to_each_family_of_the_service() {
    let dual = SERVICE.replace(
        "clusterIP: 10.96.0.17",
        "clusterIPs: [10.96.0.17, 'fd00:96::1']",
    );
    check_pods(
        &dual,
        &[POD1],
        &[
            "alpaca-ipv4 8080 10.0.0.1 node1 ready,serving",
            "alpaca-ipv6 8080 fd00::1 node1 ready,serving",
        ],
    );
}

#[test]
fn terminating_pods_serve_but_are_not_ready() {
    let gone = POD1.replace(
        "name: a,",
        "name: a, deletionTimestamp: '2026-01-01T00:00:00Z',",
    );
    check_pods(
        SERVICE,
        &[&gone],
        &["alpaca-ipv4 8080 10.0.0.1 node1 serving,terminating"],
    );
    let publish = SERVICE.replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    check_pods(
        &publish,
        &[&gone],
        &["alpaca-ipv4 8080 10.0.0.1 node1 ready,serving,terminating"],
    );
}

#[test]
fn a_named_port_may_have_another_number_in_another_pod() {
    let pod2 = POD1
        .replace("name: a,", "name: b,")
        .replace("8080", "9090")
        .replace("10.0.0.1", "10.0.0.2");
    let nameless = POD1
        .replace("name: a,", "name: c,")
        .replace("name: web", "name: admin");
    check_pods(
        SERVICE,
        &[POD1, &pod2, &nameless],
        &[
            "alpaca-ipv4 8080 10.0.0.1 node1 ready,serving",
            "alpaca-ipv4-2 9090 10.0.0.2 node1 ready,serving",
        ],
    );
}

#[test]
fn the_target_port_is_the_port_by_default() {
    let service = SERVICE.replace(", targetPort: web", "");
    check_pods(
        &service,
        &[POD1],
        &["alpaca-ipv4 80 10.0.0.1 node1 ready,serving"],
    );
    let service = SERVICE.replace("targetPort: web", "targetPort: 8000");
    check_pods(
        &service,
        &[POD1],
        &["alpaca-ipv4 8000 10.0.0.1 node1 ready,serving"],
    );
}

#[test]
fn slices_and_endpoints_of_its_own_come_before_pods() {
    let endpoints_object = "
---
apiVersion: v1
kind: Endpoints
metadata: {name: alpaca}
subsets: [{addresses: [{ip: 10.9.0.1}], ports: [{name: http, port: 9000}]}]
";
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: alpaca-x, labels: {kubernetes.io/service-name: alpaca}}
addressType: IPv4
ports: [{port: 9001}]
endpoints: [{addresses: [10.9.0.2]}]
";
    let pod = format!("---\nkind: Pod\n{POD1}");
    let model = good(&format!("{SERVICE}{endpoints_object}{pod}"));
    assert_eq!(
        endpoints(&model, "alpaca"),
        ["alpaca-0-ipv4 9000 10.9.0.1 - ready,serving"]
    );
    let model = good(&format!("{SERVICE}{endpoints_object}{slice}{pod}"));
    assert_eq!(
        endpoints(&model, "alpaca"),
        ["alpaca-x 9001 10.9.0.2 - ready,serving"]
    );
    assert_eq!(model.slices[&name("alpaca")]["alpaca-x"].ports[0].name, "");
}
