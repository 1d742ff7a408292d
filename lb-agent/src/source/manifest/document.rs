//! Documents to objects.

use std::fmt;

use ipnet::IpNet;
use serde_json::Value;
use tracing::debug;

use super::parse::Document;
use crate::{
    model::{self, ObjectName, ServiceKind, Slice},
    source::{
        Rejection, Role,
        lenient::Lenient,
        objects::{
            EndpointSlice, Endpoints, Fields, HEADLESS, Metadata, Node, Object, OwnedSlice, Pod,
            PodEndpoint, SERVICE_PROXY_NAME, Selection, Service, ServiceCidr,
        },
    },
};

/// Where in a file an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the document, from 1.
    pub(super) document: usize,
    /// Line on which the document starts, from 1.
    pub(super) line: u64,
    /// Index in the List that the document is.
    pub(super) item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {} (line {})", self.document, self.line)?;
        match self.item {
            Some(item) => write!(f, ", items[{item}]"),
            None => Ok(()),
        }
    }
}

/// An object as far as it could be understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parsed {
    /// Where it stands.
    pub(super) place: Place,
    /// Kind and name; objects of one identity are one object.
    pub(super) identity: (&'static str, ObjectName),
    /// What it says; `None` if it is not for us or useless.
    pub(super) item: Option<Item>,
    /// What is wrong with it.
    pub(super) rejections: Vec<Rejection>,
    /// `item` is what it said before something was wrong with it.
    pub(super) is_kept: bool,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// A Service, and what it asks of its pods.
    Service(model::Service, Option<Selection>),
    /// An EndpointSlice.
    Slice(OwnedSlice),
    /// The slices that an Endpoints object amounts to.
    Endpoints(Vec<(String, Slice)>),
    /// A Pod.
    Pod(PodEndpoint),
    /// A Node.
    Node(model::Node),
    /// The networks of a ServiceCIDR.
    ServiceCidr(Vec<IpNet>),
}

/// Reads the objects of a document: one, or those of a List.
pub(super) fn objects(document: Document, role: &Role) -> Vec<Parsed> {
    let Document {
        number,
        line,
        mut value,
    } = document;
    let place = |item| Place {
        document: number,
        line,
        item,
    };
    let list_of = text(&value, "kind").and_then(|kind| kind.strip_suffix("List"));
    let list_of = list_of.map(str::to_owned);
    match (list_of, value.get_mut("items").map(Value::take)) {
        (Some(kind), Some(Value::Array(items))) => items
            .into_iter()
            .enumerate()
            // The items of a typed list do not repeat their kind.
            .filter_map(|(index, item)| object(item, Some(&kind), place(Some(index)), role))
            .collect(),
        _ => object(value, None, place(None), role).into_iter().collect(),
    }
}

