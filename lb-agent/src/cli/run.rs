//! `lb-agent run`.

use std::{env, fs, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use lb_common::DatapathConfig;

use super::{addresses, capacities::CapacityArgs, serve::ServeArgs};
use crate::{
    agent::{NodeOptions, Options, Source},
    dataplane::bpf::{TcMode, XdpMode},
    interfaces::Overrides,
    source::{Role, kubernetes::Connection},
};

/// Flags of `lb-agent run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Name of this node, as its endpoints have it [default: the host name].
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,

    /// Read Services from manifests: a file, a directory, or - for standard input.
    #[arg(long, value_name = "PATH", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,

    /// Read Services from the cluster of this kubeconfig [default: $KUBECONFIG, else the cluster
    /// around us].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Address of an API server, such as https://10.0.0.1:6443, in place of the one that the
    /// kubeconfig or the cluster around us names; may be repeated: any of them will do.
    #[arg(
        long = "apiserver",
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "manifests"
    )]
    apiservers: Vec<String>,

    /// Serve the Services whose label service.kubernetes.io/service-proxy-name has this value
    /// [default: those without the label].
    #[arg(long, value_name = "NAME")]
    service_proxy_name: Option<String>,

    /// A network that cluster addresses are allocated from; may be repeated [default: what the
    /// cluster's ServiceCIDRs say].
    #[arg(long = "service-cidr", value_name = "CIDR", value_delimiter = ',')]
    service_cidrs: Vec<IpNet>,

    /// Directory of the pinned maps and programs, on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,

    /// Whose sockets are translated when they connect.
    #[arg(long, value_enum, default_value_t)]
    socket_lb: SocketLb,

    /// Control group (version 2) that holds those processes [default: the root of all].
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,

    /// Where XDP runs on uplinks.
    #[arg(long, value_enum, default_value_t)]
    xdp: Xdp,

    /// How programs get to network devices, but for XDP.
    #[arg(long, value_enum, default_value_t)]
    tc: Tc,

    /// Treat this device as an uplink; may be repeated [default: those of default routes].
    #[arg(long = "uplink", value_name = "DEVICE")]
    uplinks: Vec<String>,

    /// Treat this device as a tunnel; may be repeated [default: vxlan and geneve devices].
    #[arg(long = "tunnel", value_name = "DEVICE")]
    tunnels: Vec<String>,

    /// Treat devices whose name begins so as pods; may be repeated [default: veths whose peer
    /// is in another network namespace].
    #[arg(long = "pod-interface", value_name = "PREFIX")]
    pod_interfaces: Vec<String>,

    /// Where NodePorts are served: "primary" for the node's internal addresses, or networks, for
    /// the addresses in them; may be repeated. A family of which no network is given is open on
    /// all addresses.
    #[arg(
        long,
        value_name = "NETWORK",
        value_delimiter = ',',
        default_value = "primary"
    )]
    nodeport_addresses: Vec<String>,

    /// Whether processes of the node reach NodePorts at 127.0.0.1 and ::1; nobody else does.
    #[arg(long, value_enum, default_value_t)]
    localhost_nodeports: Switch,

    /// Whether addresses of Services with endpoints answer ICMP echo requests.
    #[arg(long, value_enum, default_value_t)]
    icmp_echo: Switch,

    /// Which externalIPs Services may have: "allow" for all, "deny" for none, or networks; may be
    /// repeated. Whoever may write a Service can draw the traffic for such an address to it.
    #[arg(
        long,
        value_name = "NETWORK",
        value_delimiter = ',',
        default_value = "allow"
    )]
    external_ips: Vec<String>,

    /// Where loadBalancerSourceRanges hold.
    #[arg(long, value_enum, default_value_t)]
    source_ranges: SourceRanges,

    /// An address that connections to other nodes' backends come from, in place of the devices' own;
    /// one a family. It must lead to this node, and nothing else may send from it: then it has 64,512
    /// ports for each backend, and not 4,536. With an overlay network, one of the node's pod network.
    #[arg(long = "snat-address", value_name = "ADDRESS", value_delimiter = ',')]
    snat_addresses: Vec<IpAddr>,

    /// Reset a TCP connection at its next packet once its backend is gone from every EndpointSlice,
    /// rather than let it go on.
    #[arg(long)]
    reset_vanished_backends: bool,

    /// ICMP errors that each processor sends a second about packets that nobody serves, or that have
    /// lived too long; 0 for any number. Those about packets that are too big are always sent.
    #[arg(long, value_name = "N", default_value_t = DatapathConfig::ICMP_ERRORS_PER_SECOND)]
    icmp_errors_per_second: u32,

    /// Pause between the end of one update of the maps and the start of the next, in seconds or
    /// with a unit (ms, s). The first change after a quiet time is served at once; a pause lets a
    /// rollout's changes come together. kube-proxy needs a second for it, as it writes long rule
    /// sets: here an update touches only what has changed.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "100ms")]
    min_sync_period: Duration,

    /// How long to go on with what is served when the cluster has no Services, or no endpoints, all of
    /// a sudden; 0 for not at all.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0")]
    empty_guard: Duration,

    #[command(flatten)]
    capacities: CapacityArgs,

    /// Whether the agent gives up what it does not need once the programs are in place: capabilities,
    /// files (Landlock) and system calls (seccomp).
    #[arg(long, value_enum, default_value_t)]
    hardening: Switch,

    /// Remove maps of a version that this one cannot take over from, rather than refuse to start:
    /// the connections that are being translated end.
    #[arg(long)]
    discard_unknown_layouts: bool,

    #[command(flatten)]
    serve: ServeArgs,
}

