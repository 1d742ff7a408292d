//! An API server, reduced to lists and watches of four kinds, and to the events that it is told.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::super::*;
use super::{DEADLINE, times};
use crate::source::{self, Receiver, Snapshot};

/// The kinds, as they stand in paths.
const KINDS: [&str; 4] = ["services", "endpointslices", "nodes", "servicecidrs"];

pub(super) const SERVICES: usize = 0;
pub(super) const SLICES: usize = 1;
pub(super) const NODES: usize = 2;
pub(super) const CIDRS: usize = 3;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";

/// What a request for a kind wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A list as a watch.
    Stream,
    /// A page of a list.
    Page,
    /// A watch.
    Watch,
}

/// What a request gets in place of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// A status code.
    Status(u16),
    /// Nothing, for ever.
    Hang,
    /// The objects of the list, and nothing after them.
    NoEnd,
    /// The objects of the list, and the end of the connection.
    Cut,
    /// An error within the watch, with this code.
    InStream(u16),
    /// Half of an event, and the end of the connection.
    Garbage,
    /// The beginning of a watch, and the end of the connection.
    Empty,
    /// Of two events, nonsense in place of the first.
    Nonsense,
}

/// What goes wrong, by what is wanted, and how often the same was wanted of the kind before.
pub(super) type Plan = fn(What, usize) -> Option<Fault>;

/// The server, and a source that watches it.
pub(super) struct Api {
    pub(super) server: Server,
    pub(super) receiver: Receiver,
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) state: Arc<watch::Sender<State>>,
    pub(super) address: String,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) kinds: [KindState; 4],
    /// Requests for lists and watches.
    pub(super) requests: Vec<(What, String)>,
    /// Method, path and body of other requests.
    pub(super) written: Vec<(String, String, Value)>,
    /// Value of the last `Authorization` header.
    pub(super) authorization: Option<String>,
    /// Status code of the answers to `written`.
    pub(super) write_status: u16,
}

#[derive(Default)]
pub(super) struct KindState {
    /// `None` leaves a list waiting.
    pub(super) list: Option<Vec<Value>>,
    /// Events since the beginning; an event's index plus one is its resource version.
    pub(super) events: Vec<Value>,
    /// Watches from before this version get `410 Gone`.
    pub(super) oldest: usize,
    pub(super) plan: Option<Plan>,
    /// Numbers of requests so far.
    counts: [usize; 3],
}

impl Server {
    /// Starts a server that answers no list yet.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new(State {
            write_status: 201,
            ..State::default()
        }));
        let of_server = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, of_server.clone()));
            }
        });
        Self { state, address }
    }

    pub(super) fn set(&self, kind: usize, change: impl FnOnce(&mut KindState)) {
        self.state
            .send_modify(|state| change(&mut state.kinds[kind]));
    }

    pub(super) fn plan(&self, kind: usize, plan: Plan) {
        self.set(kind, |state| state.plan = Some(plan));
    }

    pub(super) fn list(&self, kind: usize, objects: Vec<Value>) {
        self.set(kind, |state| state.list = Some(objects));
    }

    /// Sends an event, with the version that it has.
    pub(super) fn send(&self, kind: usize, event: &str, mut object: Value) {
        self.set(kind, |state| {
            if object.get("metadata").is_some_and(Value::is_object) {
                let version = state.events.len() + 1;
                object["metadata"]["resourceVersion"] = version.to_string().into();
            }
            state.events.push(json!({"type": event, "object": object}));
        });
    }

    /// Sends an event once more, as it was.
    pub(super) fn repeat(&self, kind: usize, index: usize) {
        self.set(kind, |state| state.events.push(state.events[index].clone()));
    }

    /// Lists that every cluster has.
    pub(super) fn list_all(&self, services: &[&str]) {
        self.list(NODES, vec![super::node("a")]);
        self.list(SLICES, vec![super::slice("a")]);
        self.list(CIDRS, vec![super::cidr("10.96.0.0/16")]);
        let services = services.iter().map(|name| super::service(name));
        self.list(SERVICES, services.collect());
    }

    /// Waits until the state is as wanted.
    pub(super) async fn expect(&self, wanted: impl Fn(&State) -> bool) {
        let mut state = self.state.subscribe();
        let found = timeout(DEADLINE, state.wait_for(wanted)).await;
        assert!(found.is_ok(), "{:?}", self.state.borrow().requests);
    }

    /// The requests for a kind so far.
    pub(super) fn requests(&self, kind: usize) -> Vec<(What, String)> {
        let state = self.state.borrow();
        let requests = state.requests.iter();
        let of_kind = requests.filter(|(_, url)| kind_of(url) == Some(kind));
        of_kind.cloned().collect()
    }

    pub(super) fn whats(&self, kind: usize) -> Vec<What> {
        let requests = self.requests(kind).into_iter();
        requests.map(|(what, _)| what).collect()
    }
}

