//! What is done before an agent follows anything: it takes rights that nothing else does.

use lb_common::{DatapathConfig, config};
use tracing::{debug, warn};

use super::{Error, Options, Source};
use crate::{
    dataplane::bpf::{self, BpfDataplane, kernel},
    event::{Event, Events},
    harden::Needs,
    kube_proxy,
    model::Reference,
    object, preflight,
};

/// Programs and maps in place, and what was found on the way.
pub struct Prepared {
    pub(super) dataplane: BpfDataplane,
    pub(super) kube_proxy: Option<kube_proxy::Rules>,
    /// Keeps other agents away.
    pub(super) _lock: bpf::Lock,
}

/// Puts the kernel programs in place, which takes rights that nothing else does.
///
/// # Errors
///
/// [`Error::Bpf`] and [`Error::Kernel`], [`Error::Preflight`] where something is missing.
pub fn prepare(options: &Options) -> Result<Prepared, Error> {
    // Before anything that a second agent could disturb.
    let lock = bpf::lock(&options.pin_dir)?;
    let is_pinned = |map: &str| bpf::is_pinned(&options.pin_dir, map);
    preflight::check(&options.capacities.specs(), is_pinned)?;
    Ok(Prepared {
        kube_proxy: find_kube_proxy(),
        dataplane: bpf::open(object::LB, &bpf_options(options)?)?,
        _lock: lock,
    })
}

/// What an agent goes on needing once the programs are in place.
#[must_use]
pub fn needs(options: &Options) -> Needs {
    let mut needs = match &options.source {
        Source::Kubernetes(connection) => connection.needs(),
        Source::Manifests(path) => Needs {
            // A file is replaced by another one.
            reads: vec![if path.is_dir() {
                path.clone()
            } else {
                path.parent().unwrap_or(path).to_owned()
            }],
            ..Needs::default()
        },
    };
    needs.reads.extend(options.cgroup.clone());
    needs.writes.push(options.pin_dir.clone());
    needs
}

/// Finds rules of kube-proxy: it may still run, or have been ended without a cleanup.
fn find_kube_proxy() -> Option<kube_proxy::Rules> {
    match kube_proxy::find() {
        Ok(rules) => Some(rules).filter(|rules| !rules.is_empty()),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            debug!(error, "cannot tell whether there are rules of kube-proxy");
            None
        }
    }
}

/// Says which maps are larger than they were asked to be, and whose rules are there.
pub(super) fn tell_found(
    dataplane: &BpfDataplane,
    rules: Option<&kube_proxy::Rules>,
    node_name: &str,
    events: &Events,
) {
    for kept in dataplane.kept() {
        let node = Reference::node(node_name);
        events.send(Event::warning(node, "CapacityKept", kept.to_string()));
    }
    if let Some(rules) = rules {
        let note = format!(
            "there are {rules}: end it, and run `lb-agent cleanup --kube-proxy` on this node"
        );
        warn!("{note}");
        let node = Reference::node(node_name);
        events.send(Event::warning(node, "KubeProxyRules", note));
    }
}

fn bpf_options(options: &Options) -> Result<bpf::Options, Error> {
    let netns_cookie = if options.own_namespace_only {
        kernel::netns_cookie()?
    } else {
        0
    };
    let config = options.node.snat_addresses.config();
    let reset = u32::from(options.reset_vanished_backends) * config::flags::RESET_VANISHED;
    Ok(bpf::Options {
        pin_dir: options.pin_dir.clone(),
        cgroup: options.cgroup.clone(),
        xdp: options.xdp,
        tc: options.tc,
        maps: options.capacities.specs(),
        discards_unknown_layouts: options.discards_unknown_layouts,
        stop_after: None,
        config: DatapathConfig {
            netns_cookie,
            ticks_per_second: kernel::ticks_per_second()?,
            flags: config.flags | reset,
            icmp_errors_per_second: options.icmp_errors_per_second,
            ..config
        },
    })
}
