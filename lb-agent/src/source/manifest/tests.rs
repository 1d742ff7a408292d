use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    model::{Model, ObjectName, ServiceKind},
    source::{self, Receiver, Snapshot},
};

/// A change must be noticed within this time; the periodic re-reading is slower.
const DEADLINE: Duration = Duration::from_secs(5);

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: alpaca}
spec: {clusterIP: 10.96.0.17, selector: {app: alpaca}, ports: [{name: http, port: 80, targetPort: web}]}
";

/// What a text says.
#[track_caller]
fn snapshot(text: &str) -> Arc<Snapshot> {
    let (sender, receiver) = source::channel();
    run_once(text.to_owned(), "node1", &sender).unwrap();
    let snapshot = receiver.borrow().clone();
    snapshot.expect("a snapshot")
}

/// What a text says in which nothing is wrong.
#[track_caller]
fn good(text: &str) -> Arc<Model> {
    let snapshot = snapshot(text);
    assert_eq!(snapshot.rejections, []);
    snapshot.model.clone()
}

/// What is rejected of a text that can be parsed.
#[track_caller]
fn rejections(text: &str) -> Vec<String> {
    let snapshot = snapshot(text);
    snapshot
        .rejections
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// The endpoints of a Service: `slice port addr node flags`, a line each.
fn endpoints(model: &Model, service: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (slice_name, slice) in model.slices.get(&name(service)).into_iter().flatten() {
        let ports: Vec<_> = slice.ports.iter().map(|p| p.port.to_string()).collect();
        for endpoint in &slice.endpoints {
            let flags = [
                (endpoint.ready, "ready"),
                (endpoint.serving, "serving"),
                (endpoint.terminating, "terminating"),
            ];
            let flags: Vec<_> = flags
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, f)| *f)
                .collect();
            lines.push(format!(
                "{slice_name} {} {} {} {}",
                ports.join(","),
                endpoint.addr,
                endpoint.node.as_deref().unwrap_or("-"),
                flags.join(",")
            ));
        }
    }
    lines
}

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

#[test]
fn labels_take_objects_away() {
    let service = SERVICE.replace(
        "{name: alpaca}",
        "{name: alpaca, labels: {service.kubernetes.io/service-proxy-name: x}}",
    );
    assert!(good(&service).services.is_empty());
    let slice = "
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: alpaca, service.kubernetes.io/headless: ''}}
addressType: IPv4
";
    assert!(good(slice).slices.is_empty());
}

#[test]
fn lists_json_and_other_kinds_are_understood() {
    let list = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}
- {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: c}}
";
    assert_eq!(good(list).services.keys().collect::<Vec<_>>(), [&name("a")]);
    let json = r#"{"kind": "ServiceList", "apiVersion": "v1", "items":
        [{"metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"}}]}"#;
    assert_eq!(good(json).services.len(), 1);
}

#[test]
fn recorded_lists_are_manifests() {
    for (file, services) in [("list-services.json", 8), ("list-endpointslices.json", 0)] {
        let path = format!("{}/../tests/data/api/{file}", env!("CARGO_MANIFEST_DIR"));
        let model = good(&fs::read_to_string(path).unwrap());
        assert!(
            model.services.len() >= services,
            "{:?}",
            model.services.keys()
        );
        assert_eq!(model.slices.is_empty(), services != 0);
    }
}

#[test]
fn the_example_has_three_backends_of_both_families() {
    let path = format!(
        "{}/../docs/examples/alpaca-prod.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let model = good(&fs::read_to_string(path).unwrap());
    let service = &model.services[&name("alpaca-prod")];
    assert_eq!(service.kind, ServiceKind::NodePort);
    assert_eq!(
        (service.ports[0].port, service.ports[0].node_port),
        (8000, 30366)
    );
    let endpoints = endpoints(&model, "alpaca-prod");
    assert_eq!(endpoints.len(), 6, "{endpoints:?}");
    assert!(
        endpoints.iter().all(|line| line.contains(" 8000,8000 ")),
        "{endpoints:?}"
    );
}

#[test]
fn only_this_node_is_taken() {
    let nodes = "
{kind: Node, metadata: {name: node2}, status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}}
---
{kind: Node, metadata: {name: Node1}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
";
    let node = good(nodes).node.clone().unwrap();
    assert_eq!(node.internal_ips[0].to_string(), "10.0.0.1");
}

#[test]
fn headless_and_external_services_need_no_address() {
    let model = good(
        "
{kind: Service, metadata: {name: a}, spec: {clusterIP: None}}
---
{kind: Service, metadata: {name: b}, spec: {type: ExternalName, externalName: x.example}}
",
    );
    assert!(
        model
            .services
            .values()
            .all(|service| service.cluster_ips.is_empty())
    );
    assert_eq!(model.services.len(), 2);
}

#[test]
fn nothing_allocates_addresses_and_ports() {
    assert_eq!(
        rejections("{kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}"),
        [
            "-, document 1 (line 1): Service default/a: spec.clusterIP: is missing: \
          nothing allocates addresses for manifests; say one, or `None`"
        ]
    );
    let node_port = "
---
kind: Service
metadata: {name: a}
spec: {type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80}]}
";
    assert_eq!(
        rejections(node_port),
        [
            "-, document 1 (line 3): Service default/a: spec.ports[0].nodePort: is missing: \
          nothing allocates node ports for manifests; say one"
        ]
    );
    assert_eq!(
        snapshot(node_port).model.services.len(),
        1,
        "its address is served"
    );
}

