//! The stand-in of an API server, seen by its clients: the kube client, kubectl, and plain HTTP.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_tests::apiserver::{ApiServer, Behaviour};
use serde_json::{Value, json};

mod chaos;
mod deployments;
mod faults;
mod kubectl;
mod lists;
mod plain;
mod raw;
mod recorded;
mod sockets;
mod watches;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client that finds the server as users do.
async fn client(server: &ApiServer) -> Client {
    // A second installation fails and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// A server whose bookmarks come fast, with nothing in it.
fn server() -> ApiServer {
    ApiServer::builder()
        .bare()
        .behaviour(hasty())
        .start()
        .unwrap()
}

fn hasty() -> Behaviour {
    Behaviour {
        bookmark_interval: Duration::from_millis(20),
        ..Behaviour::default()
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}]},
    })
}
