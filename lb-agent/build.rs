//! Compiles the kernel programs, which the agent carries within itself; see `src/object.rs`.

use std::{
    env, fs, io,
    os::unix,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

/// Binaries of lb-ebpf.
const OBJECTS: [&str; 2] = ["lb", "lab"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={}", toolchain::VARIABLE);
    // The profile of the programs stands there.
    println!("cargo:rerun-if-changed=../Cargo.toml");
    let compiler = toolchain::find().context(
        "no toolchain here can compile for eBPF; `cargo xtask setup` installs one (docs/development.md)",
    )?;
    for (name, value) in toolchain::ENVIRONMENT {
        // SAFETY: a build script has one thread until aya-build starts its own, below.
        unsafe { env::set_var(name, value) };
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    share_target(&out)?;
    // Cargo tells a build script its package's features by such variables.
    let is_lab = env::var_os("CARGO_FEATURE_LAB_LAYOUT").is_some();
    let programs = Package {
        name: "lb-ebpf",
        root_dir: "../lb-ebpf",
        features: if is_lab { &["lab-layout"] } else { &[] },
        ..Package::default()
    };
    aya_build::build_ebpf([programs], Toolchain::Custom(&compiler))
        .context("the eBPF programs do not build; `cargo xtask setup` checks the tools")?;
    if env::var_os("AYA_BUILD_SKIP").is_some() {
        stand_in(&out)?;
    }
    Ok(())
}

/// Lets aya-build work in `target/ebpf`, where `cargo xtask build-ebpf` works too: otherwise every
/// profile, and every version of this script, compiles `core` anew.
fn share_target(out: &Path) -> Result<()> {
    // Cargo marks the top of its target directory; without the mark nothing is shared.
    let Some(target) = out
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").exists())
    else {
        return Ok(());
    };
    let shared = target.join("ebpf");
    let own = out.join("aya-build/target");
    fs::create_dir_all(&shared)
        .and_then(|()| fs::create_dir_all(&own))
        .and_then(|()| link(&shared, &own.join("lb-ebpf")))
        .with_context(|| format!("cannot share {}", shared.display()))
}

/// Makes `at` a link to `to`. A copied target directory brings links into the one it was copied
/// from; these are replaced. What is no link is left alone.
fn link(to: &Path, at: &Path) -> io::Result<()> {
    match unix::fs::symlink(to, at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result,
    }
    if !at.is_symlink() || fs::read_link(at)? == to {
        return Ok(());
    }
    fs::remove_file(at)?;
    unix::fs::symlink(to, at)
}

/// With `AYA_BUILD_SKIP=1` nothing is built, and linters still need the files that `object.rs`
/// includes. An empty object does not load, so nobody runs one by mistake.
fn stand_in(out: &Path) -> Result<()> {
    for object in OBJECTS {
        let path = out.join(object);
        if !path.exists() {
            fs::write(&path, []).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}
