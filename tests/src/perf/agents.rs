//! Agents that serve Services for comparisons.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use lb_common::{FrontendKey, maps};

use super::services::{Family, Services};
use crate::apiserver::ApiServer;
use crate::apiserver::store::Kind;
use crate::lab::{Agent, Node, Place as _};

/// Room in the arena for the tables of a Service that nobody uses.
const SLOTS: u32 = 512;

/// API servers, by how many Services they have, and whose backends.
#[derive(Debug, Default)]
pub(super) struct ApiServers(BTreeMap<(u32, String), ApiServer>);

impl ApiServers {
    /// Starts an agent on a node, and waits until it serves all Services.
    pub(super) fn start_agent(
        &mut self,
        node: &Node,
        services: &Services,
        more: &[&str],
    ) -> Result<Agent> {
        let server = match self.0.entry((services.count, services.node.clone())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(serve(services)?),
        };
        let listener = node
            .netns()
            .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = server.listen(listener?)?;
        let kubeconfig = node.dir().join("kubeconfig");
        fs::write(&kubeconfig, server.kubeconfig_at(address))?;
        let kubeconfig = kubeconfig.to_str().context("a path that is not UTF-8")?;
        let capacities = capacities(services.count);
        let mut flags = vec!["--kubeconfig", kubeconfig];
        flags.extend(capacities.iter().map(String::as_str));
        flags.extend(more);
        let mut agent = Agent::start_with_log(node, &flags, "info")?;
        let used = Family::ALL.map(|family| {
            let (_, external) = services.used(family);
            FrontendKey::new(
                external.ip().into(),
                external.port(),
                services.protocol.number(),
            )
        });
        agent.wait_for("the Services are served", |frontends| {
            let is_served = |key| {
                let frontend = frontends.get(key);
                frontend.is_some_and(|frontend| !frontend.outside.is_empty())
            };
            frontends.len() > 2 * services.count as usize && used.iter().all(is_served)
        })?;
        Ok(agent)
    }
}

/// Flags for maps with room for so many Services more than usual.
fn capacities(services: u32) -> Vec<String> {
    let both = services * 2;
    [
        ("--frontends-max", maps::FRONTENDS_MAX as u32 + both),
        ("--backends-max", maps::BACKENDS_MAX as u32 + both),
        ("--slots-max", maps::SLOTS_MAX as u32 + both * SLOTS),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()])
    .collect()
}

/// An API server that has the Services.
fn serve(services: &Services) -> Result<ApiServer> {
    let server = ApiServer::builder().bare().without_slices().start()?;
    server.write(|store| {
        for number in 0..services.count {
            let (service, slices) = services.objects(number);
            store.inject(Kind::Service, service);
            for slice in slices {
                store.inject(Kind::EndpointSlice, slice);
            }
        }
    });
    Ok(server)
}

/// Takes the lab's own rule from a node: it would let the node track connections.
pub(super) fn remove_rules(node: &Node) -> Result<()> {
    let mut command = node.netns().command("nft");
    let status = command.args(["delete", "table", "inet", "lab"]).status()?;
    ensure!(status.success(), "delete the lab's table: {status}");
    Ok(())
}
