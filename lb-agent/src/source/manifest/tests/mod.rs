use std::{path::Path, sync::Arc};

use super::*;
use crate::{
    model::{Model, ObjectName},
    source::{self, Snapshot},
};

mod changes;
mod endpoints;
mod objects;
mod refused;

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
    run_once(text.to_owned(), "node1".into(), &sender).unwrap();
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
    ObjectName::new("default", name)
}

/// The endpoints of a Service: `slice port addr node flags`, a line each.
fn endpoints(model: &Model, service: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (slice_name, slice) in model
        .slices
        .get(&name(service))
        .into_iter()
        .flat_map(|slices| slices.iter())
    {
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