#[test]
fn an_object_that_stands_twice_is_taken_once() {
    let again = SERVICE.replace("10.96.0.17", "10.96.0.18");
    let text = format!("{SERVICE}---{again}");
    assert_eq!(
        rejections(&text),
        [
            "-, document 2 (line 7): Service default/alpaca: stands in -, document 1 (line 2) \
          already, and is taken from there"
        ]
    );
    let service = snapshot(&text).model.services[&name("alpaca")].clone();
    assert_eq!(service.cluster_ips[0].to_string(), "10.96.0.17");
}

#[test]
fn what_is_no_object_is_an_error() {
    for (text, expected) in [
        (
            "a: 1",
            "-, document 1 (line 1): object : kind: is missing: this is no Kubernetes object; nothing of the file is used until that is corrected",
        ),
        (
            "{kind: Service}",
            "-, document 1 (line 1): Service default/: metadata.name: is missing; nothing of the file is used until that is corrected",
        ),
    ] {
        let (sender, receiver) = source::channel();
        let error = run_once(text.to_owned(), "node1", &sender).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(receiver.borrow().is_none());
    }
}

/// A source that follows a path in a directory of its own.
struct Followed {
    directory: TempDir,
    receiver: Receiver,
    task: JoinHandle<Result<(), Error>>,
}

impl Followed {
    /// Writes `files` and follows `path` of their directory.
    async fn start(files: &[(&str, &str)], path: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self::follow(directory, path).await
    }

