//! What is not the cluster: the router, and the client behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::hop::Hop;
use super::instance::Instance;
use super::netns::Netns;
use super::place::{Place, Site};
use super::plan;
use super::wiring::Wiring;

/// The router: a switch (`br0`) for the nodes' uplinks, and a link to the client.
///
/// It knows nothing of pods.
#[derive(Debug)]
pub struct Router(Site);

impl Place for Router {
    fn site(&self) -> &Site {
        &self.0
    }
}

impl Router {
    pub(super) fn create(instance: &Arc<Instance>) -> Result<Self> {
        let site = Site::create(instance, "router", Path::new("router"))?;
        site.netns()
            .sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let mut commands = vec![
            // Nobody asks for group members here, and neighbour discovery is multicast.
            "link add br0 type bridge mcast_snooping 0".to_owned(),
            "link set br0 up".to_owned(),
        ];
        commands.extend(
            plan::ROUTER
                .nets()
                .map(|net| format!("addr add {net} dev br0")),
        );
        site.netns().ip(&commands)?;
        Ok(Self(site))
    }

    /// Serves the client, whose cable ends in `device`.
    fn lead_to_client(&self, device: &str) -> Result<()> {
        let mut commands = vec![format!("link set {device} up")];
        let nets = plan::ROUTER_OUTSIDE.nets();
        commands.extend(nets.map(|net| format!("addr add {net} dev {device}")));
        self.netns().ip(&commands)
    }
}

/// A client outside of the cluster, behind the router.
#[derive(Debug)]
pub struct Client {
    site: Site,
    /// Lives as long as its cable.
    _hop: Option<Hop>,
}

impl Place for Client {
    fn site(&self) -> &Site {
        &self.site
    }
}

impl Client {
    pub(super) fn create(
        instance: &Arc<Instance>,
        router: &Router,
        wiring: &Wiring,
    ) -> Result<Self> {
        let site = Site::create(instance, "client", Path::new("client"))?;
        let hop = wiring.narrow_at_client();
        let hop = hop
            .map(|mtu| Hop::create(instance, router, mtu))
            .transpose()?;
        let far = hop.as_ref().map_or_else(|| router.netns(), Place::netns);
        let mut commands = vec![uplink("client0", far, wiring.mtu)];
        commands.extend(
            plan::CLIENT
                .nets()
                .map(|net| format!("addr add {net} dev eth0")),
        );
        commands.push("link set eth0 up".to_owned());
        site.netns().ip(&commands)?;
        match &hop {
            Some(hop) => hop.lead_to_client(router, "client0")?,
            None => router.lead_to_client("client0")?,
        }
        site.netns().ip(&default_routes(plan::ROUTER_OUTSIDE))?;
        Ok(Self { site, _hop: hop })
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        plan::CLIENT.v4.addr()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        plan::CLIENT.v6.addr()
    }

    /// Its addresses in both families, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }
}

/// The command that makes a place's `eth0`, whose far end is `peer` in another place.
pub(super) fn uplink(peer: &str, far: &Netns, mtu: u32) -> String {
    let far = far.name();
    format!("link add eth0 mtu {mtu} type veth peer name {peer} mtu {mtu} netns {far}")
}

/// The commands that make a gateway the default one.
pub(super) fn default_routes(gateway: plan::Dual) -> Vec<String> {
    gateway
        .addresses()
        .map(|gateway| format!("route add default via {gateway}"))
        .to_vec()
}
