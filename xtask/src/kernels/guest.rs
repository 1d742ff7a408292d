//! A machine with another kernel: its files, and what it tells; and this one.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{Binaries, packages::Kernel};
use crate::{process, tally::Tally};

/// How long a machine may take, in seconds.
const SECONDS: &str = "1500";

/// Modules that the programs and the lab need, where they are not built in.
const MODULES: [&str; 15] = [
    "veth",
    "bridge",
    "vxlan",
    "8021q",
    "af_packet",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_compat",
    "br_netfilter",
    "xt_conntrack",
];

/// Tables of packets: those about flows, ports, both sides of a node, and errors.
const PROGRAMS: &str =
    "conflicts:: datagrams:: errors:: established:: flows:: inside:: outside:: pieces::";

/// Walks through a small cluster.
const CLUSTERS: &str = "walks::walk_1_pod_to_cluster_ip_on_a_routed_cni \
    walks::walk_4_process_of_the_node_to_cluster_ip_and_node_ports \
    walks::walk_5_outside_to_node_port_with_the_backend_on_this_node \
    walks::walk_6_outside_to_node_port_with_the_backend_on_another_node_is_carried_by_xdp";

/// Commands that busybox is.
const APPLETS: [&str; 6] = ["sh", "mount", "mkdir", "uname", "poweroff", "timeout"];

/// What is called by its name.
const COMMANDS: [&str; 5] = ["ip", "bridge", "tc", "nft", "kmod"];

const CNI: &str = "/usr/lib/cni";

/// What a machine has told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// As `uname -r` says.
    pub(super) release: String,
    /// Lines of `lb-agent features`.
    pub(super) features: Vec<String>,
    /// Tables of packets.
    pub(super) programs: Tally,
    /// Walks through a cluster.
    pub(super) clusters: Tally,
    /// Whether it has come to its end.
    pub(super) is_complete: bool,
    /// What the kernel had against the programs, if anything.
    pub(super) reason: Option<String>,
}

/// Boots a kernel, and lets it tell.
pub(super) fn try_on(directory: &Path, kernel: &Kernel, binaries: &Binaries) -> Result<Told> {
    let archive = archive(directory, kernel, binaries)?;
    println!("kernels: Linux {}", kernel.release);
    let mut machine = Command::new("timeout");
    machine.args([SECONDS, "qemu-system-x86_64"]);
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    machine.args(["-m", "3072", "-nographic", "-no-reboot", "-nic", "none"]);
    machine.arg("-kernel").arg(&kernel.image);
    machine.arg("-initrd").arg(archive);
    machine.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    listen(machine, &kernel.release)
}

/// Lets this machine tell the same.
pub(super) fn try_here(binaries: &Binaries) -> Result<Told> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(RELEASE).with_context(|| format!("cannot read {RELEASE}"))?;
    // What follows the version is of interest to whoever has built it.
    let release = release.trim().split('-').next().unwrap_or_default();
    println!("kernels: Linux {release}, which this machine has");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script(
        &binaries.agent,
        &binaries.programs,
        &binaries.clusters,
    ));
    shell.env("LB_AGENT_BIN", &binaries.agent);
    shell.env("RUST_BACKTRACE", "0").stderr(Stdio::null());
    listen(shell, release)
}

/// Runs a machine, and sorts what it says.
fn listen(mut machine: Command, release: &str) -> Result<Told> {
    let machine = machine.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = machine
        .spawn()
        .with_context(|| format!("cannot run {machine:?}"))?;
    let stdout = machine.stdout.take().context("no output")?;
    let mut listener = Listener::new(release);
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the machine's output")?;
        let line = String::from_utf8_lossy(&line);
        listener.hear(line.trim_end());
    }
    machine.wait().context("lost the machine")?;
    Ok(listener.told)
}

/// What lets a machine tell.
fn script(agent: &Path, programs: &Path, clusters: &Path) -> String {
    let [agent, programs, clusters] = [agent, programs, clusters].map(Path::display);
    format!(
        "echo\n\
         echo == features\n\
         {agent} features\n\
         echo == programs\n\
         timeout 600 {programs} --test-threads 1 {PROGRAMS}\n\
         echo == clusters\n\
         timeout 600 {clusters} --test-threads 1 --exact {CLUSTERS}\n\
         echo == end\n"
    )
}

/// What a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Boot,
    Features,
    Programs,
    Clusters,
}

/// Sorts lines.
struct Listener {
    told: Told,
    part: Part,
    /// Whether the agent has said what is missing.
    is_told: bool,
    /// Whether it is being told what has failed, and why.
    is_failing: bool,
}