/// Reads one object; `None` if it is of a kind that is not read.
fn object(value: Value, default_kind: Option<&str>, place: Place, role: &Role) -> Option<Parsed> {
    let kind = text(&value, "kind").or(default_kind.filter(|kind| !kind.is_empty()));
    let Some(kind) = kind.map(str::to_owned) else {
        return Some(unknown(
            place,
            "kind",
            "is missing: this is no Kubernetes object",
        ));
    };
    let api = text(&value, "apiVersion").unwrap_or_default();
    let group = api.split_once('/').map_or("", |(group, _)| group);
    match (kind.as_str(), group) {
        ("Service", "") => Some(read(value, place, |object, fields| {
            service(object, role, fields)
        })),
        ("Endpoints", "") => Some(read(value, place, endpoints)),
        ("Pod", "") => Some(read(value, place, pod)),
        ("Node", "") => Some(read(value, place, node)),
        ("EndpointSlice", "" | "discovery.k8s.io") => Some(read(value, place, slice)),
        ("ServiceCIDR", "" | "networking.k8s.io") => Some(read(value, place, service_cidr)),
        _ => {
            debug!("{place}: objects of kind {kind} ({api}) are not read");
            None
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

fn unknown(place: Place, field: &str, reason: &str) -> Parsed {
    let mut fields = Fields::new("object", Metadata::default().object_name());
    fields.reject(field, reason);
    Parsed {
        place,
        identity: ("", fields.name().clone()),
        item: None,
        rejections: fields.into_rejections(),
        is_kept: false,
    }
}

/// Reads an object as an `O` and lets `convert` make an item of it.
fn read<O: Object>(
    value: Value,
    place: Place,
    convert: impl FnOnce(O, &mut Fields) -> Option<Item>,
) -> Parsed {
    // Slim types do not fail on any object; `unknown` is for what is none.
    let Ok(object) = serde_json::from_value::<O>(value) else {
        return unknown(place, "", "is not an object");
    };
    let metadata = object.metadata().valid().cloned().unwrap_or_default();
    let name = metadata.object_name();
    let name = if [Node::KIND, ServiceCidr::KIND].contains(&O::KIND) {
        ObjectName::new("", name.name.clone())
    } else if name.namespace.is_empty() {
        ObjectName::new("default", name.name.clone())
    } else {
        name
    };
    let mut fields = Fields::new(O::KIND, name.clone());
    let is_readable = check_metadata(object.metadata(), &metadata, &mut fields);
    Parsed {
        place,
        identity: (O::KIND, name),
        item: is_readable.then(|| convert(object, &mut fields)).flatten(),
        rejections: fields.into_rejections(),
        is_kept: false,
    }
}

/// Whether the metadata can be read; labels decide whether an object is for us at all.
fn check_metadata(given: &Lenient<Metadata>, metadata: &Metadata, fields: &mut Fields) -> bool {
    let Metadata {
        name,
        namespace,
        resource_version: _,
        uid: _,
        labels,
        annotations: _,
        deletion_timestamp: _,
    } = metadata;
    let is_map = fields.read("metadata", given).is_some() || !given.is_present();
    let namespace_fits =
        fields.read("metadata.namespace", namespace).is_some() || !namespace.is_present();
    let labels_fit = match fields.read("metadata.labels", labels) {
        None => !labels.is_present(),
        Some(labels) => labels.iter().fold(true, |fit, (key, value)| {
            fields
                .read(format_args!("metadata.labels.{key}"), value)
                .is_some()
                && fit
        }),
    };
    if is_map && !matches!(name, Lenient::Invalid(_)) && fields.name().name.is_empty() {
        fields.reject("metadata.name", "is missing");
    }
    let has_name = fields
        .read("metadata.name", name)
        .is_some_and(|name| !name.is_empty());
    is_map && namespace_fits && labels_fit && has_name
}

fn service(object: Service, role: &Role, fields: &mut Fields) -> Option<Item> {
    let metadata = object.metadata().valid()?;
    let is_ours = match &role.proxy_name {
        None => !metadata.has_label(SERVICE_PROXY_NAME),
        Some(name) => metadata.label(SERVICE_PROXY_NAME) == Some(name),
    };
    if !is_ours {
        return None;
    }
    let service = object.convert(fields)?;
    let selection = object.selection(fields);
    let needs_address = service.kind != ServiceKind::ExternalName && !object.is_headless();
    if needs_address && service.cluster_ips.is_empty() {
        fields.reject(
            "spec.clusterIP",
            "is missing: nothing allocates addresses for manifests; say one, or `None`",
        );
        return None;
    }
    if service.kind == ServiceKind::NodePort {
        for (i, _) in service
            .ports
            .iter()
            .enumerate()
            .filter(|(_, p)| p.node_port == 0)
        {
            fields.reject(
                format_args!("spec.ports[{i}].nodePort"),
                "is missing: nothing allocates node ports for manifests; say one",
            );
        }
    }
    Some(Item::Service(service, selection))
}

fn slice(mut object: EndpointSlice, fields: &mut Fields) -> Option<Item> {
    if object.metadata().valid()?.has_label(HEADLESS) {
        return None;
    }
    object.set_defaults();
    object.convert(fields).map(Item::Slice)
}

fn endpoints(mut object: Endpoints, fields: &mut Fields) -> Option<Item> {
    if object.metadata().valid()?.has_label(HEADLESS) {
        return None;
    }
    object.set_defaults();
    object.convert(fields).map(Item::Endpoints)
}

fn pod(object: Pod, fields: &mut Fields) -> Option<Item> {
    object.convert(fields).map(Item::Pod)
}

fn node(object: Node, fields: &mut Fields) -> Option<Item> {
    object.convert(fields).map(Item::Node)
}

fn service_cidr(object: ServiceCidr, fields: &mut Fields) -> Option<Item> {
    object.convert(fields).map(Item::ServiceCidr)
}