impl Api {
    /// Starts a server that answers no list yet, and the source on it.
    pub(super) async fn start() -> Self {
        Self::start_as("node1").await
    }

    pub(super) async fn start_as(role: impl Into<Role>) -> Self {
        let server = Server::start().await;
        Self::of(server.clone(), vec![server.address], role).await
    }

    /// Starts a source that is given `servers`.
    pub(super) async fn of(server: Server, servers: Vec<String>, role: impl Into<Role>) -> Self {
        let connection = Connection {
            kubeconfig: None,
            servers,
        };
        let source = Kubernetes::connect(&connection, role, times()).await;
        let (sender, receiver) = source::channel();
        tokio::spawn(source.unwrap().run(sender));
        Self { server, receiver }
    }

    /// A source that has seen these Services.
    pub(super) async fn synced(services: &[&str]) -> Self {
        let mut api = Self::start().await;
        api.server.list_all(services);
        api.expect_services(services).await;
        api
    }

    pub(super) async fn expect(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let wanted = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_deref().is_some_and(&condition);
        let found = timeout(DEADLINE, self.receiver.wait_for(wanted)).await;
        let found = found.map(|snapshot| snapshot.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| {
            let requests = &self.server.state.borrow().requests;
            panic!("still {:?}\n{requests:#?}", self.receiver.borrow())
        })
    }

    pub(super) async fn expect_services(&mut self, names: &[&str]) -> Arc<Snapshot> {
        self.expect(|snapshot| services_of(snapshot).eq(names.iter().copied()))
            .await
    }
}

pub(super) fn services_of(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let services = snapshot.model.services.keys();
    services.map(|name| name.name.as_str())
}

fn kind_of(url: &str) -> Option<usize> {
    let path = url.split('?').next().unwrap_or_default();
    KINDS.iter().position(|kind| path.ends_with(kind))
}