/// Whose sockets are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SocketLb {
    /// Processes in the node's own network namespace.
    #[default]
    Node,
    /// Those of pods, too.
    All,
    /// Nobody's.
    Off,
}

/// Where XDP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Xdp {
    /// In the driver, and where it cannot, in the stack.
    #[default]
    Native,
    /// In the stack.
    Generic,
    /// Nowhere.
    Off,
}

impl Xdp {
    fn mode(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Native,
            Self::Generic => XdpMode::Generic,
            Self::Off => XdpMode::Off,
        }
    }
}

/// How programs get to devices beside XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Tc {
    /// By tcx, and where the kernel has none (before Linux 6.6), as with clsact.
    #[default]
    Auto,
    /// By tcx, or not at all.
    Tcx,
    /// As filters of the device's clsact qdisc.
    Clsact,
}

impl Tc {
    fn mode(self) -> TcMode {
        match self {
            Self::Auto => TcMode::Auto,
            Self::Tcx => TcMode::Tcx,
            Self::Clsact => TcMode::Clsact,
        }
    }
}

/// Yes or no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Yes.
    #[default]
    On,
    /// No.
    Off,
}

/// Where source ranges hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SourceRanges {
    /// At addresses of load balancers.
    #[default]
    Vip,
    /// At external addresses and NodePorts, too.
    External,
}

