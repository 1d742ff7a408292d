//! `discovery.k8s.io/v1` EndpointSlice.

use std::{fmt, sync::Arc, time::SystemTime};

use jiff::Timestamp;
use serde::Deserialize;

use super::{Fields, Metadata, Object};
use crate::{
    model::{self, Cause, Names, ObjectName, Slice, SlicePort},
    source::lenient::{Lenient, List},
};

/// Key of the label that names the Service (item 5).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Key of the annotation that says when the change was made that led to a slice (item 69).
pub const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    metadata: Lenient<Metadata>,
    address_type: Lenient<String>,
    ports: List<Port>,
    endpoints: List<Endpoint>,
}

/// A port of an EndpointSlice, or of the older Endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Port {
    name: Lenient<String>,
    protocol: Lenient<String>,
    port: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    addresses: List<String>,
    conditions: Lenient<Conditions>,
    node_name: Lenient<String>,
    hints: Lenient<Hints>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Lenient<bool>,
    serving: Lenient<bool>,
    terminating: Lenient<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hints {
    for_zones: List<Hint>,
    for_nodes: List<Hint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Hint {
    name: Lenient<String>,
}

/// A slice and the Service that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSlice {
    /// The Service.
    pub service: ObjectName,
    /// The slice.
    pub slice: Arc<Slice>,
}

impl Object for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    type Model = OwnedSlice;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    /// Slices of no Service (item 5) and of host names (item 6) are not for us.
    fn convert(&self, fields: &mut Fields) -> Option<OwnedSlice> {
        let service = ObjectName::new(fields.name().namespace.clone(), self.service_name()?);
        fields.set_service(service.clone());
        let is_ipv4 = self.is_ipv4(fields)?;
        let ports = fields.list("ports", &self.ports);
        let ports = ports
            .into_iter()
            .filter_map(|(i, port)| port.convert(&format!("ports[{i}]"), fields))
            .collect();
        let endpoints = fields.list("endpoints", &self.endpoints);
        let mut endpoints: Vec<_> = endpoints
            .into_iter()
            .filter_map(|(i, endpoint)| endpoint.convert(i, is_ipv4, fields))
            .collect();
        // There may be a million of them.
        endpoints.shrink_to_fit();
        let slice = Arc::new(Slice {
            ports,
            endpoints,
            triggered: self.triggered(),
        });
        Some(OwnedSlice { service, slice })
    }
}

impl EndpointSlice {
    /// Name of the Service that the slice belongs to.
    pub fn service_name(&self) -> Option<&str> {
        let name = self.metadata.valid()?.label(SERVICE_NAME)?;
        (!name.is_empty()).then_some(name)
    }

    /// What the annotation [`TRIGGERED`] says. Nobody is served worse for a wrong one.
    fn triggered(&self) -> Option<SystemTime> {
        let annotations = self.metadata.valid()?.annotations.valid()?;
        let time: Timestamp = annotations.triggered.valid()?.parse().ok()?;
        Some(time.into())
    }

    /// Fills in what an API server would have.
    ///
    /// A port without a name is the unnamed port in a manifest; in a watch it is none (item 7).
    pub fn set_defaults(&mut self) {
        if let Lenient::Valid(ports) = &mut self.ports {
            set_default_names(ports);
        }
    }

    /// Family of the slice; `None` if it is of neither (item 6).
    fn is_ipv4(&self, fields: &mut Fields) -> Option<bool> {
        if !self.address_type.is_present() {
            fields.reject("addressType", "is missing: use IPv4 or IPv6");
        }
        match fields.read("addressType", &self.address_type)?.as_str() {
            "IPv4" => Some(true),
            "IPv6" => Some(false),
            "FQDN" => None,
            other => {
                fields.reject("addressType", format!("`{other}`: use IPv4 or IPv6"));
                None
            }
        }
    }
}

/// Names the unnamed ports, as an API server would.
pub(super) fn set_default_names(ports: &mut [Lenient<Port>]) {
    for port in ports {
        if let Lenient::Valid(port) = port
            && !port.name.is_present()
        {
            port.name = Lenient::Valid(String::new());
        }
    }
}

impl Port {
    /// `None` for a port without a name or a number, too (item 7).
    pub(super) fn convert(&self, at: &str, fields: &mut Fields) -> Option<SlicePort> {
        if self.port == Lenient::Valid(0) {
            return None;
        }
        Some(SlicePort {
            name: fields.read(format_args!("{at}.name"), &self.name)?.clone(),
            protocol: fields.protocol(format_args!("{at}.protocol"), &self.protocol)?,
            port: fields.port(format_args!("{at}.port"), &self.port)?,
        })
    }
}

impl Endpoint {
    fn convert(&self, index: usize, is_ipv4: bool, fields: &mut Fields) -> Option<model::Endpoint> {
        let at = format!("endpoints[{index}]");
        let addresses = fields.read(format_args!("{at}.addresses"), &self.addresses)?;
        let field = format!("{at}.addresses[0]");
        let Some(first) = addresses.first() else {
            fields.reject(field, "is missing");
            return None;
        };
        let text = fields.read(&field, first)?;
        let addr = fields.endpoint_address(&field, text)?;
        if addr.is_ipv4() != is_ipv4 {
            let reason = format!("`{text}` is not of the slice's addressType");
            fields.reject_as(Cause::InvalidEndpointAddress, field, reason);
            return None;
        }
        // An endpoint whose conditions cannot be read must not get traffic by default.
        let conditions = self.conditions(&at, fields)?;
        let hints = fields.read(format_args!("{at}.hints"), &self.hints);
        let (for_zones, for_nodes) = hints.map_or_else(Default::default, |hints| {
            (
                names(
                    format_args!("{at}.hints.forZones"),
                    &hints.for_zones,
                    fields,
                ),
                names(
                    format_args!("{at}.hints.forNodes"),
                    &hints.for_nodes,
                    fields,
                ),
            )
        });
        Some(model::Endpoint {
            addr,
            ready: conditions.0,
            serving: conditions.1,
            terminating: conditions.2,
            node: fields
                .read(format_args!("{at}.nodeName"), &self.node_name)
                .map(|name| fields.share(name)),
            for_zones,
            for_nodes,
        })
    }

    /// Ready, serving and terminating, with the defaults of item 10.
    fn conditions(&self, at: &str, fields: &mut Fields) -> Option<(bool, bool, bool)> {
        let at = format!("{at}.conditions");
        let conditions = match fields.read(&at, &self.conditions) {
            Some(conditions) => conditions,
            None if self.conditions.is_present() => return None,
            None => &Conditions::default(),
        };
        let mut read = |name: &str, value: &Lenient<bool>, default: bool| match fields
            .read(format_args!("{at}.{name}"), value)
        {
            Some(value) => Some(*value),
            None if value.is_present() => None,
            None => Some(default),
        };
        Some((
            read("ready", &conditions.ready, true)?,
            read("serving", &conditions.serving, true)?,
            read("terminating", &conditions.terminating, false)?,
        ))
    }
}

fn names(field: impl fmt::Display, hints: &List<Hint>, fields: &mut Fields) -> Names {
    let hints = fields.list(&field, hints);
    let names = hints
        .into_iter()
        .filter_map(|(i, hint)| fields.read(format_args!("{field}[{i}].name"), &hint.name));
    let names: Names = names.map(String::as_str).collect();
    fields.share_set(names)
}

#[cfg(test)]
mod tests;