struct Request {
    method: String,
    url: String,
    authorization: Option<String>,
    body: Value,
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Request> {
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, url) = (words.next().unwrap(), words.next().unwrap_or_default());
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Request {
        method,
        url,
        authorization,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

/// Answers one request and closes the connection.
async fn serve(stream: TcpStream, state: Arc<watch::Sender<State>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read_request(&mut stream).await?;
    let url = request.url;
    let Some(kind) = kind_of(&url).filter(|_| request.method == "GET") else {
        let status = state.borrow().write_status;
        let answer = if status < 400 {
            format!("{}{}", answer_head(status), request.body)
        } else {
            format!("{}{}", answer_head(status), failure(status))
        };
        let written = (request.method, url, request.body);
        state.send_modify(|state| state.written.push(written));
        return stream.write_all(answer.as_bytes()).await;
    };
    let what = if url.contains("sendInitialEvents=true") {
        What::Stream
    } else if url.contains("watch=true") {
        What::Watch
    } else {
        What::Page
    };
    let mut fault = None;
    state.send_modify(|state| {
        state.authorization = request.authorization;
        state.requests.push((what, url.clone()));
        let kind = &mut state.kinds[kind];
        let count = &mut kind.counts[what as usize];
        fault = kind.plan.and_then(|plan| plan(what, *count));
        *count += 1;
    });
    let state = state.subscribe();
    if let Some(fault) = fault {
        return serve_fault(stream, kind, fault, state).await;
    }
    let version = url.split("resourceVersion=").nth(1);
    let version = version.and_then(|rest| rest.split('&').next()?.parse().ok());
    match what {
        What::Page => {
            let (items, version) = list(kind, state).await;
            let list =
                json!({"metadata": {"resourceVersion": version.to_string()}, "items": items});
            stream.write_all(format!("{HEAD}{list}").as_bytes()).await
        }
        What::Stream => {
            let (items, version) = list(kind, state.clone()).await;
            let bookmark = json!({"type": "BOOKMARK", "object": {
                "kind": "x", "apiVersion": "v1",
                "metadata": {"resourceVersion": version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"}}}});
            let head = format!("{HEAD}{}{bookmark}\n", added(&items));
            stream.write_all(head.as_bytes()).await?;
            serve_watch(stream, kind, version, state).await
        }
        What::Watch => {
            stream.write_all(HEAD.as_bytes()).await?;
            serve_watch(stream, kind, version.unwrap_or(0), state).await
        }
    }
}

fn answer_head(status: u16) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
}

fn failure(status: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
        "reason": "Planned", "message": "as planned"})
}

fn added(items: &[Value]) -> String {
    let items = items.iter();
    items
        .map(|item| format!("{}\n", json!({"type": "ADDED", "object": item})))
        .collect()
}

async fn serve_fault(
    mut stream: BufReader<TcpStream>,
    kind: usize,
    fault: Fault,
    state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let answer = match fault {
        Fault::Status(status) => format!("{}{}", answer_head(status), failure(status)),
        Fault::Hang => String::new(),
        Fault::NoEnd | Fault::Cut => {
            let (items, _) = list(kind, state).await;
            format!("{HEAD}{}", added(&items))
        }
        Fault::InStream(status) => {
            let event = json!({"type": "ERROR", "object": failure(status)});
            format!("{HEAD}{event}\n")
        }
        Fault::Garbage => format!("{HEAD}{{\"type\":\"ADDED\",\"object\":[\n"),
        Fault::Empty => HEAD.to_owned(),
        Fault::Nonsense => {
            let mut state = state;
            let before = state.borrow().kinds[kind].events.len();
            let wanted = state.wait_for(|state| state.kinds[kind].events.len() == before + 2);
            let second = wanted.await.unwrap().kinds[kind].events[before + 1].clone();
            format!("{HEAD}nonsense\n{second}\n")
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    if matches!(fault, Fault::Hang | Fault::NoEnd | Fault::Nonsense) {
        // Until the client has had enough.
        stream.read_u8().await?;
    }
    Ok(())
}

async fn list(kind: usize, mut state: watch::Receiver<State>) -> (Vec<Value>, usize) {
    let wanted = state.wait_for(|state| state.kinds[kind].list.is_some());
    let state = wanted.await.unwrap();
    let KindState { list, events, .. } = &state.kinds[kind];
    (list.clone().unwrap_or_default(), events.len())
}

async fn serve_watch(
    mut stream: BufReader<TcpStream>,
    kind: usize,
    mut position: usize,
    mut state: watch::Receiver<State>,
) -> std::io::Result<()> {
    loop {
        let (lines, is_gone) = {
            let state = state.borrow_and_update();
            let kind = &state.kinds[kind];
            let is_gone = position < kind.oldest;
            let events = kind.events[position..].iter();
            let lines: String = events.map(|event| format!("{event}\n")).collect();
            position = kind.events.len();
            (lines, is_gone)
        };
        if is_gone {
            let event = json!({"type": "ERROR", "object": failure(410)});
            return stream.write_all(format!("{event}\n").as_bytes()).await;
        }
        stream.write_all(lines.as_bytes()).await?;
        stream.flush().await?;
        if state.changed().await.is_err() {
            return Ok(());
        }
    }
}
