//! `v1` Endpoints, the predecessor of EndpointSlice; read from manifests only (item 1).

use std::net::IpAddr;

use serde::Deserialize;

use super::{Fields, Metadata, Object, slice};
use crate::{
    model::{self, Slice, SlicePort},
    source::lenient::{Lenient, List},
};

/// Endpoints with this label are not for proxies.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// An Endpoints object; its name is its Service's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    metadata: Lenient<Metadata>,
    subsets: List<Subset>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subset {
    addresses: List<Address>,
    not_ready_addresses: List<Address>,
    ports: List<slice::Port>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    ip: Lenient<String>,
    node_name: Lenient<String>,
}

impl Object for Endpoints {
    const KIND: &'static str = "Endpoints";
    /// Slices by name, one a subset and family.
    type Model = Vec<(String, Slice)>;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    fn convert(&self, fields: &mut Fields) -> Option<Self::Model> {
        if self.metadata.valid()?.label(SKIP_MIRROR) == Some("true") {
            return None;
        }
        let subsets = fields.list("subsets", &self.subsets);
        let slices = subsets
            .into_iter()
            .flat_map(|(i, subset)| subset.convert(i, fields));
        Some(slices.collect())
    }
}

impl Endpoints {
    /// Fills in what an API server would have.
    pub fn set_defaults(&mut self) {
        let Lenient::Valid(subsets) = &mut self.subsets else {
            return;
        };
        for subset in subsets {
            if let Lenient::Valid(subset) = subset
                && let Lenient::Valid(ports) = &mut subset.ports
            {
                slice::set_default_names(ports);
            }
        }
    }
}

impl Subset {
    fn convert(&self, index: usize, fields: &mut Fields) -> Vec<(String, Slice)> {
        let at = format!("subsets[{index}]");
        let ports = fields.list(format_args!("{at}.ports"), &self.ports);
        let ports: Vec<SlicePort> = ports
            .into_iter()
            .filter_map(|(i, port)| port.convert(&format!("{at}.ports[{i}]"), fields))
            .collect();
        let mut endpoints =
            read_addresses(&format!("{at}.addresses"), &self.addresses, true, fields);
        let field = format!("{at}.notReadyAddresses");
        endpoints.extend(read_addresses(
            &field,
            &self.not_ready_addresses,
            false,
            fields,
        ));
        split_families(endpoints)
            .into_iter()
            .map(|(family, endpoints)| {
                let name = format!("{}-{index}-{family}", fields.name().name);
                let ports = ports.clone();
                let slice = Slice {
                    ports,
                    endpoints,
                    triggered: None,
                };
                (name, slice)
            })
            .collect()
    }
}

/// IPv4 and IPv6 endpoints apart, each under its family's name; families without any are left out.
pub(super) fn split_families(
    endpoints: Vec<model::Endpoint>,
) -> impl IntoIterator<Item = (&'static str, Vec<model::Endpoint>)> {
    let (v4, v6): (Vec<_>, Vec<_>) = endpoints
        .into_iter()
        .partition(|endpoint| endpoint.addr.is_ipv4());
    [("ipv4", v4), ("ipv6", v6)]
        .into_iter()
        .filter(|(_, endpoints)| !endpoints.is_empty())
}

fn read_addresses(
    field: &str,
    list: &List<Address>,
    ready: bool,
    fields: &mut Fields,
) -> Vec<model::Endpoint> {
    let mut endpoints = Vec::new();
    for (i, address) in fields.list(field, list) {
        let at = format!("{field}[{i}]");
        if let Some(addr) = address.read(&at, fields) {
            let node = fields.read(format_args!("{at}.nodeName"), &address.node_name);
            let node = node.map(|name| fields.share(name));
            endpoints.push(model::Endpoint {
                addr,
                ready,
                serving: ready,
                terminating: false,
                node,
                for_zones: Default::default(),
                for_nodes: Default::default(),
            });
        }
    }
    endpoints
}

impl Address {
    fn read(&self, at: &str, fields: &mut Fields) -> Option<IpAddr> {
        let field = format!("{at}.ip");
        if !self.ip.is_present() {
            fields.reject(&field, "is missing");
        }
        let text = fields.read(&field, &self.ip)?;
        fields.endpoint_address(field, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::objects::tests::{convert, convert_good};

    #[test]
    fn subsets_become_slices_by_family() {
        let slices = convert_good::<Endpoints>(
            "
metadata: {name: alpaca, namespace: prod}
subsets:
- addresses: [{ip: 10.0.0.1, nodeName: node1}, {ip: 'fd00::1'}]
  notReadyAddresses: [{ip: 10.0.0.2}]
  ports: [{name: http, port: 8080}]
- addresses: [{ip: 10.0.0.3}]
  ports: [{name: http, port: 8081, protocol: UDP}]
",
        );
        let seen: Vec<_> = slices
            .iter()
            .map(|(name, slice)| {
                let endpoints = slice.endpoints.iter();
                let endpoints: Vec<_> = endpoints.map(|e| (e.addr.to_string(), e.ready)).collect();
                (name.as_str(), slice.ports[0].port, endpoints)
            })
            .collect();
        let addr = |addr: &str, ready| (addr.to_owned(), ready);
        assert_eq!(
            seen,
            [
                (
                    "alpaca-0-ipv4",
                    8080,
                    vec![addr("10.0.0.1", true), addr("10.0.0.2", false)]
                ),
                ("alpaca-0-ipv6", 8080, vec![addr("fd00::1", true)]),
                ("alpaca-1-ipv4", 8081, vec![addr("10.0.0.3", true)]),
            ]
        );
        assert_eq!(slices[0].1.endpoints[0].node.as_deref(), Some("node1"));
    }

    #[test]
    fn a_bad_address_costs_itself_only() {
        let (slices, rejections) = convert::<Endpoints>(
            "
metadata: {name: alpaca}
subsets: [{addresses: [{ip: 127.0.0.1}, {}, {ip: 10.0.0.1}], ports: [{name: '', port: 1}]}]
",
        );
        assert_eq!(slices.unwrap()[0].1.endpoints.len(), 1);
        assert_eq!(
            rejections,
            [
                "Endpoints alpaca: subsets[0].addresses[0].ip: `127.0.0.1` may not be an endpoint: \
                 it is unspecified, loopback, link-local or multicast",
                "Endpoints alpaca: subsets[0].addresses[1].ip: is missing",
            ]
        );
    }

    #[test]
    fn endpoints_that_are_not_mirrored_are_ignored() {
        let yaml = "metadata: {name: a, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}";
        assert_eq!(convert::<Endpoints>(yaml), (None, Vec::new()));
    }
}