/// A command line that makes no sense on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host name is needed and cannot be read.
    #[error("read the host name; say --node-name")]
    HostName(#[source] nix::Error),
    /// There is no control group to attach to.
    #[error("no cgroup2 file system is mounted; mount one, or say --socket-lb off")]
    NoCgroup,
    /// Connections to other nodes cannot come from this address.
    #[error("--snat-address: {0}: {1}")]
    SnatAddress(IpAddr, &'static str),
    /// A flag that takes networks has something else.
    #[error("{flag}: {value} is no network, as 192.0.2.0/24 is, nor {words} alone")]
    Network {
        /// The flag.
        flag: &'static str,
        /// What it has.
        value: String,
        /// Words that may stand there instead.
        words: &'static str,
    },
}

impl RunArgs {
    /// What the flags ask for.
    ///
    /// # Errors
    ///
    /// [`Error`] where a default cannot be found out.
    pub fn options(self) -> Result<Options, Error> {
        let cgroup = match (self.socket_lb, self.cgroup) {
            (SocketLb::Off, _) => None,
            (_, Some(cgroup)) => Some(cgroup),
            (_, None) => Some(cgroup_root().ok_or(Error::NoCgroup)?),
        };
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        let node = NodeOptions {
            // Kubernetes' node names are DNS names, in lower case.
            name: node_name.to_lowercase(),
            node_port_addresses: addresses::node_ports(&self.nodeport_addresses)?,
            localhost_node_ports: self.localhost_nodeports == Switch::On,
            answers_echo: self.icmp_echo == Switch::On,
            external_ips: addresses::external_ips(&self.external_ips)?,
            source_ranges_everywhere: self.source_ranges == SourceRanges::External,
            snat_addresses: addresses::snat(&self.snat_addresses)?,
        };
        let overrides = Overrides {
            uplinks: self.uplinks,
            tunnels: self.tunnels,
            pod_prefixes: self.pod_interfaces,
        };
        Ok(Options {
            node,
            role: Role {
                // Kubernetes' node names are DNS names, in lower case.
                node_name: node_name.to_lowercase(),
                proxy_name: self.service_proxy_name,
                service_cidrs: self.service_cidrs.iter().map(IpNet::trunc).collect(),
            },
            source: match self.manifests {
                Some(path) => Source::Manifests(path),
                // Not clap's business: with manifests, the variable is no contradiction.
                None => Source::Kubernetes(Connection {
                    kubeconfig: self
                        .kubeconfig
                        .or_else(|| env::var_os("KUBECONFIG").map(PathBuf::from))
                        .filter(|path| !path.as_os_str().is_empty()),
                    servers: self.apiservers,
                }),
            },
            pin_dir: self.pin_dir,
            cgroup,
            own_namespace_only: self.socket_lb == SocketLb::Node,
            xdp: self.xdp.mode(),
            tc: self.tc.mode(),
            reset_vanished_backends: self.reset_vanished_backends,
            icmp_errors_per_second: self.icmp_errors_per_second,
            overrides,
            min_sync_period: self.min_sync_period,
            empty_guard: self.empty_guard,
            capacities: self.capacities.capacities(),
            is_hardened: self.hardening == Switch::On,
            discards_unknown_layouts: self.discard_unknown_layouts,
            monitor: self.serve.options(),
        })
    }
}

/// A time: a number with the unit ms or s; seconds without.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a time is a number with the unit ms or s".to_owned())
}

fn host_name() -> Result<String, Error> {
    let name = nix::unistd::gethostname().map_err(Error::HostName)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Where the version 2 hierarchy of control groups is mounted.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mount_point(&mounts, "cgroup2")
}

fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, found) = (fields.next()?, fields.next()?);
        (found == kind).then(|| place.into())
    })
}

#[cfg(test)]
mod tests {
    use lb_common::maps;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(flags: &[&str]) -> Options {
        let line = ["lb-agent", "run", "--node-name", "Node1", "--cgroup", "/c"];
        let cli = Cli::try_parse_from(line.iter().chain(flags)).expect("good flags");
        let Command::Run(args) = cli.command else {
            panic!("it says run");
        };
        args.options().expect("nothing is asked of the machine")
    }

    #[test]
    fn node_names_are_lower_case() {
        assert_eq!(options(&[]).node.name, "node1");
    }

    #[test]
    fn s22_node_ports_are_on_loopback_unless_told_otherwise() {
        assert!(options(&[]).node.localhost_node_ports);
        let off = options(&["--localhost-nodeports", "off"]);
        assert!(!off.node.localhost_node_ports);
    }

    #[test]
    fn s58_connections_outlive_their_backends_unless_told_otherwise() {
        assert!(!options(&[]).reset_vanished_backends);
        assert!(options(&["--reset-vanished-backends"]).reset_vanished_backends);
    }

