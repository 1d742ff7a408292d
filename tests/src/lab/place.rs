//! Where processes of a lab run.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::cgroup::Cgroup;
use super::client::{Request, Requests};
use super::instance::Instance;
use super::netns::Netns;
use super::server::Server;
use crate::tool::{Protocol, Reply};

/// A network namespace and a cgroup, removed on drop with all processes in them.
#[derive(Debug)]
pub struct Site {
    name: String,
    // Fields drop in this order: processes end before their network does.
    cgroup: Cgroup,
    netns: Netns,
    instance: Arc<Instance>,
}

impl Site {
    /// Makes the place `name`; its cgroup is `group`, relative to the lab's.
    pub(super) fn create(instance: &Arc<Instance>, name: &str, group: &Path) -> Result<Self> {
        let netns = Netns::create(&format!("{}-{name}", instance.name()))?;
        // Addresses are usable at once, and are those that the lab has set.
        netns.sysctl(&[
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
        ])?;
        netns.ip(&["link set lo up"])?;
        let cgroup = Cgroup::create(instance.cgroup().join(group))?;
        Ok(Self {
            name: name.to_owned(),
            cgroup,
            netns,
            instance: Arc::clone(instance),
        })
    }

    pub(super) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Place for Site {
    fn site(&self) -> &Site {
        self
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.instance.is_kept() {
            self.cgroup.keep();
            self.netns.keep();
        }
    }
}

/// A place of a lab: a node, a pod, the router or the client outside.
///
/// Where they are to be mixed, take `&Site`: it is a place, too.
pub trait Place {
    /// Its namespace and cgroup.
    fn site(&self) -> &Site;

    /// Its name within the lab.
    fn name(&self) -> &str {
        &self.site().name
    }

    /// Its network namespace.
    fn netns(&self) -> &Netns {
        &self.site().netns
    }

    /// The path of its cgroup; a pod's lies below its node's.
    fn cgroup(&self) -> &Path {
        self.site().cgroup.path()
    }

    /// A command that runs in the place's network namespace and cgroup.
    ///
    /// # Errors
    /// When the cgroup cannot be opened.
    fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = self.netns().command(program);
        self.site().cgroup.admit(&mut command)?;
        Ok(command)
    }

    /// Starts a server (TCP and UDP, every address) that answers with the place's name.
    ///
    /// # Errors
    /// When the port cannot be listened to.
    fn serve(&self, port: u16) -> Result<Server> {
        self.serve_as(self.name(), port)
    }

    /// Starts a server that answers with the name given.
    ///
    /// # Errors
    /// When the port cannot be listened to.
    fn serve_as(&self, name: &str, port: u16) -> Result<Server> {
        Server::start(self.site(), self.tool()?, name, port)
            .with_context(|| format!("serve port {port} in {}", self.name()))
    }

    /// Sends one request from this place and waits for the reply.
    ///
    /// # Errors
    /// Says why there was none.
    fn request(&self, protocol: Protocol, to: SocketAddr) -> Result<Reply> {
        let mut requests = self.start(&Request::new(protocol, to))?;
        requests.next().context("the client ended without a word")?
    }

    /// Starts a client in this place.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start(&self, request: &Request) -> Result<Requests> {
        Requests::start(self.tool()?, request)
            .with_context(|| format!("start a client in {}", self.name()))
    }

    /// The tool of [`crate::tool`], to be run in this place.
    ///
    /// # Errors
    /// When the cgroup cannot be opened.
    fn tool(&self) -> Result<Command> {
        self.command(&self.site().instance.host().tool)
    }
}
