//! VLANs: devices whose frames carry a tag on the cable.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use lb_agent::object;

use super::netns::Netns;
use super::offload;
use super::wiring::Wiring;

/// A VLAN: what a frame's tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    id: u16,
    protocol: u16,
}

impl Tag {
    /// What it takes of a frame, in bytes.
    pub(super) const LEN: usize = 4;

    /// An IEEE 802.1Q tag.
    #[must_use]
    pub const fn customer(id: u16) -> Self {
        let protocol = 0x8100;
        Self { id, protocol }
    }

    /// An IEEE 802.1ad tag, in front of an 802.1Q tag ("QinQ").
    #[must_use]
    pub const fn service(id: u16) -> Self {
        let protocol = 0x88a8;
        Self { id, protocol }
    }

    /// What the device is called that sits on `card` behind these tags.
    pub(super) fn device_name(card: &str, tags: &[Self]) -> String {
        tags.iter()
            .fold(card.to_owned(), |name, tag| format!("{name}.{tag}"))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.id)
    }
}

/// Makes the VLAN devices on `card`, one on top of the other; links are pinned in `pins`.
pub(super) fn create(
    netns: &Netns,
    card: &str,
    wiring: &Wiring,
    (pins, tx_offload): (&Path, bool),
) -> Result<()> {
    let tags = wiring.tags;
    for (number, tag) in tags.iter().enumerate() {
        let parent = Tag::device_name(card, &tags[..number]);
        let device = format!("{parent}.{tag}");
        let mtu = wiring.mtu_below(tags.len() - number - 1);
        // Tags belong into the frame: XDP does not see what a veth carries beside it.
        disable_tag_offload(netns, &parent)?;
        let protocol = if tag.protocol == 0x8100 {
            "802.1Q"
        } else {
            "802.1ad"
        };
        let real = netns.ip(&[format!(
            "link add link {parent} name {device} mtu {mtu} type vlan proto {protocol} id {tag}"
        )]);
        if real.is_err() {
            imitate(netns, (&parent, &device, mtu), (*tag, pins))
                .with_context(|| format!("imitate the VLAN device {device}"))?;
        }
        if !tx_offload {
            offload::disable_tx(netns, &device)?;
        }
        netns.ip(&[format!("link set {device} up")])?;
    }
    Ok(())
}

fn disable_tag_offload(netns: &Netns, device: &str) -> Result<()> {
    let mut ethtool = netns.command("ethtool");
    let words = [
        "-K",
        device,
        "txvlan",
        "off",
        "tx-vlan-stag-hw-insert",
        "off",
    ];
    let output = ethtool.args(words).output().context("start ethtool")?;
    ensure!(
        output.status.success(),
        "ethtool -K {device}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Where the kernel has no VLAN devices: a veth whose peer's frames go through `parent` with
/// the tag, and the other way round.
fn imitate(
    netns: &Netns,
    (parent, device, mtu): (&str, &str, u32),
    (tag, pins): (Tag, &Path),
) -> Result<()> {
    let inside = format!("{device}v");
    netns.ip(&[
        format!("link add {device} mtu {mtu} type veth peer name {inside} mtu {mtu}"),
        format!("link set {inside} up"),
    ])?;
    let (outer, inner) = (
        netns.interface_index(parent)?,
        netns.interface_index(&inside)?,
    );
    let vlan = [u32::from(tag.protocol), u32::from(tag.id), outer, inner];
    netns.run(|| {
        let mut ebpf = EbpfLoader::new()
            .override_global("VLAN", &vlan, true)
            .load(object::LAB)?;
        for (program, at) in [("lab_untag", parent), ("lab_tag", inside.as_str())] {
            let classifier: &mut SchedClassifier = ebpf
                .program_mut(program)
                .context("no such program")?
                .try_into()?;
            classifier.load()?;
            let link = classifier.attach(at, TcAttachType::Ingress)?;
            let link = FdLink::try_from(classifier.take_link(link)?)?;
            link.pin(pins.join(format!("{program}-{}", device.replace('.', "-"))))?;
        }
        // As at the far end of a cable: an agent that takes the device for a veth runs XDP on it.
        let pass: &mut Xdp = ebpf
            .program_mut("lab_xdp_pass")
            .context("no such program")?
            .try_into()?;
        pass.load()?;
        let link = pass.attach(&inside, XdpMode::Driver)?;
        let link = FdLink::try_from(pass.take_link(link)?)?;
        link.pin(pins.join(format!("lab_xdp_pass-{}", device.replace('.', "-"))))?;
        Ok(())
    })?
}
