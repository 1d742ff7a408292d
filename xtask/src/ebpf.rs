//! `cargo xtask build-ebpf`: the kernel programs alone, as lb-agent's build script builds them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{process, setup, toolchain, workspace::Workspace};

/// Builds the programs and returns the path of the shipped object.
pub(crate) fn build() -> Result<PathBuf> {
    setup::for_building()?;
    let workspace = Workspace::find()?;
    let compiler = toolchain::find().context("no toolchain can compile for eBPF")?;
    println!("ebpf: building the programs with toolchain {compiler}");
    let target = workspace.target.join("ebpf");
    let mut command = process::clean("rustup");
    command
        .current_dir(&workspace.root)
        .args([
            "run",
            &compiler,
            "cargo",
            "build",
            "--release",
            "--package",
            "lb-ebpf",
            "--bins",
        ])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .envs(toolchain::ENVIRONMENT)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags())
        // They name the host's compiler when cargo runs us.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    process::run(&mut command)?;
    Ok(target.join(TARGET).join("release/lb"))
}

const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// The flags that aya-build passes: the kernel's headers differ by processor, and maps get their
/// field names from debug information.
fn rust_flags() -> String {
    let processor = std::env::consts::ARCH;
    [
        &format!("--cfg=bpf_target_arch=\"{processor}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ]
    .join("\u{1f}")
}