    #[test]
    fn s62_the_pause_between_updates_can_be_set() {
        let pause = |flags: &[&str]| options(flags).min_sync_period;
        assert_eq!(pause(&[]), Duration::from_millis(100));
        assert_eq!(pause(&["--min-sync-period", "1s"]), Duration::from_secs(1));
        assert_eq!(pause(&["--min-sync-period", "0"]), Duration::ZERO);
        let line = ["lb-agent", "run", "--min-sync-period", "1h"];
        assert!(Cli::try_parse_from(line).is_err());
    }

    #[test]
    fn r15_an_empty_cluster_is_believed_at_once_unless_told_otherwise() {
        assert_eq!(options(&[]).empty_guard, Duration::ZERO);
        let guarded = options(&["--empty-guard", "60s"]);
        assert_eq!(guarded.empty_guard, Duration::from_secs(60));
    }

    #[test]
    fn s46_source_ranges_hold_for_load_balancers_unless_told_otherwise() {
        assert!(!options(&[]).node.source_ranges_everywhere);
        let everywhere = options(&["--source-ranges", "external"]);
        assert!(everywhere.node.source_ranges_everywhere);
    }

    #[test]
    fn node_names_are_lower_case_for_sources() {
        assert_eq!(options(&[]).role.node_name, "node1");
    }

    #[test]
    fn sockets_of_the_node_are_translated_unless_told_otherwise() {
        let cgroup = Some(PathBuf::from("/c"));
        assert_eq!(options(&[]).cgroup, cgroup);
        assert!(options(&[]).own_namespace_only);
        assert_eq!(options(&["--socket-lb", "all"]).cgroup, cgroup);
        assert!(!options(&["--socket-lb", "all"]).own_namespace_only);
        assert_eq!(options(&["--socket-lb", "off"]).cgroup, None);
    }

    #[test]
    fn two_sources_at_once_are_refused() {
        let line = ["lb-agent", "run", "--manifests", "a", "--kubeconfig", "b"];
        assert!(Cli::try_parse_from(line).is_err());
    }

    #[test]
    fn s2_a_proxy_has_a_name_only_by_its_flag() {
        assert_eq!(options(&[]).role.proxy_name, None);
        let role = options(&["--service-proxy-name", "lb"]).role;
        assert_eq!(role.proxy_name.as_deref(), Some("lb"));
    }

    #[test]
    fn s44_service_networks_may_be_given() {
        let role = options(&["--service-cidr", "10.96.0.1/16,fd00:10:96::/112"]).role;
        let nets = role.service_cidrs.iter().map(ToString::to_string);
        assert_eq!(
            nets.collect::<Vec<_>>(),
            ["10.96.0.0/16", "fd00:10:96::/112"]
        );
    }

    #[test]
    fn several_api_servers_may_be_given() {
        let flags = [
            "--apiserver",
            "https://a:6443",
            "--apiserver",
            "https://b:6443",
        ];
        let Source::Kubernetes(connection) = options(&flags).source else {
            panic!("no manifests are given");
        };
        assert_eq!(connection.servers, ["https://a:6443", "https://b:6443"]);
    }

    #[test]
    fn capacities_are_those_of_the_flags() {
        let flags = ["--flows-max", "77", "--opening-max", "7"];
        let specs = options(&flags).capacities.specs();
        for (map, capacity) in [(maps::FLOWS, 77), (maps::OPENING, 8)] {
            let spec = specs.iter().find(|spec| spec.name == map);
            assert_eq!(spec.map(|spec| spec.max_entries), Some(capacity));
        }
    }

    #[test]
    fn a_map_without_room_is_refused() {
        for flag in ["--frontends-max", "--flows-max", "--opening-max"] {
            let line = ["lb-agent", "run", flag, "0"];
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn a_hybrid_cgroup_hierarchy_has_its_root_elsewhere() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = mount_point(mounts, "cgroup2");
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }
}
