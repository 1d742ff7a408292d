//! From what is there to what has to be done. Pure.

use std::fmt;

use super::found::{Apt, Found};

/// bpf-linker as cargo installs it.
pub(super) const LINKER: &str = "bpf-linker@0.13.0";

/// Debian's packages for the eBPF target: a compiler with its library's sources, and LLVM of the
/// same major version for bpf-linker.
pub(super) const COMPILER: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];

/// A tool of the tests and the demo.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tool {
    /// Command or path that shows it is there.
    pub(super) proof: &'static str,
    /// Debian's package.
    pub(super) package: &'static str,
}

/// Tools that the lab calls.
pub(super) const TOOLS: [Tool; 7] = [
    Tool {
        proof: "bpftool",
        package: "bpftool",
    },
    Tool {
        proof: "ip",
        package: "iproute2",
    },
    Tool {
        proof: "ping",
        package: "iputils-ping",
    },
    Tool {
        proof: "nft",
        package: "nftables",
    },
    Tool {
        proof: "iptables",
        package: "iptables",
    },
    Tool {
        proof: "ethtool",
        package: "ethtool",
    },
    Tool {
        proof: "/usr/lib/cni/bridge",
        package: "containernetworking-plugins",
    },
];

/// How much of it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Compilers only.
    Building,
    /// What the tests and the demo call, too.
    Everything,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Install Debian packages.
    Packages(Vec<&'static str>),
    /// Make the system's compiler a toolchain of rustup's.
    LinkToolchain,
    /// Install a nightly with its sources.
    Nightly,
    /// Compile bpf-linker against the system's LLVM.
    CompileLinker,
    /// Download bpf-linker.
    DownloadLinker,
    /// Mount the BPF file system.
    MountBpffs,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(names) => write!(f, "installing Debian packages: {}", names.join(" ")),
            Self::LinkToolchain => f.write_str(
                "linking the system's compiler, which has the sources that the eBPF target needs",
            ),
            Self::Nightly => f.write_str(
                "installing a nightly compiler with the sources that the eBPF target needs",
            ),
            Self::CompileLinker => {
                f.write_str("compiling bpf-linker, which turns Rust into eBPF objects (a minute)")
            }
            Self::DownloadLinker => {
                f.write_str("downloading bpf-linker, which turns Rust into eBPF objects")
            }
            Self::MountBpffs => {
                f.write_str("mounting the BPF file system, where the agent pins its maps")
            }
        }
    }
}

/// Whether nothing has to be done.
pub(super) fn is_complete(found: &Found, need: Need) -> bool {
    let builds = found.toolchain && found.linker;
    builds && (need == Need::Building || (found.missing.is_empty() && found.bpffs))
}

/// Whether something is missing that may come as a Debian package.
pub(super) fn wants_packages(found: &Found, need: Need) -> bool {
    (!found.toolchain && !found.system_compiler)
        || (!found.linker && !found.llvm_22)
        || (need == Need::Everything && !found.missing.is_empty())
}

/// The steps, in order.
///
/// # Errors
///
/// What somebody has to do by hand, if a needed thing cannot be installed here.
pub(super) fn plan(found: &Found, need: Need) -> Result<Vec<Step>, Vec<String>> {
    let mut plan = Plan::default();
    plan.toolchain(found);
    plan.linker(found);
    if need == Need::Everything {
        plan.tools(found);
        plan.bpffs(found);
    }
    if !plan.by_hand.is_empty() {
        return Err(plan.by_hand);
    }
    let packages = (!plan.packages.is_empty()).then_some(Step::Packages(plan.packages));
    Ok(packages.into_iter().chain(plan.steps).collect())
}

/// Steps as they are found necessary. Packages come first, in one call of apt.
#[derive(Default)]
struct Plan {
    packages: Vec<&'static str>,
    steps: Vec<Step>,
    by_hand: Vec<String>,
}

impl Plan {
    fn toolchain(&mut self, found: &Found) {
        if found.toolchain {
            return;
        }
        if found.system_compiler {
            self.steps.push(Step::LinkToolchain);
        } else if found.apt == Apt::ToolsAndCompiler {
            self.packages.extend(COMPILER);
            self.steps.push(Step::LinkToolchain);
        } else {
            self.steps.push(Step::Nightly);
        }
    }

    fn linker(&mut self, found: &Found) {
        if found.linker {
            return;
        }
        let llvm_comes = self.packages.contains(&"llvm-22-dev");
        if found.llvm_22 || llvm_comes {
            self.steps.push(Step::CompileLinker);
        } else if found.apt == Apt::ToolsAndCompiler {
            self.packages.push("llvm-22-dev");
            self.steps.push(Step::CompileLinker);
        } else if found.binstall {
            self.steps.push(Step::DownloadLinker);
        } else {
            self.by_hand.push(format!(
                "bpf-linker: `cargo binstall {LINKER}`, or `cargo install {LINKER}` beside an LLVM with headers"
            ));
        }
    }