    async fn follow(directory: TempDir, path: &str) -> Self {
        let (sender, mut receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(path), "node1");
        let task = tokio::spawn(manifests.run(sender));
        let first = timeout(DEADLINE, receiver.wait_for(Option::is_some)).await;
        assert!(
            first.is_ok_and(|first| first.is_ok()),
            "nothing was published"
        );
        Self {
            directory,
            receiver,
            task,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes a file and renames it over `name`, as editors do.
    fn rename_over(&self, name: &str, text: &str) {
        self.write(".new", text);
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    /// Waits until the Services are these.
    #[track_caller]
    fn expect(&mut self, services: &[&str]) -> impl Future<Output = Arc<Snapshot>> {
        let expected: Vec<_> = services.iter().map(|service| name(service)).collect();
        self.expect_that(move |snapshot| snapshot.model.services.keys().eq(&expected))
    }

    async fn expect_that(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let wanted = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_deref().is_some_and(&condition);
        let found = timeout(DEADLINE, self.receiver.wait_for(wanted)).await;
        let found = found.map(|snapshot| snapshot.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("still {:?}", self.receiver.borrow()))
    }

    /// Ends the source by leaving it without receivers.
    async fn stop(self) {
        drop(self.receiver);
        timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

fn service(name: &str) -> String {
    format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1}}\n")
}

#[tokio::test]
async fn a_file_that_is_written_or_renamed_over_is_read_again() {
    let mut followed = Followed::start(&[("a.yaml", &service("one"))], "a.yaml").await;
    followed.expect(&["one"]).await;
    followed.rename_over("a.yaml", &service("two"));
    followed.expect(&["two"]).await;
    followed.write("a.yaml", &(service("two") + &service("three")));
    followed.expect(&["three", "two"]).await;
    followed.rename_over("a.yaml", &service("four"));
    followed.expect(&["four"]).await;
    followed.stop().await;
}

#[tokio::test]
async fn files_of_a_directory_come_and_go() {
    let files = [
        ("d/a.yaml", service("a")),
        ("d/.hidden.yaml", service("hidden")),
        ("d/sub/b.yaml", service("sub")),
        ("d/notes.txt", service("notes")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut followed = Followed::start(&files, "d").await;
    followed.expect(&["a"]).await;
    followed.write("d/b.yml", &service("b"));
    followed.expect(&["a", "b"]).await;
    followed.write(
        "d/c.json",
        r#"{"kind": "Service", "metadata": {"name": "c"}, "spec": {"clusterIP": "10.0.0.1"}}"#,
    );
    followed.expect(&["a", "b", "c"]).await;
    fs::remove_file(followed.path("d/a.yaml")).unwrap();
    followed.expect(&["b", "c"]).await;
    followed.stop().await;
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in [("..1", service("old")), ("..2", service("new"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    for path in ["a.yaml", ""] {
        let link = directory.path().join("..data_tmp");
        let swap = |to: &str| {
            symlink(to, &link).unwrap();
            fs::rename(&link, directory.path().join("..data")).unwrap();
        };
        swap("..1");
        let (sender, receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(path), "node1");
        let task = tokio::spawn(manifests.run(sender));
        let elsewhere = tempfile::tempdir().unwrap();
        let mut followed = Followed {
            directory: elsewhere,
            receiver,
            task,
        };
        followed.expect(&["old"]).await;
        swap("..2");
        followed.expect(&["new"]).await;
        followed.stop().await;
    }
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_read_again() {
    let (a, b) = (service("a"), service("b"));
    let mut followed = Followed::start(&[("d/a.yaml", &a), ("e/b.yaml", &b)], "d").await;
    followed.expect(&["a"]).await;
    fs::rename(followed.path("d"), followed.path("gone")).unwrap();
    let missing = |snapshot: &Snapshot| !snapshot.rejections.is_empty();
    let snapshot = followed.expect_that(missing).await;
    assert_eq!(snapshot.model.services.len(), 1, "what works stays");
    fs::rename(followed.path("e"), followed.path("d")).unwrap();
    followed.expect(&["b"]).await;
    followed.write("d/c.yaml", &service("c"));
    let snapshot = followed.expect(&["b", "c"]).await;
    assert_eq!(snapshot.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_parsed_keeps_what_it_said() {
    let mut followed =
        Followed::start(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))], "").await;
    followed.expect(&["a", "b"]).await;
    followed.rename_over("a.yaml", &(service("a2") + "---\nkind: [\n"));
    followed.rename_over("b.yaml", &service("b2"));
    let snapshot = followed.expect(&["a", "b2"]).await;
    let rejection = snapshot.rejections[0].to_string();
    let object = format!("{}, document 2: line ", followed.path("a.yaml").display());
    assert!(rejection.starts_with(&object), "{rejection}");
    assert!(
        rejection.ends_with("what it said before stays in force"),
        "{rejection}"
    );
    followed.rename_over("a.yaml", &service("a2"));
    let snapshot = followed.expect(&["a2", "b2"]).await;
    assert_eq!(snapshot.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn an_object_with_a_bad_field_keeps_what_it_said() {
    let mut followed = Followed::start(&[("a.yaml", SERVICE)], "a.yaml").await;
    let bad = SERVICE.replace("port: 80", "port: 80000") + &service("other");
    followed.rename_over("a.yaml", &bad);
    let snapshot = followed.expect(&["alpaca", "other"]).await;
    assert_eq!(snapshot.model.services[&name("alpaca")].ports[0].port, 80);
    assert_eq!(
        snapshot.rejections[0].to_string(),
        format!(
            "{}, document 1 (line 2): Service default/alpaca: spec.ports[0].port: \
             80000 is not a port: use 1 to 65535; what it said before stays in force",
            followed.path("a.yaml").display()
        )
    );
    // Still bad, in another way: the good state is still the first one.
    followed.rename_over("a.yaml", &SERVICE.replace("port: 80", "port: -1"));
    let snapshot = followed.expect(&["alpaca"]).await;
    assert_eq!(snapshot.model.services[&name("alpaca")].ports[0].port, 80);
    followed.rename_over("a.yaml", &SERVICE.replace("port: 80", "port: 81"));
    let is_81 = |s: &Snapshot| s.model.services[&name("alpaca")].ports[0].port == 81;
    assert_eq!(followed.expect_that(is_81).await.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn changes_that_mean_nothing_are_not_published() {
    let mut followed = Followed::start(&[("a.yaml", &service("a"))], "a.yaml").await;
    followed.receiver.mark_unchanged();
    followed.rename_over("a.yaml", &("# a comment\n".to_owned() + &service("a")));
    followed.rename_over("a.yaml", &(service("a") + &service("b")));
    timeout(DEADLINE, followed.receiver.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        followed
            .receiver
            .borrow()
            .as_ref()
            .unwrap()
            .model
            .services
            .len(),
        2
    );
    followed.rename_over(
        "a.yaml",
        &("# a comment\n".to_owned() + &service("a") + &service("b")),
    );
    let quiet = timeout(MAX_DELAY * 2, followed.receiver.changed()).await;
    assert!(quiet.is_err(), "published the same again");
    followed.stop().await;
}

#[tokio::test]
async fn a_start_without_anything_usable_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let (sender, _receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(name), "node1");
        async move { manifests.run(sender).await.unwrap_err() }
    };
    assert!(matches!(run("missing.yaml").await, Error::Read { .. }));
    fs::write(directory.path().join("bad.yaml"), "kind: [").unwrap();
    let error = run("bad.yaml").await;
    assert!(matches!(error, Error::Parse(_)));
    assert!(
        error.to_string().contains("bad.yaml, document 1: line 1"),
        "{error}"
    );
}

#[tokio::test]
async fn an_empty_directory_is_an_empty_model() {
    let mut followed = Followed::follow(tempfile::tempdir().unwrap(), "").await;
    followed.expect(&[]).await;
    followed.write("a.yaml", &service("a"));
    followed.expect(&["a"]).await;
    followed.stop().await;
}

#[test]
fn standard_input_is_called_by_a_dash() {
    assert!(matches!(
        Manifests::new(Path::new("-"), "n").input,
        Input::Stdin
    ));
    assert!(matches!(
        Manifests::new(Path::new("./-"), "n").input,
        Input::Path(_)
    ));
}
