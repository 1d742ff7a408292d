//! The directory that maps and links are pinned in.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::Uid,
};

use super::{error::Error, failpoint};

/// Where this layout's maps and links are pinned.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    layout: PathBuf,
    maps: PathBuf,
    links: PathBuf,
}

impl Pins {
    /// Sees to it that `directory` is there, on a BPF file system, and nobody else's.
    ///
    /// The file system's root is everybody's (mode 1777): whatever is found is trusted only if
    /// nobody else could have put it there.
    pub(super) fn trust(directory: &Path) -> Result<(), Error> {
        check_bpffs(directory)?;
        create(directory)?;
        check_owner(directory)
    }

    /// The places of pins below `directory`, whether or not anything is there.
    pub(super) fn at(directory: &Path, version: u32) -> Self {
        Self::within(directory.join(format!("v{version}")))
    }

    /// The places of pins in `layout`, the directory of one layout.
    pub(super) fn within(layout: PathBuf) -> Self {
        Self {
            maps: layout.join("maps"),
            links: layout.join("links"),
            layout,
        }
    }

    /// Creates what is missing.
    pub(super) fn create(&self) -> Result<(), Error> {
        for path in [&self.layout, &self.maps, &self.links] {
            create(path)?;
            check_owner(path)?;
        }
        Ok(())
    }

    /// Whether the directory is there.
    pub(super) fn exists(&self) -> bool {
        self.layout.exists()
    }

    /// The directory of both.
    pub(super) fn layout(&self) -> &Path {
        &self.layout
    }

    /// Directory of the maps' pins.
    pub(super) fn maps(&self) -> &Path {
        &self.maps
    }

    /// Pin of a map.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// Pin of a link.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links.join(name)
    }

    /// Names of all pinned links.
    pub(super) fn link_names(&self) -> Result<Vec<String>, Error> {
        let names = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.links)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        names().map_err(|source| Error::File {
            action: "list",
            path: self.links.clone(),
            source,
        })
    }

    /// Removes the pin of a link, which detaches it.
    pub(super) fn remove_link(&self, name: &str) -> Result<(), Error> {
        failpoint::pass();
        let path = self.link(name);
        fs::remove_file(&path).map_err(|source| Error::File {
            action: "remove",
            path,
            source,
        })
    }
}

fn check_bpffs(directory: &Path) -> Result<(), Error> {
    let file = |path: &Path, source: io::Error| Error::File {
        action: "look at",
        path: path.into(),
        source,
    };
    let there = directory.ancestors().find(|path| path.exists());
    let path = there.ok_or_else(|| file(directory, io::ErrorKind::NotFound.into()))?;
    let status = statfs(path).map_err(|errno| file(path, errno.into()))?;
    if status.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(Error::NotBpffs { path: path.into() })
    }
}

fn create(path: &Path) -> Result<(), Error> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| Error::File {
        action: "create",
        path: path.into(),
        source,
    })
}

/// Makes sure that nobody else can have put anything into `path`, or can.
pub(super) fn check_owner(path: &Path) -> Result<(), Error> {
    // Of the thing itself: a symbolic link could be changed later.
    let metadata = fs::symlink_metadata(path).map_err(|source| Error::File {
        action: "look at",
        path: path.into(),
        source,
    })?;
    let me = Uid::effective().as_raw();
    let mode = metadata.mode() & 0o777;
    let reason = if !metadata.is_dir() {
        "it is not a directory".into()
    } else if metadata.uid() != me {
        format!("its owner is user {}, not {me}", metadata.uid())
    } else if mode & 0o077 != 0 {
        format!("its mode is {mode:03o}, not 700")
    } else {
        return Ok(());
    };
    Err(Error::Untrusted {
        path: path.into(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn ordinary_file_system_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::trust(&directory.path().join("a/b")).unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{error:?}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!directory.path().join("a").exists());
    }

    #[test]
    fn directory_of_our_own_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins");
        create(&path).unwrap();
        create(&path).unwrap();
        check_owner(&path).unwrap();
    }

    #[test]
    fn directory_that_others_may_write_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o770)).unwrap();
        let error = check_owner(path).unwrap_err();
        assert!(error.to_string().ends_with("its mode is 770, not 700"));
    }

    #[test]
    fn symbolic_link_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        create(&real).unwrap();
        symlink(&real, &link).unwrap();
        let error = check_owner(&link).unwrap_err();
        assert!(error.to_string().ends_with("it is not a directory"));
    }
}
