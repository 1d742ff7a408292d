//! Services for comparisons: many that nobody uses, and a last one that serves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use crate::tool::Protocol;

/// Cluster addresses: those of Service 0.
const CLUSTER_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const CLUSTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1);
/// The backends that nobody uses: that of Service 0.
const UNUSED_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const UNUSED_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 1);
/// Addresses outside of the cluster of the Service that serves.
const EXTERNAL_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const EXTERNAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xaa, 0, 0, 0, 0, 7);

/// The port of all of them.
pub(super) const PORT: u16 = 80;
/// The port of nodes that leads to the Service that serves.
pub(super) const NODE_PORT: u16 = 30366;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// What Kubernetes calls it.
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A Service in one family, as rules see it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) number: u32,
    pub(super) cluster_ip: IpAddr,
    /// Where clients outside of the cluster find it; the unused ones are for those within.
    pub(super) external_ip: Option<IpAddr>,
    pub(super) backends: Vec<SocketAddr>,
}

/// All Services of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Services {
    /// How many; the last one is in use.
    pub(super) count: u32,
    pub(super) protocol: Protocol,
    /// Backends of the Service that is in use, in both families, and the node that they are on.
    pub(super) backends: Vec<SocketAddr>,
    pub(super) node: String,
}

impl Services {
    /// Those of one family, the one in use last.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = Service> + '_ {
        (0..self.count).map(move |number| self.service(number, family))
    }

    /// The addresses of the Service in use: within the cluster, and outside.
    pub(super) fn used(&self, family: Family) -> (SocketAddr, SocketAddr) {
        let service = self.service(self.count - 1, family);
        let external = external(family);
        ((service.cluster_ip, PORT).into(), (external, PORT).into())
    }

    fn service(&self, number: u32, family: Family) -> Service {
        let is_used = number + 1 == self.count;
        let backends = || {
            let of_family = |addr: &&SocketAddr| Family::of(addr.ip()) == family;
            self.backends.iter().filter(of_family).copied().collect()
        };
        Service {
            number,
            cluster_ip: cluster_ip(number, family),
            external_ip: is_used.then(|| external(family)),
            backends: if is_used {
                backends()
            } else {
                vec![(unused(number, family), 8080).into()]
            },
        }
    }

    /// The objects of Service `number`: itself, and its slices.
    pub(super) fn objects(&self, number: u32) -> (Value, Vec<Value>) {
        let families = Family::ALL.map(|family| self.service(number, family));
        let name = format!("service-{number}");
        let protocol = self.protocol.name().to_uppercase();
        let cluster_ips = families.each_ref().map(|service| service.cluster_ip);
        let external: Vec<_> = families.iter().filter_map(|s| s.external_ip).collect();
        let is_used = !external.is_empty();
        let mut port =
            json!({"name": "main", "protocol": protocol, "port": PORT, "targetPort": "main"});
        if is_used {
            port["nodePort"] = NODE_PORT.into();
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "uid": format!("{number:08x}-0000-4000-8000-000000000000")},
            "spec": {
                "type": if is_used { "NodePort" } else { "ClusterIP" },
                "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips,
                "ipFamilies": Family::ALL.map(Family::name), "ipFamilyPolicy": "RequireDualStack",
                "externalIPs": external,
                "selector": {"app": name},
                "ports": [port],
            },
        });
        // A slice has one port: backends that differ in it are in several.
        let backends = families.iter().flat_map(|service| &service.backends);
        let slices = backends.enumerate().map(|(index, backend)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{index}"), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": Family::of(backend.ip()).name(),
                "endpoints": [{
                    "addresses": [backend.ip()], "nodeName": self.node,
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                }],
                "ports": [{"name": "main", "protocol": protocol, "port": backend.port()}],
            })
        });
        (service, slices.collect())
    }
}

fn external(family: Family) -> IpAddr {
    match family {
        Family::V4 => EXTERNAL_V4.into(),
        Family::V6 => EXTERNAL_V6.into(),
    }
}

fn cluster_ip(number: u32, family: Family) -> IpAddr {
    add(CLUSTER_V4, CLUSTER_V6, number, family)
}

fn unused(number: u32, family: Family) -> IpAddr {
    add(UNUSED_V4, UNUSED_V6, number, family)
}

fn add(v4: Ipv4Addr, v6: Ipv6Addr, number: u32, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(v4.to_bits() + number).into(),
        Family::V6 => Ipv6Addr::from_bits(v6.to_bits() + u128::from(number)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn services(count: u32) -> Services {
        Services {
            count,
            protocol: Protocol::Udp,
            backends: [
                "10.244.2.2:9000",
                "[fd00:10:244:2::2]:9000",
                "10.244.2.2:9001",
            ]
            .map(|addr| addr.parse().unwrap())
            .to_vec(),
            node: "node2".to_owned(),
        }
    }

    #[test]
    fn last_service_is_the_one_in_use() {
        let services = services(300);
        let all: Vec<_> = services.of(Family::V4).collect();
        let cluster_ips: BTreeSet<_> = all.iter().map(|service| service.cluster_ip).collect();
        assert_eq!(cluster_ips.len(), 300);
        let used: Vec<_> = all.iter().filter(|s| s.external_ip.is_some()).collect();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].number, 299);
        assert_eq!(used[0].backends.len(), 2);
        assert_eq!(services.used(Family::V4).0.ip(), used[0].cluster_ip);
    }

    #[test]
    fn slices_say_what_rules_say() {
        let services = services(2);
        let (service, slices) = services.objects(1);
        assert_eq!(service["spec"]["externalIPs"].as_array().unwrap().len(), 2);
        assert_eq!(slices.len(), 3);
        let (service, slices) = services.objects(0);
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[1]["addressType"], "IPv6");
    }
}
