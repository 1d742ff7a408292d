//! Where processes of a lab run.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::capture::Capture;
use super::cgroup::Cgroup;
use super::client::{Request, Requests};
use super::crowd::{self, Attendant};
use super::instance::Instance;
use super::netns::Netns;
use super::server::Server;
use super::traffic::{Echo, Traffic};
use crate::tool::{
    AttendOptions, CrowdOptions, Crowded, EchoOptions, ProbeOptions, Probed, Protocol, Reply,
    ServeOptions, TrafficOptions,
};

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
            // Whoever asks twice is told twice.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
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
        self.serve_with(ServeOptions::new(name, port))
    }

    /// Starts a server as these options say.
    ///
    /// # Errors
    /// When the port cannot be listened to.
    fn serve_with(&self, options: ServeOptions) -> Result<Server> {
        let port = options.port;
        Server::start(self.site(), self.tool()?, options)
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

    /// Starts steady traffic from this place, and waits until every connection that stays has had
    /// an answer.
    ///
    /// # Errors
    /// When it cannot begin.
    fn traffic(&self, options: &TrafficOptions) -> Result<Traffic> {
        Traffic::start(self.tool()?, options)
            .with_context(|| format!("start traffic from {}", self.name()))
    }

    /// Starts servers of steady traffic: ports, TCP and UDP, each with the number that it answers.
    ///
    /// # Errors
    /// When a port cannot be listened to.
    fn echo(&self, servers: &[(u16, u32)]) -> Result<Echo> {
        let servers = servers.to_vec();
        Echo::start(self.tool()?, &EchoOptions { servers })
            .with_context(|| format!("start servers in {}", self.name()))
    }

    /// Sends one packet from this place, and says what came of it.
    ///
    /// # Errors
    /// When it cannot be sent at all.
    fn probe(&self, options: &ProbeOptions) -> Result<Probed> {
        let output = self.tool()?.args(options.arguments()).output()?;
        let (stdout, stderr) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(stdout)
            .with_context(|| format!("probe {} from {}: {stderr}", options.to, self.name()))
    }

    /// Starts a server for crowds, at so many ports from this one on.
    ///
    /// # Errors
    /// When a port cannot be had.
    fn attend(&self, options: AttendOptions) -> Result<Attendant> {
        Attendant::start(self.tool()?, options)
            .with_context(|| format!("attend at port {} in {}", options.port, self.name()))
    }

    /// Makes many connections from this place, and says what came of them.
    ///
    /// # Errors
    /// When the client cannot be started.
    fn crowd(&self, options: &CrowdOptions) -> Result<Crowded> {
        crowd::crowd(self.tool()?, options)
            .with_context(|| format!("send a crowd to {} from {}", options.to, self.name()))
    }

    /// Forgets what has been learned of paths: their MTUs, and what TCP remembers of them.
    ///
    /// # Errors
    /// What `ip` said.
    fn forget_paths(&self) -> Result<()> {
        let netns = self.netns();
        netns.ip(&["route flush cache", "tcp_metrics flush"])?;
        let status = netns
            .command("ip")
            .args(["-6", "route", "flush", "cache"])
            .status()?;
        ensure!(
            status.success(),
            "flush the routes' cache of {}: {status}",
            self.name()
        );
        Ok(())
    }

    /// Captures what passes the place's devices from now on.
    ///
    /// # Errors
    /// Without the privilege to do so.
    fn capture(&self) -> Result<Capture> {
        Capture::start(self.netns())
    }

    /// The tool of [`crate::tool`], to be run in this place.
    ///
    /// # Errors
    /// When the cgroup cannot be opened.
    fn tool(&self) -> Result<Command> {
        self.command(&self.site().instance.host().tool)
    }
}
