//! A pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::cni::{Attached, Attachment};
use super::node::Node;
use super::offload;
use super::place::{Place, Site};

/// A pod on a node, detached (CNI's DEL) and removed on drop.
#[derive(Debug)]
pub struct Pod {
    site: Site,
    attachment: Attachment,
    attached: Attached,
    is_attached: bool,
    node: Arc<Node>,
}

impl Place for Pod {
    fn site(&self) -> &Site {
        &self.site
    }
}

impl Pod {
    pub(super) fn create(
        node: &Arc<Node>,
        name: &str,
        attachment: Attachment,
        host_tx_offload: bool,
    ) -> Result<Self> {
        let group = Path::new(node.name()).join("pods").join(name);
        let site = Site::create(node.site().instance(), name, &group)?;
        let attached = attachment.add(node, site.netns())?;
        if !host_tx_offload {
            offload::disable_tx(node.netns(), &attached.veth)?;
        }
        Ok(Self {
            site,
            attachment,
            attached,
            is_attached: true,
            node: Arc::clone(node),
        })
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.attached.ipv4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.attached.ipv6
    }

    /// Its addresses in both families, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }

    /// The node that it is on.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The node's end of its veth.
    #[must_use]
    pub fn host_veth(&self) -> &str {
        &self.attached.veth
    }

    /// The interface index of the node's end of its veth.
    #[must_use]
    pub fn host_veth_index(&self) -> u32 {
        self.attached.veth_index
    }

    /// Detaches and removes it, like a drop, but says what went wrong.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn remove(mut self) -> Result<()> {
        self.detach()
            .with_context(|| format!("remove pod {}", self.name()))
    }

    fn detach(&mut self) -> Result<()> {
        self.is_attached = false;
        self.attachment.delete(&self.node, self.site.netns())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.is_attached && !self.site.instance().is_kept() {
            // The addresses go with the node's directory, the veth with the namespace.
            let _ = self.detach();
        }
    }
}
