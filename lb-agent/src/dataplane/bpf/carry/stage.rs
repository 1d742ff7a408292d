//! The pin directory: what serves, what is being made, and what is on its way out.
//!
//! `v3` serves, `v3-next` is being made, `v2-old` goes (a BPF file system has no dots in names). Between any two
//! operations the process may be killed, and [`Directory::settle`] goes on from there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::maps::LAYOUT_VERSION;
use tracing::{info, warn};

use crate::dataplane::bpf::{error::Error, pins::Pins, sockets};

const NEXT: &str = "next";
const OLD: &str = "old";

/// The pin directory.
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Opens it, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Pins::trust(path)?;
        Ok(Self(path.into()))
    }

    /// What serves, in this agent's layout.
    pub(super) fn live(&self) -> Pins {
        Pins::at(&self.0, LAYOUT_VERSION)
    }

    /// What is being made.
    pub(super) fn staging(&self) -> Pins {
        Pins::within(self.0.join(format!("v{LAYOUT_VERSION}-{NEXT}")))
    }

    /// Finishes what another process has begun and decided, and takes away what is left of what it
    /// has not.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let entries = self.entries()?;
        let old: Vec<_> = entries.iter().filter(|entry| entry.is(OLD)).collect();
        let is_decided = !old.is_empty() || entries.iter().all(|entry| entry.is(NEXT));
        if is_decided && self.staging().exists() && !self.live().exists() {
            self.place()?;
        }
        for entry in old {
            discard(&self.0.join(&entry.name))?;
        }
        for entry in entries.iter().filter(|entry| entry.is(NEXT)) {
            if entry.version != LAYOUT_VERSION {
                warn!(
                    name = entry.name,
                    "another version has not finished what it began: removing that"
                );
                discard(&self.0.join(&entry.name))?;
            }
        }
        Ok(())
    }

    /// Versions of layouts that serve, other than this agent's.
    pub(super) fn others(&self) -> Result<Vec<u32>, Error> {
        let entries = self.entries()?.into_iter();
        let others = entries.filter(|entry| entry.suffix.is_none());
        let versions = others.map(|entry| entry.version);
        Ok(versions.filter(|v| *v != LAYOUT_VERSION).collect())
    }

    /// What serves in another layout.
    pub(super) fn other(&self, version: u32) -> Pins {
        Pins::at(&self.0, version)
    }

    /// The decision: from here on what was being made is what serves.
    pub(super) fn set_aside(&self, source: &Pins) -> Result<(), Error> {
        let mut old = source.layout().as_os_str().to_owned();
        old.push("-");
        old.push(OLD);
        rename(source.layout(), Path::new(&old))
    }

    /// Puts what was being made in its place.
    pub(super) fn place(&self) -> Result<(), Error> {
        rename(self.staging().layout(), self.live().layout())
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let names = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.0)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let names = names().map_err(|source| Error::File {
            action: "list",
            path: self.0.clone(),
            source,
        })?;
        Ok(names.into_iter().filter_map(Entry::parse).collect())
    }
}

/// A directory of ours in the pin directory.
struct Entry {
    name: String,
    version: u32,
    suffix: Option<String>,
}

impl Entry {
    fn parse(name: String) -> Option<Self> {
        let rest = name.strip_prefix('v')?;
        let (version, suffix) = match rest.split_once('-') {
            Some((version, suffix @ (NEXT | OLD))) => (version, Some(suffix.to_owned())),
            Some(_) => return None,
            None => (rest, None),
        };
        Some(Self {
            version: version.parse().ok()?,
            suffix,
            name,
        })
    }

    fn is(&self, suffix: &str) -> bool {
        self.suffix.as_deref() == Some(suffix)
    }
}

/// Removes maps and links, which detaches programs: those that reply to sockets last.
pub(super) fn discard(path: &Path) -> Result<(), Error> {
    info!(path = %path.display(), "removing what does not serve any more");
    let pins = Pins::within(path.into());
    if pins.exists() {
        let mut links = pins.link_names().unwrap_or_default();
        links.sort_by_key(|name| sockets::is_of_answers(name));
        for name in links {
            pins.remove_link(&name)?;
        }
    }
    fs::remove_dir_all(path).map_err(|source| Error::File {
        action: "remove",
        path: path.into(),
        source,
    })
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::File {
        action: "rename",
        path: from.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_entries() {
        let parse = |name: &str| {
            let entry = Entry::parse(name.into())?;
            Some((entry.version, entry.suffix))
        };
        assert_eq!(parse("v3"), Some((3, None)));
        assert_eq!(parse("v3-next"), Some((3, Some("next".into()))));
        assert_eq!(parse("v12-old"), Some((12, Some("old".into()))));
        for other in ["3", "v", "v3-new", "vx", "v3-next-old", "lock"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