    fn tools(&mut self, found: &Found) {
        let packages = found.missing.iter().map(|tool| tool.package);
        if found.apt == Apt::Nothing {
            self.by_hand.extend(found.missing.iter().map(|tool| {
                format!(
                    "{}: install it (Debian's package is {}), as root",
                    tool.proof, tool.package
                )
            }));
        } else {
            self.packages.extend(packages);
        }
    }

    fn bpffs(&mut self, found: &Found) {
        if found.bpffs {
            return;
        }
        if found.root {
            self.steps.push(Step::MountBpffs);
        } else {
            self.by_hand
                .push("/sys/fs/bpf: `mount -t bpf bpf /sys/fs/bpf`, as root".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that lacks nothing.
    fn complete() -> Found {
        Found {
            root: true,
            toolchain: true,
            linker: true,
            bpffs: true,
            ..Found::default()
        }
    }

    /// A machine with rustup's stable toolchain and Debian's packages.
    fn fresh() -> Found {
        Found {
            root: true,
            apt: Apt::ToolsAndCompiler,
            missing: TOOLS.iter().collect(),
            ..Found::default()
        }
    }

    #[test]
    fn complete_machine_has_nothing_to_do() {
        assert!(is_complete(&complete(), Need::Everything));
        assert_eq!(plan(&complete(), Need::Everything), Ok(vec![]));
    }

    #[test]
    fn fresh_debian_gets_packages_in_one_step_then_what_needs_them() {
        let steps = plan(&fresh(), Need::Everything).unwrap();
        let packages = COMPILER
            .into_iter()
            .chain(TOOLS.map(|tool| tool.package))
            .collect();
        assert_eq!(
            steps,
            [
                Step::Packages(packages),
                Step::LinkToolchain,
                Step::CompileLinker,
                Step::MountBpffs
            ]
        );
    }

    #[test]
    fn building_needs_no_tools_of_the_tests() {
        let found = Found {
            missing: TOOLS.iter().collect(),
            bpffs: false,
            ..complete()
        };
        assert!(is_complete(&found, Need::Building));
        assert!(!is_complete(&found, Need::Everything));
        assert_eq!(plan(&found, Need::Building), Ok(vec![]));
    }

    #[test]
    fn apt_is_not_asked_for_what_no_package_has() {
        assert!(!wants_packages(
            &Found {
                bpffs: false,
                ..complete()
            },
            Need::Everything
        ));
        assert!(!wants_packages(
            &Found {
                missing: TOOLS.iter().collect(),
                ..complete()
            },
            Need::Building
        ));
        assert!(wants_packages(&fresh(), Need::Building));
    }

    #[test]
    fn installed_compiler_is_linked_and_not_installed_again() {
        let found = Found {
            toolchain: false,
            system_compiler: true,
            ..complete()
        };
        assert_eq!(plan(&found, Need::Building), Ok(vec![Step::LinkToolchain]));
    }

    #[test]
    fn without_the_packages_rustup_and_binstall_step_in() {
        for apt in [Apt::Nothing, Apt::Tools] {
            let found = Found {
                apt,
                toolchain: false,
                linker: false,
                binstall: true,
                ..complete()
            };
            assert_eq!(
                plan(&found, Need::Building),
                Ok(vec![Step::Nightly, Step::DownloadLinker])
            );
        }
    }

    #[test]
    fn linker_alone_brings_llvm_if_it_is_not_there() {
        let found = Found {
            linker: false,
            apt: Apt::ToolsAndCompiler,
            ..complete()
        };
        let steps = vec![Step::Packages(vec!["llvm-22-dev"]), Step::CompileLinker];
        assert_eq!(plan(&found, Need::Building), Ok(steps));
        let found = Found {
            linker: false,
            llvm_22: true,
            ..complete()
        };
        assert_eq!(plan(&found, Need::Building), Ok(vec![Step::CompileLinker]));
    }

    #[test]
    fn everything_that_cannot_be_installed_is_named_at_once() {
        let found = Found {
            root: false,
            apt: Apt::Nothing,
            linker: false,
            bpffs: false,
            ..fresh()
        };
        let by_hand = plan(&found, Need::Everything).unwrap_err().join("\n");
        for name in [
            "bpf-linker",
            "bpftool",
            "iproute2",
            "/usr/lib/cni/bridge",
            "mount -t bpf",
        ] {
            assert!(by_hand.contains(name), "{name} is not in: {by_hand}");
        }
    }
}
