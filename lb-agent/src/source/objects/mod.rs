//! Kubernetes objects, reduced to the fields that are read.
//!
//! These types never fail to deserialize (see [`lenient`](super::lenient)); what is wrong in an
//! object comes out of its conversion as a [`Rejection`].

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{
    Rejection, address,
    lenient::{Lenient, Strings},
};
use crate::model::{Cause, Names, ObjectName, Reference};

mod endpoints;
mod node;
mod pod;
mod service;
mod service_cidr;
mod shared;
mod slice;

pub use self::{
    endpoints::Endpoints,
    node::Node,
    pod::{NamedPort, Pod, PodEndpoint},
    service::{ALGORITHM, SelectedPort, Selection, Service, TargetPort},
    service_cidr::ServiceCidr,
    shared::Shared,
    slice::{EndpointSlice, OwnedSlice, TRIGGERED},
};

/// Key of the label that hands a Service over to another proxy (item 2).
pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Key of the label that takes a slice out of every proxy's sight (item 3).
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// A kind of object that a source reads.
pub trait Object: Clone + fmt::Debug + Default + DeserializeOwned + Send + 'static {
    /// Name of the kind.
    const KIND: &'static str;
    /// What it becomes.
    type Model: Clone + fmt::Debug + PartialEq + Send + Sync;

    /// The object's metadata.
    fn metadata(&self) -> &Lenient<Metadata>;

    /// The object in our own words, or `None` if it is not for us or cannot be used at all.
    ///
    /// Whatever is wrong goes into `fields`.
    fn convert(&self, fields: &mut Fields) -> Option<Self::Model>;
}

/// The part of `metadata` that is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: Lenient<String>,
    /// Namespace; absent for cluster-wide objects, and for manifests that mean `default`.
    pub namespace: Lenient<String>,
    /// Version, for the watch.
    pub resource_version: Lenient<String>,
    /// Unique id, for Events.
    pub uid: Lenient<String>,
    /// Labels.
    pub labels: Strings,
    /// The annotations that mean something to us; whatever else stands there is not kept.
    pub annotations: Lenient<Annotations>,
    /// Only its presence counts: the object is being deleted.
    pub deletion_timestamp: Lenient<IgnoredAny>,
}

/// The annotations that are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// [`ALGORITHM`], of a Service.
    #[serde(rename = "lb-agent.io/algorithm")]
    pub algorithm: Lenient<String>,
    /// [`TRIGGERED`], of an EndpointSlice.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub triggered: Lenient<String>,
}

impl Metadata {
    /// Namespace and name; what is missing is empty.
    pub fn object_name(&self) -> ObjectName {
        let text = |field: &Lenient<String>| field.valid().cloned().unwrap_or_default();
        ObjectName::new(text(&self.namespace), text(&self.name))
    }

    /// Whether there is a label of this name, whatever its value.
    pub fn has_label(&self, key: &str) -> bool {
        self.labels
            .valid()
            .is_some_and(|labels| labels.contains_key(key))
    }

    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        Some(self.labels.valid()?.get(key)?.valid()?)
    }
}

/// Gives access to the fields of one object, and collects what is wrong with them.
#[derive(Debug)]
pub struct Fields {
    object: Reference,
    /// The object whose users want to know what is wrong.
    regarding: Reference,
    rejections: Vec<Rejection>,
    shared: Shared,
}

impl Fields {
    /// Starts on an object.
    pub fn new(kind: &'static str, name: ObjectName) -> Self {
        let object = Reference::new(kind, name);
        Self {
            regarding: object.clone(),
            object,
            rejections: Vec::new(),
            shared: Shared::default(),
        }
    }

    /// Shares texts with the objects before.
    #[must_use]
    pub fn sharing(self, shared: Shared) -> Self {
        Self { shared, ..self }
    }

    /// What was rejected, and the texts to share with the next object.
    pub fn into_parts(self) -> (Vec<Rejection>, Shared) {
        (self.rejections, self.shared)
    }

    /// A text that other objects have, too.
    fn share(&mut self, text: &str) -> Arc<str> {
        self.shared.text(text)
    }

    /// A set that other objects have, too.
    fn share_set(&mut self, names: Names) -> Names {
        self.shared.set(names)
    }

    /// Says which Service suffers from what is wrong with the object.
    pub fn set_service(&mut self, service: ObjectName) {
        self.regarding = Reference::service(service);
    }

    /// What was rejected.
    pub fn into_rejections(self) -> Vec<Rejection> {
        self.rejections
    }

