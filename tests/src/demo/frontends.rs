//! The map of frontends, as `bpftool` reads it.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lb_common::maps::{FRONTENDS, LAYOUT_VERSION};
use lb_common::protocol;
use serde::Deserialize;

use super::scene::Scene;
use super::show::Show;
use crate::lab::Agent;

/// An element, as `bpftool -j map dump` prints it: with the names of the fields, from the
/// map's BTF.
#[derive(Debug, Deserialize)]
struct Element {
    formatted: Formatted,
}

#[derive(Debug, Deserialize)]
struct Formatted {
    key: Key,
    value: Value,
}

#[derive(Debug, Deserialize)]
struct Key {
    addr: Address,
    port: u16,
    protocol: u8,
}

#[derive(Debug, Deserialize)]
struct Address {
    octets: [u8; 16],
}

#[derive(Debug, Deserialize)]
struct Value {
    service: u32,
    generation: u32,
    outside: Extent,
    inside: Extent,
}

#[derive(Debug, Deserialize)]
struct Extent {
    offset: u32,
    bits: u32,
}

impl Key {
    fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.addr.octets).to_canonical()
    }
}

/// Where an agent pins the map.
pub(super) fn pin(agent: &Agent) -> PathBuf {
    let layout = format!("v{LAYOUT_VERSION}");
    agent.pin_dir().join(layout).join("maps").join(FRONTENDS)
}

/// Shows the frontends of the first node.
pub(super) fn show(show: &Show, scene: &Scene) -> Result<()> {
    let pin = pin(scene.agents().first().context("there is no agent")?);
    show.note(&format!("bpftool -j map dump pinned {}", pin.display()));
    let mut elements = dump(&pin)?;
    elements.sort_unstable_by_key(|Formatted { key, .. }| (key.port, key.ip(), key.protocol));
    let mut table = show.new_table(&[
        "KEY.ADDR",
        "PORT",
        "PROTOCOL",
        "VALUE.SERVICE",
        "GENERATION",
        "OUTSIDE",
        "INSIDE",
    ]);
    for Formatted { key, value } in elements {
        let extent =
            |Extent { offset, bits }: &Extent| format!("{} slots at {offset}", 1_u64 << bits);
        table.add_row([
            key.ip().to_string(),
            key.port.to_string(),
            format!("{} ({})", key.protocol, protocol::name(key.protocol)),
            value.service.to_string(),
            value.generation.to_string(),
            extent(&value.outside),
            extent(&value.inside),
        ]);
    }
    show.table(table);
    Ok(())
}

fn dump(pin: &PathBuf) -> Result<Vec<Formatted>> {
    let mut bpftool = Command::new("bpftool");
    let output = bpftool.args(["-j", "map", "dump", "pinned"]).arg(pin);
    let output = output.output().context("run bpftool")?;
    ensure!(
        output.status.success(),
        "bpftool: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let elements: Vec<Element> =
        serde_json::from_slice(&output.stdout).context("read what bpftool prints")?;
    Ok(elements.into_iter().map(|e| e.formatted).collect())
}
