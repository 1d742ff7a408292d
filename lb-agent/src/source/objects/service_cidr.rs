//! `networking.k8s.io/v1` ServiceCIDR.

use ipnet::IpNet;
use serde::Deserialize;

use super::{Fields, Metadata, Object};
use crate::source::lenient::{Lenient, List};

/// A ServiceCIDR.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    metadata: Lenient<Metadata>,
    spec: Lenient<Spec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: List<String>,
}

impl Object for ServiceCidr {
    const KIND: &'static str = "ServiceCIDR";
    /// The networks; whether the object is ready does not matter (item 44).
    type Model = Vec<IpNet>;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    fn convert(&self, fields: &mut Fields) -> Option<Vec<IpNet>> {
        let spec = fields.read("spec", &self.spec)?;
        let cidrs = fields.list("spec.cidrs", &spec.cidrs);
        let cidrs = cidrs
            .into_iter()
            .filter_map(|(i, text)| fields.net(format_args!("spec.cidrs[{i}]"), text));
        Some(cidrs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::objects::tests::{convert, convert_good};

    #[test]
    fn s44_a_service_network_has_a_range_for_each_family() {
        let cidrs = convert_good::<ServiceCidr>(
            "{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16, 'fd00:10:96::/112']}}",
        );
        let cidrs: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.96.0.0/16", "fd00:10:96::/112"]);
    }

    #[test]
    fn a_bad_range_costs_itself_only() {
        let (cidrs, rejections) = convert::<ServiceCidr>(
            "{metadata: {name: x}, spec: {cidrs: [10.96.0.0/99, 7, 10.97.0.0/16]}}",
        );
        assert_eq!(cidrs.unwrap(), ["10.97.0.0/16".parse().unwrap()]);
        assert_eq!(
            rejections,
            [
                "ServiceCIDR x: spec.cidrs[1]: invalid type: integer `7`, expected a string",
                "ServiceCIDR x: spec.cidrs[0]: `10.96.0.0/99` is not an address prefix",
            ]
        );
    }
}
