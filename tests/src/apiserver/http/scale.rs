//! How many pods a Deployment is to have.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::Call;
use super::encode::bytes;
use super::objects::Answer;
use super::route::Target;
use crate::apiserver::faults::Verb;
use crate::apiserver::shared::Shared;
use crate::apiserver::store::object::number;
use crate::apiserver::store::patch::{self, PatchType};
use crate::apiserver::store::{Part, Status};

/// Reads or writes it.
pub(super) fn answer(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
    verb: Verb,
) -> Result<Answer, Status> {
    let (kind, name) = (target.resource.storage, target.object());
    let found = shared.read(|store| store.get(kind, &name).cloned());
    let mut deployment = found.ok_or_else(|| Status::not_found(kind, &name.name))?;
    if verb != Verb::Get {
        let mut wanted = scale(&deployment);
        match verb {
            Verb::Replace => wanted = call.object()?,
            _ => {
                let patch_type = PatchType::of(&call.content_type)?;
                patch::apply(kind, &mut wanted, &call.object()?, patch_type)?;
            }
        }
        let replicas = number(&wanted, "/spec/replicas");
        deployment = shared.write(|store, _| {
            store.update(kind, &name, Part::Main, |deployment| {
                deployment["spec"]["replicas"] = json!(replicas);
                Ok(())
            })
        })?;
    }
    Ok(Answer::ok(bytes(&scale(&deployment))))
}

fn scale(deployment: &Value) -> Value {
    let metadata = &deployment["metadata"];
    let labels = deployment.pointer("/spec/selector/matchLabels");
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let pairs = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number(deployment, "/spec/replicas")},
        "status": {
            "replicas": number(deployment, "/status/replicas"),
            "selector": pairs.collect::<Vec<_>>().join(","),
        },
    })
}
