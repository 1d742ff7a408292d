//! kube-proxy's rules: whether there are any, how they are removed, and whose connections they have led
//! elsewhere.
//!
//! They do no harm beside us: what we have translated does not meet them. But what we leave alone
//! does, for one a Service of another proxy, and they go on saying what was true when kube-proxy
//! ended.

mod conntrack;
mod nfnetlink;
mod nftables;
mod undo;

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use lb_common::FrontendKey;

pub use self::conntrack::translated;

/// The chain that kube-proxy's iptables mode is entered by, and the one that packets leave by.
const SERVICES: &str = "KUBE-SERVICES";
const POSTROUTING: &str = "KUBE-POSTROUTING";
/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";

/// Two generations of iptables, and two families: whichever are installed.
const IPTABLES: [&str; 4] = [
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
];
/// Those that the kernel does not tell of by netlink, and where it says whether they are in use.
const LEGACY: [(&str, &str); 2] = [
    ("iptables-legacy", "/proc/net/ip_tables_names"),
    ("ip6tables-legacy", "/proc/net/ip6_tables_names"),
];

/// Where there are rules of kube-proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Families that have its table of nftables: `ip`, `ip6`.
    tables: BTreeSet<&'static str>,
    /// Tables of iptables that have its chains, by how they are called.
    chains: BTreeSet<String>,
}

/// What has been done about rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// What there was.
    pub found: Rules,
    /// TCP connections because of which something of it stays; 0 if nothing does.
    ///
    /// The kernel translates for as long as somebody has a chain for that, and follows connections for as
    /// long as some rule asks about them (`nf_nat_unregister_fn`, `nf_ct_netns_put`). So where there is no
    /// other of either, one has to stay: [`POSTROUTING`] of iptables, an idle chain in the table of
    /// nftables.
    pub needed_by: usize,
}

/// Why rules cannot be found or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not list its rules, or its connections.
    #[error("ask the kernel for its rules and connections (nfnetlink)")]
    Ask(#[source] io::Error),
    /// A program is missing, or fails.
    #[error("run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program does not take what it is told.
    #[error("{program}: {said}")]
    Refused {
        /// Its name.
        program: String,
        /// What it said.
        said: String,
    },
    /// Rules are left whose program is not installed.
    #[error(
        "{0} cannot be removed from here: run this where iptables and nft are installed, or `kube-proxy --cleanup` on the node"
    )]
    Left(Rules),
}

impl Rules {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.chains.is_empty()
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self
            .tables
            .iter()
            .map(|family| format!("the table {TABLE} of {family}"));
        let chains = self
            .chains
            .iter()
            .map(|of| format!("the chains KUBE-* of {of}"));
        let all: Vec<String> = tables.chain(chains).collect();
        write!(f, "kube-proxy's rules ({})", all.join(", "))
    }
}

/// Looks for rules in this network namespace.
///
/// # Errors
///
/// [`Error::Ask`]. Old iptables are looked for only where their programs are installed.
pub fn find() -> Result<Rules, Error> {
    find_chains(&[SERVICES])
}

fn find_chains(names: &[&str]) -> Result<Rules, Error> {
    let mut rules = Rules::default();
    for chain in nftables::chains().map_err(Error::Ask)? {
        let family = chain.family;
        if chain.table == TABLE {
            rules.tables.insert(family);
        } else if names.contains(&chain.name.as_str()) {
            rules
                .chains
                .insert(format!("{family} {} (nft)", chain.table));
        }
    }
    for (program, tables) in LEGACY {
        let in_use = fs::read_to_string(tables).is_ok_and(|tables| !tables.is_empty());
        let has = |saved: String| names.iter().any(|name| saved.contains(name));
        if in_use && save(program)?.is_some_and(has) {
            rules.chains.insert(program.to_owned());
        }
    }
    Ok(rules)
}

/// Removes what [`find`] finds, and what an earlier call has left, with the programs that are installed.
/// Connections that these rules have translated stay translated: the kernel remembers them, and what it needs
/// for that stays ([`Removed::needed_by`]). Whether somebody has dialled a Service `is_served` tells.
///
/// # Errors
///
/// [`Error::Left`] if something else is still there afterwards.
pub fn remove(is_served: impl Fn(&FrontendKey) -> bool) -> Result<Removed, Error> {
    let found = find_chains(&[SERVICES, POSTROUTING])?;
    if found.is_empty() {
        return Ok(Removed::default());
    }
    let translated = translated().map_err(Error::Ask)?.into_iter();
    let needed_by = translated
        .filter(|connection| is_served(&connection.forward.frontend()))
        .count();
    let stay: &[&str] = if needed_by == 0 { &[] } else { &[POSTROUTING] };
    for family in &found.tables {
        run("nft", &["-f", "-"], &undo_table(family, needed_by > 0))?;
    }
    if !found.chains.is_empty() {
        remove_chains(stay)?;
    }
    let mut left = find()?;
    if needed_by > 0 {
        left.tables.clear();
    }
    if left.is_empty() {
        Ok(Removed { found, needed_by })
    } else {
        Err(Error::Left(left))
    }
}

/// What `nft` has to be told so that the table is gone, or does nothing but keep the kernel at work.
fn undo_table(family: &str, stays: bool) -> String {
    const IDLE: &str = "lb-agent-idle";
    let table = format!("{family} {TABLE}");
    if !stays {
        return format!("delete table {table}\n");
    }
    format!(
        "flush table {table}\n\
         add chain {table} {IDLE} {{ type nat hook postrouting priority 100; }}\n\
         add rule {table} {IDLE} ct state new continue\n"
    )
}

/// Removes the chains of iptables, except those in `stay`.
fn remove_chains(stay: &[&str]) -> Result<(), Error> {
    for program in IPTABLES {
        let Some(saved) = save(program)? else {
            continue;
        };
        let undo = undo::undo(&saved, stay);
        if !undo.is_empty() {
            run(&format!("{program}-restore"), &["--noflush"], &undo)?;
        }
    }
    Ok(())
}

/// All rules of a program, as it saves them; none if it is not installed.
fn save(program: &str) -> Result<Option<String>, Error> {
    match run(&format!("{program}-save"), &[], "") {
        Err(Error::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        saved => saved.map(Some),
    }
}

/// Runs a program on an input, and returns what it says.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed = |source| Error::Run {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::piped());
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read all of it says why in its output.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused {
        program: program.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_told_by_where_they_are() {
        let rules = Rules {
            tables: ["ip"].into(),
            chains: ["ip nat (nft)".to_owned()].into(),
        };
        assert_eq!(
            rules.to_string(),
            "kube-proxy's rules (the table kube-proxy of ip, the chains KUBE-* of ip nat (nft))"
        );
        assert!(!rules.is_empty() && Rules::default().is_empty());
    }
}
