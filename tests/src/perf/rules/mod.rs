//! Rules such as kube-proxy's, for comparison: the same chains and maps, with the same matches.

mod iptables;
mod nftables;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;

use super::services::{Family, Services};
use crate::lab::{Node, Place as _};

/// Marks what is to leave with the node's address.
const MASQUERADE: u32 = 0x4000;

/// What the rules are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dialect {
    /// `iptables-nft`.
    Iptables,
    Nftables,
}

impl Dialect {
    /// What takes the rules, as it says itself.
    pub(super) fn version(self) -> Result<String> {
        let output = Command::new(self.program(Family::V4)[0])
            .arg("--version")
            .output()
            .with_context(|| format!("run {}", self.program(Family::V4)[0]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn program(self, family: Family) -> &'static [&'static str] {
        match (self, family) {
            (Self::Iptables, Family::V4) => &["iptables-nft-restore", "--noflush"],
            (Self::Iptables, Family::V6) => &["ip6tables-nft-restore", "--noflush"],
            (Self::Nftables, _) => &["nft", "-f", "-"],
        }
    }

    /// Writes the Services of a family on a node, and how long that took.
    pub(super) fn write(
        self,
        node: &Node,
        services: &Services,
        family: Family,
    ) -> Result<Duration> {
        let scripts = match self {
            Self::Iptables => vec![iptables::script(services, family)],
            Self::Nftables => nftables::scripts(services, family),
        };
        let begin = Instant::now();
        for script in scripts {
            let [program, arguments @ ..] = self.program(family) else {
                continue;
            };
            let mut command = node.netns().command(program);
            feed(command.args(arguments), &script)
                .with_context(|| format!("write {} Services by {program}", services.count))?;
        }
        Ok(begin.elapsed())
    }
}

/// Runs a command on an input that is longer than a pipe.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    // Who does not read all of it says why in its output.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let end: String = said.lines().take(5).collect::<Vec<_>>().join("\n");
    ensure!(output.status.success(), "{}: {end}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::Protocol;

    pub(super) fn services() -> Services {
        Services {
            count: 2,
            protocol: Protocol::Udp,
            backends: [
                "10.244.2.2:9000",
                "10.244.2.2:9001",
                "[fd00:10:244:2::2]:9000",
            ]
            .map(|addr| addr.parse().unwrap())
            .to_vec(),
            node: "node2".to_owned(),
        }
    }
}