    /// Namespace and name of the object.
    pub fn name(&self) -> &ObjectName {
        &self.object.name
    }

    /// Rejects a field.
    pub fn reject(&mut self, field: impl fmt::Display, reason: impl Into<String>) {
        self.reject_as(Cause::InvalidObject, field, reason);
    }

    fn reject_as(&mut self, cause: Cause, field: impl fmt::Display, reason: impl Into<String>) {
        self.rejections.push(Rejection {
            object: self.object.to_string(),
            field: field.to_string(),
            reason: reason.into(),
            cause,
            regarding: Some(self.regarding.clone().into()),
        });
    }

    /// The value of a field; one that does not fit is rejected.
    pub fn read<'a, T>(
        &mut self,
        field: impl fmt::Display,
        value: &'a Lenient<T>,
    ) -> Option<&'a T> {
        if let Lenient::Invalid(reason) = value {
            self.reject(field, reason.as_str());
        }
        value.valid()
    }

    /// The valid elements of a list, each with its index.
    pub fn list<'a, T>(
        &mut self,
        field: impl fmt::Display,
        list: &'a Lenient<Vec<Lenient<T>>>,
    ) -> Vec<(usize, &'a T)> {
        let mut valid = Vec::new();
        let elements = self.read(&field, list).into_iter().flatten().enumerate();
        for (index, element) in elements {
            valid.extend(
                self.read(format_args!("{field}[{index}]"), element)
                    .map(|element| (index, element)),
            );
        }
        valid
    }

    /// A prefix.
    fn net(&mut self, field: impl fmt::Display, text: &str) -> Option<IpNet> {
        let net = address::parse_net(text);
        if net.is_none() {
            self.reject(field, format!("`{text}` is not an address prefix"));
        }
        net
    }

    /// An address.
    fn address(&mut self, field: impl fmt::Display, text: &str) -> Option<IpAddr> {
        let addr = address::parse(text);
        if addr.is_none() {
            self.reject(field, format!("`{text}` is not an IP address"));
        }
        addr
    }

    /// An address that an endpoint may have.
    fn endpoint_address(&mut self, field: impl fmt::Display, text: &str) -> Option<IpAddr> {
        let reason = match address::parse(text) {
            Some(addr) if address::may_be_endpoint(addr) => return Some(addr),
            Some(_) => format!(
                "`{text}` may not be an endpoint: it is unspecified, loopback, link-local or multicast"
            ),
            None => format!("`{text}` is not an IP address"),
        };
        self.reject_as(Cause::InvalidEndpointAddress, field, reason);
        None
    }

    /// A port from 1 to 65535.
    fn port(&mut self, field: impl fmt::Display, value: &Lenient<i64>) -> Option<u16> {
        let number = *self.read(&field, value)?;
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.reject(field, format!("{number} is not a port: use 1 to 65535"));
        }
        port
    }

    /// A protocol number; TCP if the field is absent.
    fn protocol(
        &mut self,
        field: impl fmt::Display,
        value: &Lenient<String>,
    ) -> Option<lb_common::Protocol> {
        if !value.is_present() {
            return Some(lb_common::protocol::TCP);
        }
        let name = self.read(&field, value)?;
        let protocol = match name.as_str() {
            "TCP" => lb_common::protocol::TCP,
            "UDP" => lb_common::protocol::UDP,
            "SCTP" => lb_common::protocol::SCTP,
            _ => {
                self.reject(field, format!("`{name}`: use TCP, UDP or SCTP"));
                return None;
            }
        };
        Some(protocol)
    }
}

#[cfg(test)]
pub(in crate::source) mod tests {
    use super::*;

    /// Converts an object given as YAML; returns the model and the rejections as text.
    #[track_caller]
    pub(super) fn convert<O: Object>(yaml: &str) -> (Option<O::Model>, Vec<String>) {
        let value: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
        let object: O = serde_json::from_value(value).unwrap();
        let name = object.metadata().valid().map(Metadata::object_name);
        let name = name.unwrap_or_else(|| Metadata::default().object_name());
        let mut fields = Fields::new(O::KIND, name);
        let model = object.convert(&mut fields);
        let rejections = fields.into_rejections();
        (model, rejections.iter().map(ToString::to_string).collect())
    }

    /// Converts an object in which nothing is wrong.
    #[track_caller]
    pub(super) fn convert_good<O: Object>(yaml: &str) -> O::Model {
        let (model, rejections) = convert::<O>(yaml);
        assert_eq!(rejections, [""; 0]);
        model.expect("a model")
    }
}