impl Listener {
    fn new(release: &str) -> Self {
        let told = Told {
            release: release.to_owned(),
            ..Told::default()
        };
        Self {
            told,
            part: Part::Boot,
            is_told: false,
            is_failing: false,
        }
    }

    fn hear(&mut self, line: &str) {
        match line {
            "== features" => self.part = Part::Features,
            "== programs" => self.part = Part::Programs,
            "== clusters" => self.part = Part::Clusters,
            "== end" => self.told.is_complete = true,
            _ => self.note(line),
        }
    }

    fn note(&mut self, line: &str) {
        self.is_failing = line == "failures:" || self.is_failing && !line.starts_with("test ");
        if line.starts_with("test ") || self.is_failing {
            println!("  {line}");
        }
        if let Some(lacking) = lacking(line) {
            self.told.reason = Some(lacking);
            self.is_told = true;
        }
        if let Some((_, output)) = line.split_once("Verifier output: ") {
            self.told.reason.get_or_insert(output.to_owned());
        }
        let told = &mut self.told;
        match self.part {
            Part::Boot => {}
            Part::Features if line.is_empty() => {}
            Part::Features => told.features.push(line.to_owned()),
            Part::Programs => told.programs.read(line),
            Part::Clusters => told.clusters.read(line),
        }
        // The verifier's last word comes before it counts.
        if self.told.reason.is_some() && line.contains("verification time") {
            return;
        }
        if let Some(reason) = &mut self.told.reason
            && !self.is_told
            && is_verdict(line)
        {
            line.trim().clone_into(reason);
        }
    }
}

/// What the agent says that the kernel has not.
fn lacking(line: &str) -> Option<String> {
    let (_, lacking) = line.split_once("this kernel lacks ")?;
    let (feature, _) = lacking.split_once(": ")?;
    Some(format!("it lacks {feature}"))
}

/// Whether a line of the verifier's says what it has against a program.
fn is_verdict(line: &str) -> bool {
    const WORDS: [&str; 7] = [
        "invalid ",
        "unknown func",
        "not allowed",
        "Too large",
        "too complex",
        "misaligned",
        "unreachable",
    ];
    !line.contains(';') && WORDS.iter().any(|word| line.contains(word))
}

/// Packs the machine's files.
fn archive(directory: &Path, kernel: &Kernel, binaries: &Binaries) -> Result<PathBuf> {
    let root = Root(directory.join("root"));
    let _absent = fs::remove_dir_all(&root.0);
    for name in ["proc", "sys", "dev", "tmp", "run", "etc", "root", "var/run"] {
        fs::create_dir_all(root.0.join(name))?;
    }
    let busybox = which::which("busybox").context("busybox is not there")?;
    root.put(&busybox, "/bin/busybox")?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.0.join("bin").join(applet))?;
    }
    for command in COMMANDS {
        let path = which::which(command).with_context(|| format!("{command} is not there"))?;
        root.put(&path, &format!("/usr/sbin/{command}"))?;
    }
    std::os::unix::fs::symlink("kmod", root.0.join("usr/sbin/insmod"))?;
    for plugin in ["bridge", "ptp", "host-local"] {
        let path = format!("{CNI}/{plugin}");
        root.put(Path::new(&path), &path)?;
    }
    root.put_stripped(&binaries.agent, "/lb/lb-agent")?;
    root.put_stripped(&binaries.tool, "/lb/lab-tool")?;
    root.put_stripped(&binaries.programs, "/lb/deps/programs")?;
    root.put_stripped(&binaries.clusters, "/lb/deps/e2e")?;
    let modules = root.put_modules(kernel)?;
    root.put_init(&modules)?;
    let archive = directory.join("root.gz");
    let mut shell = Command::new("sh");
    shell.args(["-c", "find . | cpio -o -H newc --quiet | gzip -1"]);
    let output = File::create(&archive).context("cannot create the archive")?;
    process::run(shell.current_dir(&root.0).stdout(output))?;
    Ok(archive)
}

/// The machine's file system.
struct Root(PathBuf);

impl Root {
    fn at(&self, path: &str) -> Result<PathBuf> {
        let path = self.0.join(path.trim_start_matches('/'));
        let parent = path.parent().context("a path has no directory")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        Ok(path)
    }

    /// Copies a program, and the libraries that it is linked with.
    fn put(&self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        self.put_libraries(from)
    }

