//! What the cables of a lab are like.

use super::fabric::Fabric;
use super::plan;
use super::vlan::Tag;

/// Where a router with a smaller MTU is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Narrow {
    /// Between the router and the client outside.
    Client,
    /// Between a node (by its index, from 0) and everybody else.
    Node(usize),
}

/// Cables between the places of a lab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wiring {
    /// As many nodes there are.
    pub(super) nodes: u8,
    /// The MTU of uplinks.
    pub(super) mtu: u32,
    /// A hop with a smaller MTU, and that.
    pub(super) narrow: Option<(Narrow, u32)>,
    /// Whether packets may reach uplinks with checksums and segmentation yet to be done.
    pub(super) tx_offload: bool,
    /// Tags of frames on the nodes' uplinks, the outermost first.
    pub(super) tags: &'static [Tag],
    pub(super) fabric: Fabric,
}

impl Default for Wiring {
    fn default() -> Self {
        Self {
            nodes: 3,
            mtu: plan::UPLINK_MTU,
            narrow: None,
            tx_offload: false,
            tags: &[],
            fabric: Fabric::default(),
        }
    }
}

impl Wiring {
    /// The name of the nodes' device that packets leave by.
    pub(super) fn uplink(&self) -> String {
        Tag::device_name(CARD, self.tags)
    }

    /// The MTU of a device whose frames have so many more tags than IP packets.
    pub(super) fn mtu_below(&self, tags: usize) -> u32 {
        self.mtu + (tags * Tag::LEN) as u32
    }

    /// The smaller MTU in front of node `number` (from 1).
    pub(super) fn narrow_at(&self, number: u8) -> Option<u32> {
        match self.narrow {
            Some((Narrow::Node(index), mtu)) if index + 1 == usize::from(number) => Some(mtu),
            _ => None,
        }
    }

    /// The smaller MTU in front of the client.
    pub(super) fn narrow_at_client(&self) -> Option<u32> {
        match self.narrow {
            Some((Narrow::Client, mtu)) => Some(mtu),
            _ => None,
        }
    }
}

/// The name of a place's network card.
pub(super) const CARD: &str = "eth0";
