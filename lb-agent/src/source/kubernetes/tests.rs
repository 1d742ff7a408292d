use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::*;
use crate::source::{self, Receiver, Snapshot};

/// The slowest step is a second attempt after a back-off.
const DEADLINE: Duration = Duration::from_secs(20);

/// Nothing may be published in this time.
const QUIET: Duration = Duration::from_millis(300);

/// The three kinds, as they stand in paths.
const KINDS: [&str; 3] = ["services", "endpointslices", "nodes"];

/// An API server, reduced to lists and watches of three kinds.
struct Api {
    state: Arc<watch::Sender<ApiState>>,
    receiver: Receiver,
}

#[derive(Default)]
struct ApiState {
    kinds: [KindState; 3],
    requests: Vec<String>,
}

#[derive(Default)]
struct KindState {
    /// `None` leaves a list waiting.
    list: Option<Vec<Value>>,
    /// Events since the beginning; an event's index plus one is its resource version.
    events: Vec<Value>,
    /// Watches from before this version get `410 Gone`.
    oldest: usize,
}

impl Api {
    /// Starts a server that answers no list yet, and the source on it.
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new(ApiState::default()));
        let of_server = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, of_server.clone()));
            }
        });
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(Config::new(address.parse().unwrap())).unwrap();
        let (sender, receiver) = source::channel();
        tokio::spawn(Kubernetes::new(client, "node1").run(sender));
        Self { state, receiver }
    }

    fn set(&self, kind: usize, change: impl FnOnce(&mut KindState)) {
        self.state
            .send_modify(|state| change(&mut state.kinds[kind]));
    }

    fn list(&self, kind: usize, objects: Vec<Value>) {
        self.set(kind, |state| state.list = Some(objects));
    }

    fn send(&self, kind: usize, event: &str, object: Value) {
        let event = json!({"type": event, "object": object});
        self.set(kind, |state| state.events.push(event));
    }

    async fn expect(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let wanted = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_deref().is_some_and(&condition);
        let found = timeout(DEADLINE, self.receiver.wait_for(wanted)).await;
        let found = found.map(|snapshot| snapshot.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("still {:?}", self.receiver.borrow()))
    }

    async fn expect_services(&mut self, names: &[&str]) -> Arc<Snapshot> {
        self.expect(|snapshot| {
            let services = snapshot.model.services.keys();
            services
                .map(|name| name.name.as_str())
                .eq(names.iter().copied())
        })
        .await
    }
}

/// Answers one request and closes the connection.
async fn serve(stream: TcpStream, state: Arc<watch::Sender<ApiState>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let url = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = url.split('?').next().unwrap_or_default();
    let kind = KINDS.iter().position(|kind| path.ends_with(kind)).unwrap();
    state.send_modify(|state| state.requests.push(url.clone()));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    let version = url.split("resourceVersion=").nth(1);
    let version = version.and_then(|rest| rest.split('&').next()?.parse().ok());
    if url.contains("watch=true") {
        stream.write_all(head.as_bytes()).await?;
        serve_watch(stream, kind, version.unwrap_or(0), state.subscribe()).await
    } else {
        let body = list(kind, state.subscribe()).await;
        stream.write_all(format!("{head}{body}").as_bytes()).await
    }
}

async fn list(kind: usize, mut state: watch::Receiver<ApiState>) -> Value {
    let state = state
        .wait_for(|state| state.kinds[kind].list.is_some())
        .await
        .unwrap();
    let KindState { list, events, .. } = &state.kinds[kind];
    json!({"metadata": {"resourceVersion": events.len().to_string()}, "items": list})
}

async fn serve_watch(
    mut stream: BufReader<TcpStream>,
    kind: usize,
    mut position: usize,
    mut state: watch::Receiver<ApiState>,
) -> std::io::Result<()> {
    loop {
        let (lines, is_gone) = {
            let state = state.borrow_and_update();
            let kind = &state.kinds[kind];
            let is_gone = position < kind.oldest;
            let lines: String = kind.events[position..]
                .iter()
                .map(|e| format!("{e}\n"))
                .collect();
            position = kind.events.len();
            (lines, is_gone)
        };
        if is_gone {
            let status = json!({"kind": "Status", "status": "Failure", "code": 410,
                "reason": "Expired", "message": "too old resource version"});
            let event = json!({"type": "ERROR", "object": status});
            return stream.write_all(format!("{event}\n").as_bytes()).await;
        }
        stream.write_all(lines.as_bytes()).await?;
        stream.flush().await?;
        if state.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn service(name: &str, version: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

fn slice(service: &str) -> Value {
    json!({
        "metadata": {"name": "slice", "namespace": "default", "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node1"}],
    })
}

fn node() -> Value {
    json!({"metadata": {"name": "node1", "resourceVersion": "1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.88.0.2"}]}})
}

const SERVICES: usize = 0;
const SLICES: usize = 1;
const NODES: usize = 2;

