//! Deployments: `kubectl scale` has a meaning if somebody runs the pods.

use std::net::IpAddr;

use anyhow::Result;
use lb_tests::apiserver::store::Kind;
use lb_tests::apiserver::store::object::{items, number};
use lb_tests::apiserver::{ApiServer, Behaviour, Kubelet, Running};
use serde_json::{Value, json};

use super::DEADLINE;

/// Gives each pod the next address.
#[derive(Default)]
struct Counting(u8);

impl Kubelet for Counting {
    fn start(&mut self, _: &Value) -> Result<Running> {
        self.0 += 1;
        Ok(Running {
            node: "node1".to_owned(),
            addresses: vec![IpAddr::from([10, 244, 1, self.0])],
        })
    }

    fn stop(&mut self, _: &Value) {}
}

fn server() -> ApiServer {
    let server = ApiServer::builder()
        .behaviour(Behaviour {
            pod_removal: None,
            ..Behaviour::default()
        })
        .start()
        .unwrap();
    let labels = json!({"app": "alpaca"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}]}});
    server
        .apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "alpaca"},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
        }))
        .unwrap();
    server
        .apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alpaca"},
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        }))
        .unwrap();
    server
}

fn endpoints(server: &ApiServer) -> usize {
    let slices = server.list(Kind::EndpointSlice);
    slices
        .iter()
        .map(|slice| items(slice, "/endpoints").len())
        .sum()
}

fn ready(server: &ApiServer) -> u64 {
    let deployment = server.get(Kind::Deployment, "default", "alpaca").unwrap();
    number(&deployment, "/status/readyReplicas")
}

#[test]
fn a_deployment_has_as_many_pods_as_it_says() {
    let server = server();
    assert_eq!(server.list(Kind::Pod).len(), 3);
    assert_eq!(endpoints(&server), 0);
    let _kubelet = server.employ(Counting::default()).unwrap();
    wait_until(&server, "three pods are ready", || {
        ready(&server) == 3 && endpoints(&server) == 3
    });
    let scale = |replicas: u64| {
        let patch = json!({"spec": {"replicas": replicas}});
        server
            .patch(Kind::Deployment, "default", "alpaca", &patch)
            .unwrap();
    };
    scale(5);
    wait_until(&server, "five pods are ready", || endpoints(&server) == 5);
    scale(1);
    wait_until(&server, "one pod is left", || {
        server.list(Kind::Pod).len() == 1 && endpoints(&server) == 1
    });
    server
        .delete(Kind::Deployment, "default", "alpaca")
        .unwrap();
    wait_until(&server, "no pod is left", || {
        server.list(Kind::Pod).is_empty()
    });
}

#[test]
fn a_new_template_replaces_the_pods_and_a_deleted_pod_is_replaced() {
    let server = server();
    let _kubelet = server.employ(Counting::default()).unwrap();
    wait_until(&server, "three pods are ready", || ready(&server) == 3);
    let names = || -> Vec<_> {
        let pods = server.list(Kind::Pod);
        pods.iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = names();
    server.delete(Kind::Pod, "default", &before[0]).unwrap();
    wait_until(&server, "another pod is there", || {
        ready(&server) == 3 && !names().contains(&before[0])
    });
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}});
    server
        .patch(Kind::Deployment, "default", "alpaca", &patch)
        .unwrap();
    wait_until(&server, "all pods are others", || {
        ready(&server) == 3
            && names().len() == 3
            && !names().iter().any(|name| before.contains(name))
    });
}

#[track_caller]
fn wait_until(server: &ApiServer, what: &str, condition: impl FnMut() -> bool) {
    assert!(
        server.wait_until(DEADLINE, condition),
        "{what}: not in time"
    );
}
