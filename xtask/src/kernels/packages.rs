//! Debian's packages of another suite: downloaded and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Choice;
use crate::process;

/// Where the machine's own sources are.
const SOURCES: &str = "/etc/apt/sources.list.d";

/// A kernel that is unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    /// What boots.
    pub(super) image: PathBuf,
    /// The directory that has `lib/modules`.
    pub(super) base: PathBuf,
}

/// Downloads and unpacks a kernel, unless that has been done.
pub(super) fn fetch(directory: &Path, choice: Choice) -> Result<Kernel> {
    let unpacked = directory.join("unpacked");
    if !unpacked.exists() {
        let apt = Apt::prepare(directory, choice.suite)?;
        let package = apt.newest(choice.series)?;
        println!("kernels: {package} of {}", choice.suite);
        let partial = directory.join("partial");
        let _absent = fs::remove_dir_all(&partial);
        for package in apt.with_parts(&package)? {
            let file = apt.download(&package)?;
            process::run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&partial))?;
        }
        fs::rename(&partial, &unpacked).context("cannot keep what was unpacked")?;
    }
    find(&unpacked)
}

/// Finds the parts of an unpacked kernel.
fn find(unpacked: &Path) -> Result<Kernel> {
    let bases = [unpacked.join("usr"), unpacked.to_owned()];
    let base = bases
        .into_iter()
        .find(|base| base.join("lib/modules").is_dir());
    let base = base.context("the packages have no modules")?;
    let modules = base.join("lib/modules");
    let release = first(&modules, |_| true).context("the packages have no modules")?;
    let images = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        modules.join(&release).join("vmlinuz"),
    ];
    let image = images.into_iter().find(|image| image.is_file());
    let mut depmod = Command::new("depmod");
    process::output(depmod.arg("-b").arg(&base).arg(&release))?;
    Ok(Kernel {
        image: image.context("the packages have no kernel")?,
        release,
        base,
    })
}

/// The first name in a directory that is meant.
fn first(directory: &Path, is_meant: impl Fn(&str) -> bool) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_meant(name))
        .collect();
    names.sort();
    names.into_iter().next()
}

/// An apt with directories of its own.
struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn prepare(directory: &Path, suite: &str) -> Result<Self> {
        let at = |name: &str| directory.join("apt").join(name);
        for name in [
            "etc/sources.list.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            fs::create_dir_all(at(name)).with_context(|| format!("cannot create {name}"))?;
        }
        let sources = own_sources()?;
        let sources = of_suite(&sources, suite).with_context(|| {
            format!(
                "{SOURCES} has no stanza with `Suites:` whose suite could be exchanged for {suite}"
            )
        })?;
        fs::write(at("etc/sources.list.d/debian.sources"), sources)?;
        fs::write(at("status"), "")?;
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        let apt = Self {
            directory: directory.to_owned(),
            options: vec![
                option("Dir::Etc", &at("etc")),
                option("Dir::State", &at("state")),
                option("Dir::Cache", &at("cache")),
                option("Dir::State::status", &at("status")),
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
                "Acquire::Check-Valid-Until=false".to_owned(),
            ],
        };
        process::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let said = process::output(self.command("apt-cache").args(arguments))?;
        String::from_utf8(said).context("apt's words are not UTF-8")
    }

    /// The newest kernel for clouds of a series.
    fn newest(&self, series: &str) -> Result<String> {
        let pattern = format!("^linux-image-{series}[0-9.].*-cloud-amd64$");
        let said = self.ask(&["search", "--names-only", &pattern])?;
        let names = said.lines().filter_map(|line| line.split(' ').next());
        names
            .max_by_key(|name| version(name))
            .map(str::to_owned)
            .with_context(|| format!("no kernel {series} for clouds"))
    }

    /// A package, and those of its parts that have a package of their own.
    fn with_parts(&self, package: &str) -> Result<Vec<String>> {
        let said = self.ask(&["depends", package])?;
        let parts = said.lines().filter_map(|line| {
            let name = line.trim().strip_prefix("Depends: ")?;
            let is_part = ["linux-binary-", "linux-modules-"]
                .iter()
                .any(|part| name.starts_with(part));
            is_part.then(|| name.to_owned())
        });
        Ok([package.to_owned()].into_iter().chain(parts).collect())
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        process::output(self.command("apt-get").args(["download", package]))?;
        let is_its =
            |name: &str| name.starts_with(&format!("{package}_")) && name.ends_with(".deb");
        let file = first(&self.directory, is_its);
        Ok(self.directory.join(file.context("apt downloaded nothing")?))
    }
}

/// The machine's own entries.
fn own_sources() -> Result<String> {
    let mut text = String::new();
    let entries = fs::read_dir(SOURCES).with_context(|| format!("cannot list {SOURCES}"))?;
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sources")
        {
            text += &fs::read_to_string(&path)?;
            text += "\n\n";
        }
    }
    if text.is_empty() {
        bail!("{SOURCES} has no entries in the format of deb822");
    }
    Ok(text)
}

/// The first entry of Debian itself, for another suite.
fn of_suite(sources: &str, suite: &str) -> Option<String> {
    let is_debian = |stanza: &&str| {
        let line = |start: &str| stanza.lines().find(|line| line.starts_with(start));
        line("Suites:").is_some_and(|line| !line.contains("security"))
            && line("Components:").is_some_and(|line| line.contains("main"))
            && line("Signed-By:").is_some_and(|line| line.contains("debian"))
    };
    let stanza = sources.split("\n\n").find(is_debian)?;
    let lines = stanza
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            if line.starts_with("Suites:") {
                format!("Suites: {suite}")
            } else {
                line.to_owned()
            }
        });
    let lines: Vec<_> = lines.collect();
    Some(lines.join("\n") + "\n")
}

/// The numbers of a name, in their order.
fn version(name: &str) -> Vec<u64> {
    let numbers = name.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_kernel_is_the_one_of_the_highest_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-47-cloud-amd64",
        ];
        let newest = names.into_iter().max_by_key(|name| version(name));
        assert_eq!(newest, Some(names[1]));
    }

    #[test]
    fn entry_of_the_machine_is_taken_over_with_another_suite() {
        let keys = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg";
        let stanza = |suites: &str| {
            format!(
                "Types: deb\n# no\nURIs: http://example.org/debian\nSuites: {suites}\nComponents: main\n{keys}\n"
            )
        };
        let sources = [
            stanza("bookworm-security"),
            stanza("bookworm bookworm-updates"),
        ]
        .join("\n");
        let expected = stanza("sid").replace("# no\n", "");
        assert_eq!(of_suite(&sources, "sid"), Some(expected));
        assert_eq!(of_suite("Types: deb\nSuites: x\n", "sid"), None);
    }
}