    fn put_stripped(&self, from: &Path, to: &str) -> Result<()> {
        let mut strip = Command::new("strip");
        process::run(strip.arg("-g").arg("-o").arg(self.at(to)?).arg(from))?;
        self.put_libraries(from)
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.at(to)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    fn put_libraries(&self, program: &Path) -> Result<()> {
        // It fails for what is linked statically, and says nothing then.
        let said = Command::new("ldd")
            .arg(program)
            .output()
            .context("run ldd")?;
        let said = String::from_utf8_lossy(&said.stdout);
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = library.trim_end_matches(':');
            if !self.at(library)?.exists() {
                self.copy(Path::new(library), library)?;
            }
        }
        Ok(())
    }

    /// Copies modules with those that they need; their paths, in the order in which they are inserted.
    fn put_modules(&self, kernel: &Kernel) -> Result<Vec<String>> {
        let mut paths: Vec<String> = Vec::new();
        for module in MODULES {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("--dirname").arg(&kernel.base);
            modprobe.args(["--set-version", &kernel.release, "--show-depends", module]);
            // One that is not there is built in, or a test tells that it is missing.
            let said = modprobe.output().context("run modprobe")?;
            let said = String::from_utf8_lossy(&said.stdout);
            for line in said.lines() {
                let Some(from) = line.strip_prefix("insmod ") else {
                    continue;
                };
                let from = Path::new(from.trim());
                let inner = from
                    .strip_prefix(&kernel.base)
                    .context("a module elsewhere")?;
                let to = format!("/{}", inner.display());
                if !paths.contains(&to) {
                    self.copy(from, &to)?;
                    paths.push(to);
                }
            }
        }
        Ok(paths)
    }

    fn put_init(&self, modules: &[String]) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;

        let modules: Vec<_> = modules
            .iter()
            .map(|path| format!("insmod {path}\n"))
            .collect();
        let script = format!(
            "#!/bin/sh\n\
             export PATH=/usr/sbin:/bin HOME=/root LB_AGENT_BIN=/lb/lb-agent RUST_BACKTRACE=0\n\
             mount -t proc proc /proc\n\
             mount -t sysfs sys /sys\n\
             mount -t devtmpfs dev /dev\n\
             mount -t tmpfs tmp /tmp\n\
             mount -t tmpfs run /run\n\
             mount -t cgroup2 none /sys/fs/cgroup\n\
             mount -t bpf bpf /sys/fs/bpf\n\
             ip link set lo up\n\
             {}\
             {}\
             poweroff -f\n",
            modules.concat(),
            script(
                Path::new("/lb/lb-agent"),
                Path::new("/lb/deps/programs"),
                Path::new("/lb/deps/e2e")
            ),
        );
        let init = self.at("/init")?;
        fs::write(&init, script)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_tells_is_sorted() {
        let mut listener = Listener::new("6.1.0");
        for line in [
            "noise",
            "== features",
            "tcx no filters",
            "== programs",
            "test a::b ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out",
            "== clusters",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out",
            "== end",
        ] {
            listener.hear(line);
        }
        let told = listener.told;
        assert_eq!(told.features, ["tcx no filters"]);
        assert_eq!((told.programs.total(), told.clusters.total()), (1, 3));
        assert!(told.clusters.has_failures() && !told.programs.has_failures());
        assert!(told.is_complete);
        assert_eq!(told.reason, None);
    }

    #[test]
    fn what_the_agent_says_is_the_reason_whatever_the_verifier_says() {
        let mut listener = Listener::new("5.10.0");
        for line in [
            "== programs",
            "a bench: this kernel lacks one thing: nothing is served without (`lb-agent features`)",
            "Verifier output: 0: R1=ctx()",
            "       invalid func unknown#163",
        ] {
            listener.hear(line);
        }
        let reason = listener.told.reason.as_deref();
        assert_eq!(reason, Some("it lacks one thing"));
    }

    #[test]
    fn verifiers_last_word_is_the_reason() {
        let mut listener = Listener::new("5.10.0");
        for line in [
            "== programs",
            "    0: the BPF_PROG_LOAD syscall returned Permission denied. Verifier output: 0: R1=ctx()",
            "       1227: (61) r3 = *(u32 *)(r10 -96)",
            "       invalid read from stack R10 off=-96 size=4",
            "       verification time 7240751 usec",
        ] {
            listener.hear(line);
        }
        let reason = listener.told.reason.as_deref();
        assert_eq!(reason, Some("invalid read from stack R10 off=-96 size=4"));
    }
}