#[tokio::test]
async fn s11_nothing_is_published_before_all_lists_are_in() {
    let mut api = Api::start().await;
    api.list(SERVICES, vec![service("a", "1")]);
    api.list(SLICES, vec![slice("a")]);
    // The watch that follows a list shows that the list has been taken in.
    let mut state = api.state.subscribe();
    let watches = |state: &ApiState| {
        let watches = state
            .requests
            .iter()
            .filter(|url| url.contains("watch=true"));
        watches.count() == 2
    };
    timeout(DEADLINE, state.wait_for(watches))
        .await
        .unwrap()
        .unwrap();
    assert!(
        timeout(QUIET, api.receiver.changed()).await.is_err(),
        "the node is missing"
    );
    api.list(NODES, vec![node()]);
    let snapshot = api.expect_services(&["a"]).await;
    assert_eq!(snapshot.model.slices.len(), 1);
    assert_eq!(snapshot.model.node.as_ref().unwrap().internal_ips.len(), 1);
}

async fn synced(services: &[&str]) -> Api {
    let mut api = Api::start().await;
    api.list(NODES, vec![node()]);
    api.list(SLICES, vec![slice("a")]);
    api.list(
        SERVICES,
        services.iter().map(|name| service(name, "1")).collect(),
    );
    api.expect_services(services).await;
    api
}

#[tokio::test]
async fn events_become_models() {
    let mut api = synced(&["a"]).await;
    api.send(SERVICES, "ADDED", service("b", "1"));
    api.expect_services(&["a", "b"]).await;
    api.send(SERVICES, "DELETED", service("a", "2"));
    api.expect_services(&["b"]).await;
    api.send(SLICES, "DELETED", slice("a"));
    api.expect(|snapshot| snapshot.model.slices.is_empty())
        .await;
}

#[tokio::test]
async fn a_deletion_that_was_missed_is_noticed_by_the_next_list() {
    let mut api = synced(&["a", "b"]).await;
    api.set(SERVICES, |state| {
        // The event happened, and is not in the history any more.
        state.events.push(Value::Null);
        state.oldest = state.events.len();
        state.list = Some(vec![service("b", "1")]);
    });
    let snapshot = api.expect_services(&["b"]).await;
    assert_eq!(snapshot.model.slices.len(), 1, "the other watches went on");
}

#[tokio::test]
async fn a_hostile_object_costs_neither_list_nor_watch() {
    let mut api = Api::start().await;
    api.list(NODES, vec![node()]);
    api.list(
        SLICES,
        vec![
            json!({"metadata": {"name": 1}, "endpoints": "x"}),
            slice("a"),
        ],
    );
    let hostile = json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": {"ports": 7}});
    api.list(
        SERVICES,
        vec![json!(null), json!([1]), service("a", "1"), hostile.clone()],
    );
    let snapshot = api.expect(|s| s.model.services.len() >= 2).await;
    assert!(
        snapshot
            .rejections
            .iter()
            .any(|r| r.object == "Service x" && r.field == "spec.ports")
    );
    api.send(
        SERVICES,
        "MODIFIED",
        json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": []}),
    );
    api.send(SERVICES, "ADDED", service("b", "2"));
    let has_b = |s: &Snapshot| s.model.services.keys().any(|name| name.name == "b");
    api.expect(has_b).await;
}

#[tokio::test]
async fn what_is_equal_is_not_published_again() {
    let mut api = synced(&["a"]).await;
    api.receiver.mark_unchanged();
    api.send(SERVICES, "MODIFIED", service("a", "1"));
    assert!(timeout(QUIET, api.receiver.changed()).await.is_err());
    api.send(SERVICES, "ADDED", service("b", "2"));
    api.expect_services(&["a", "b"]).await;
}

#[tokio::test]
async fn the_selectors_are_those_of_a_proxy() {
    let api = synced(&["a"]).await;
    let requests = api.state.borrow().requests.clone();
    for (path, selectors) in [
        (
            "/api/v1/services?",
            &[
                "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
                "fieldSelector=spec.clusterIP%21%3DNone",
            ][..],
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices?",
            &["labelSelector=%21service.kubernetes.io%2Fheadless"],
        ),
        ("/api/v1/nodes?", &["fieldSelector=metadata.name%3Dnode1"]),
    ] {
        let mut of_kind = requests
            .iter()
            .filter(|url| url.starts_with(path))
            .peekable();
        assert!(of_kind.peek().is_some(), "{path}: {requests:?}");
        assert!(
            of_kind.all(|url| selectors.iter().all(|s| url.contains(s))),
            "{requests:?}"
        );
    }
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_is_named() {
    let error = Kubernetes::connect(Some(Path::new("/nonexistent/kubeconfig")), "node1").await;
    let error = error.err().unwrap();
    assert_eq!(error.to_string(), "read kubeconfig /nonexistent/kubeconfig");
}
