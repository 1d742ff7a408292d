//! Removes all that agents leave in the kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::{Error, is_absent},
    filter,
    lock::lock,
    pins,
    plan::Attachment,
};

/// What is, or was, there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leavings {
    /// Pins of links: without them, the programs are detached.
    pub links: Vec<PathBuf>,
    /// Pins of maps: without them, they go with the last program that uses them.
    pub maps: Vec<PathBuf>,
    /// What is none of ours. It stays, and the directory with it.
    pub others: Vec<PathBuf>,
    /// Our directories, those within others first.
    directories: Vec<PathBuf>,
}

/// All that is pinned below `directory`, of whatever layout; nothing if it is not there.
///
/// # Errors
///
/// [`Error::Untrusted`] if it may be somebody else's, [`Error::File`] if it cannot be read.
pub fn leavings(directory: &Path) -> Result<Leavings, Error> {
    let mut found = Leavings::default();
    if !directory.exists() {
        return Ok(found);
    }
    pins::check_owner(directory)?;
    for layout in list(directory)? {
        if !is_layout(&layout) {
            found.others.push(layout);
            continue;
        }
        for kind in list(&layout)? {
            let pins = match kind.file_name().and_then(|name| name.to_str()) {
                Some("links") => &mut found.links,
                Some("maps") => &mut found.maps,
                _ => {
                    found.others.push(kind);
                    continue;
                }
            };
            pins.extend(list(&kind)?);
            found.directories.push(kind);
        }
        found.directories.push(layout);
    }
    found.directories.push(directory.into());
    Ok(found)
}

/// Removes it, links first: a program that is still attached keeps its maps.
///
/// # Errors
///
/// Those of [`leavings`], and [`Error::Taken`] while an agent runs.
pub fn cleanup(directory: &Path) -> Result<Leavings, Error> {
    if !directory.exists() {
        return Ok(Leavings::default());
    }
    let _lock = lock(directory)?;
    let found = leavings(directory)?;
    for pin in &found.links {
        let name = pin.file_name().and_then(|name| name.to_str());
        if let Some(attachment) = name.and_then(Attachment::from_pin_name)
            && filter::is_filter(pin)
        {
            filter::detach(attachment, pin)?;
        }
    }
    for pin in found.links.iter().chain(&found.maps) {
        fs::remove_file(pin).map_err(|source| failed("remove", pin, source))?;
    }
    for directory in &found.directories {
        match fs::remove_dir(directory) {
            // Something else is in there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if is_absent(&error) => {}
            removed => removed.map_err(|source| failed("remove", directory, source))?,
        }
    }
    Ok(found)
}

/// Whether a directory is that of a layout: `v3`.
fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let version = name.and_then(|name| name.strip_prefix('v'));
    // Also those that another agent was taking connections over from or into when it was killed.
    let version = version.map(|version| {
        let parts = ["-next", "-old"];
        let stem = parts.iter().find_map(|part| version.strip_suffix(part));
        stem.unwrap_or(version)
    });
    path.is_dir() && version.is_some_and(|version| version.parse::<u32>().is_ok())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    entries().map_err(|source| failed("list", directory, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn pins_of_every_layout_are_found_and_what_is_not_ours_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for path in ["v2/maps", "v3/maps", "v3/links", "v3/other", "vx"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        for path in ["v2/maps/FLOWS", "v3/links/7-pod-ingress", "v4"] {
            fs::write(at(path), "").unwrap();
        }
        let mut found = leavings(directory.path()).unwrap();
        found.others.sort();
        assert_eq!(found.links, [at("v3/links/7-pod-ingress")]);
        assert_eq!(found.maps, [at("v2/maps/FLOWS")]);
        assert_eq!(found.others, [at("v3/other"), at("v4"), at("vx")]);
        assert_eq!(found.directories.last().unwrap(), directory.path());
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let found = leavings(Path::new("/nonexistent/lb")).unwrap();
        assert_eq!(found, Leavings::default());
    }
}
