use std::io::Write as _;

use tokio::net::TcpListener;

use super::{
    api::{Api, Fault, SERVICES, Server},
    service, times,
};
use crate::source::{
    self,
    kubernetes::{Connection, Kubernetes},
};

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn the_next_api_server_is_tried_if_one_cannot_be_reached() {
    let server = Server::start().await;
    let servers = vec![nobody().await, nobody().await, server.address.clone()];
    let mut api = Api::of(server, servers, "node1").await;
    api.server.list_all(&["a"]);
    api.expect_services(&["a"]).await;
}

#[tokio::test]
async fn the_next_api_server_is_tried_if_one_only_answers_by_errors() {
    let broken = Server::start().await;
    for kind in 0..4 {
        broken.plan(kind, |_, _| Some(Fault::Status(503)));
    }
    let server = Server::start().await;
    let servers = vec![broken.address.clone(), server.address.clone()];
    let mut api = Api::of(server, servers, "node1").await;
    api.server.list_all(&["a"]);
    api.expect_services(&["a"]).await;
}

#[tokio::test]
async fn watches_move_to_another_api_server_without_a_gap() {
    let (one, two) = (Server::start().await, Server::start().await);
    let servers = vec![one.address.clone(), two.address.clone()];
    one.list_all(&["a"]);
    let mut api = Api::of(one, servers, "node1").await;
    api.expect_services(&["a"]).await;
    for kind in 0..4 {
        api.server.plan(kind, |_, _| Some(Fault::Status(500)));
    }
    two.list_all(&["a"]);
    two.expect(|state| !state.requests.is_empty()).await;
    two.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
}

/// A source by a kubeconfig whose server is nowhere.
async fn by_kubeconfig(user: &str, servers: Vec<String>) -> (Kubernetes, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: {}}}}}]
users: [{{name: u, user: {user}}}]
",
        nobody().await
    );
    file.write_all(text.as_bytes()).unwrap();
    let connection = Connection {
        kubeconfig: Some(file.path().to_owned()),
        servers,
    };
    let source = Kubernetes::connect(&connection, "node1", times()).await;
    (source.unwrap(), file)
}

#[tokio::test]
async fn other_addresses_keep_the_credentials_of_the_kubeconfig() {
    let server = Server::start().await;
    server.list_all(&["a"]);
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(b"of-a-file").unwrap();
    for (user, expected) in [
        ("{token: secret}".to_owned(), "Bearer secret"),
        // As in a pod, where the file is renewed.
        (
            format!("{{tokenFile: {}}}", token.path().display()),
            "Bearer of-a-file",
        ),
    ] {
        let (source, _file) = by_kubeconfig(&user, vec![server.address.clone()]).await;
        let (sender, mut receiver) = source::channel();
        let running = tokio::spawn(source.run(sender));
        receiver.wait_for(Option::is_some).await.unwrap();
        assert_eq!(
            server.state.borrow().authorization.as_deref(),
            Some(expected)
        );
        running.abort();
    }
}
