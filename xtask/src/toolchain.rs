//! The one place that decides which compiler builds the eBPF programs, and how.
//!
//! The eBPF target has no prebuilt `core`: the compiler needs the sources of its own standard
//! library. lb-agent's build script includes this file too; hence it uses nothing but `std`.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Environment variable that names the toolchain to use, whatever else is installed.
pub(crate) const VARIABLE: &str = "LB_EBPF_TOOLCHAIN";

/// The toolchain that `cargo xtask setup` links to the system's compiler.
pub(crate) const LINKED: &str = "bpf";

/// Environment of the cargo that builds the programs, and of no other.
///
/// aya-build fixes `RUSTFLAGS`, so the processor is chosen through the profile: version 3 has
/// 32-bit arithmetic and jumps, which save an instruction on most comparisons, and every kernel
/// since 5.1 runs it. Build scripts and macros of that build run on the host, and keep its
/// default processor.
pub(crate) const ENVIRONMENT: [(&str, &str); 5] = [
    // Unstable features (`build-std`, inline assembly for BPF) with a stable compiler.
    ("RUSTC_BOOTSTRAP", "1"),
    ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
    ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3"),
    (
        "CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS",
        "-Ctarget-cpu=generic",
    ),
    // Build scripts turn each line of output into a warning.
    ("CARGO_TERM_QUIET", "true"),
];

/// Name of the toolchain that builds the programs, or `None` if none that could is installed.
pub(crate) fn find() -> Option<String> {
    let named = env::var(VARIABLE).ok().filter(|name| !name.is_empty());
    named.or_else(|| choose(&directory()?))
}

/// A nightly that has its sources, plain `nightly` before dated ones; else the linked one.
fn choose(toolchains: &Path) -> Option<String> {
    let names = toolchains.read_dir().ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        has_sources(&toolchains.join(&name)).then_some(name)
    });
    names
        .filter_map(|name| Some((rank(&name)?, name)))
        .max()
        .map(|(_, name)| name)
}

/// Order of preference; `None` for toolchains that are never chosen.
fn rank(name: &str) -> Option<u8> {
    if name == LINKED {
        return Some(0);
    }
    let of_a_day = name
        .strip_prefix("nightly-")?
        .starts_with(|first: char| first.is_ascii_digit());
    Some(if of_a_day { 1 } else { 2 })
}

/// Whether the toolchain can compile `core`.
fn has_sources(toolchain: &Path) -> bool {
    let sources = "lib/rustlib/src/rust/library/core/src/lib.rs";
    toolchain.join("bin/rustc").exists() && toolchain.join(sources).exists()
}

/// Where rustup keeps toolchains.
fn directory() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")))?;
    Some(home.join("toolchains"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn installed(names: &[(&str, bool)]) -> Option<String> {
        let home = tempfile::tempdir().unwrap();
        for &(name, with_sources) in names {
            let toolchain = home.path().join(name);
            fs::create_dir_all(toolchain.join("bin")).unwrap();
            fs::write(toolchain.join("bin/rustc"), "").unwrap();
            if with_sources {
                let core = toolchain.join("lib/rustlib/src/rust/library/core/src");
                fs::create_dir_all(&core).unwrap();
                fs::write(core.join("lib.rs"), "").unwrap();
            }
        }
        choose(home.path())
    }

    #[test]
    fn nightly_with_sources_is_preferred_to_the_linked_toolchain() {
        let both = [("bpf", true), ("nightly-x86_64-unknown-linux-gnu", true)];
        assert_eq!(
            installed(&both).as_deref(),
            Some("nightly-x86_64-unknown-linux-gnu")
        );
    }

    #[test]
    fn nightly_without_sources_is_passed_over() {
        let names = [("bpf", true), ("nightly-x86_64-unknown-linux-gnu", false)];
        assert_eq!(installed(&names).as_deref(), Some("bpf"));
    }

    #[test]
    fn plain_nightly_is_preferred_to_a_dated_one_and_the_newest_of_those() {
        let plain = [
            ("nightly-2026-01-02-x86_64", true),
            ("nightly-x86_64", true),
        ];
        assert_eq!(installed(&plain).as_deref(), Some("nightly-x86_64"));
        let dated = [
            ("nightly-2026-01-02-x86_64", true),
            ("nightly-2025-12-31-x86_64", true),
        ];
        assert_eq!(
            installed(&dated).as_deref(),
            Some("nightly-2026-01-02-x86_64")
        );
    }

    #[test]
    fn stable_toolchains_are_never_chosen() {
        assert_eq!(
            installed(&[("stable-x86_64-unknown-linux-gnu", true)]),
            None
        );
        assert_eq!(installed(&[("bpf", false)]), None);
    }
}
