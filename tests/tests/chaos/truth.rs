//! The model that a cluster amounts to, without watching it.

use std::sync::Arc;

use lb_agent::{
    model::{Model, ObjectName},
    source::objects::{
        EndpointSlice, Fields, HEADLESS, Node, Object, SERVICE_PROXY_NAME, Service, ServiceCidr,
    },
};
use lb_tests::apiserver::{ApiServer, store::Kind};
use serde_json::Value;

use crate::world::NODE;

/// What the server's objects say to the proxy of [`NODE`].
pub(crate) fn model(server: &ApiServer) -> Model {
    let mut model = Model::default();
    server.read(|store| {
        for (_, object) in store.objects(Kind::Service) {
            let is_headless = object["spec"]["clusterIP"] == "None";
            if is_headless || has_label(object, SERVICE_PROXY_NAME) {
                continue;
            }
            if let Some(service) = convert::<Service>(object) {
                model.services.insert(name(object), Arc::new(service));
            }
        }
        for (_, object) in store.objects(Kind::EndpointSlice) {
            if has_label(object, HEADLESS) {
                continue;
            }
            if let Some(owned) = convert::<EndpointSlice>(object) {
                let slices = model.slices.entry(owned.service).or_default();
                slices.insert(name(object).name.clone(), owned.slice);
            }
        }
        for (_, object) in store.objects(Kind::Node) {
            if object["metadata"]["name"] == NODE {
                model.node = convert::<Node>(object).map(Arc::new);
            }
        }
        for (_, object) in store.objects(Kind::ServiceCidr) {
            let nets = convert::<ServiceCidr>(object).unwrap_or_default();
            model.service_cidrs.extend(nets);
        }
    });
    model
}

fn has_label(object: &Value, key: &str) -> bool {
    object["metadata"]["labels"].get(key).is_some()
}

fn name(object: &Value) -> ObjectName {
    let text = |field: &str| {
        let text = object["metadata"][field].as_str();
        text.unwrap_or_default().to_owned()
    };
    ObjectName::new(text("namespace"), text("name"))
}

fn convert<O: Object>(object: &Value) -> Option<O::Model> {
    let slim: O = serde_json::from_value(object.clone()).ok()?;
    slim.convert(&mut Fields::new(O::KIND, name(object)))
}
