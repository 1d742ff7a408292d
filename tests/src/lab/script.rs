//! Scripts for `ip`, `bridge` and `nft`, run inside of a namespace.
//!
//! One process sets up a whole namespace, in words that a person can read and repeat.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::netns::Netns;

/// Runs `ip` commands (without the word `ip`), one a line; the first that fails ends it.
pub(super) fn ip(netns: &Netns, commands: &[impl AsRef<str>]) -> Result<()> {
    batch(netns, "ip", commands)
}

/// Runs `bridge` commands (without the word `bridge`), one a line.
pub(super) fn bridge(netns: &Netns, commands: &[impl AsRef<str>]) -> Result<()> {
    batch(netns, "bridge", commands)
}

/// Loads an nftables rule set.
pub(super) fn nft(netns: &Netns, rules: &str) -> Result<()> {
    run(netns.command("nft").args(["-f", "-"]), netns, rules)
}

fn batch(netns: &Netns, program: &str, commands: &[impl AsRef<str>]) -> Result<()> {
    let commands: Vec<_> = commands.iter().map(AsRef::as_ref).collect();
    let mut command = netns.command(program);
    run(command.args(["-batch", "-"]), netns, &commands.join("\n"))
}

fn run(command: &mut Command, netns: &Netns, script: &str) -> Result<()> {
    let (status, stdout, stderr) = feed(command, script)?;
    let program = command.get_program().display();
    ensure!(
        status,
        "{program} in {}: {stderr}{stdout}in this script:\n{script}",
        netns.name()
    );
    Ok(())
}

/// Runs a command on an input: whether it succeeded, its output, its error output.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<(bool, String, String)> {
    let program = command.get_program().display().to_string();
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes.spawn().with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    // The inputs here fit into a pipe: no need to read and write at the same time. Who
    // does not read all of it says why in its output.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    ))
}
