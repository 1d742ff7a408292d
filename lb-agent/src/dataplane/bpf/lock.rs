//! One agent for each pin directory: a second one would exchange the first one's programs and tables.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{major, minor},
};

use super::{error::Error, pins::Pins};

/// Keeps other agents away from a pin directory until it is dropped, or the process ends in
/// whatever way.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

/// Takes the pin directory, which is created if it is missing.
///
/// # Errors
///
/// [`Error::Taken`] if another process has it; those of the directory otherwise.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    Pins::trust(directory)?;
    let file = |source| Error::File {
        action: "open",
        path: directory.into(),
        source,
    };
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(directory);
    let opened = opened.map_err(file)?;
    let metadata = opened.metadata().map_err(file)?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(directory) => Ok(Lock {
            _directory: directory,
        }),
        Err((_, Errno::EWOULDBLOCK)) => {
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            Err(Error::Taken {
                path: directory.into(),
                holder: holder(&locks, metadata.dev(), metadata.ino()),
            })
        }
        Err((_, errno)) => Err(Error::File {
            action: "lock",
            path: directory.into(),
            source: errno.into(),
        }),
    }
}

/// The process that holds the lock of a file, by `/proc/locks`; none if it is in another namespace of
/// processes.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // With an arrow, it is somebody who waits.
            [_, "FLOCK", _, _, pid, of, ..] if *of == file => pid.parse().ok().filter(|p| *p > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 7 00:21:9 0 EOF\n\
                         2: FLOCK  ADVISORY  WRITE 12 00:21:9 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 13 00:21:9 0 EOF\n\
                         3: FLOCK  ADVISORY  WRITE 0 00:21:8 0 EOF\n";

    #[test]
    fn who_holds_a_lock_is_found() {
        assert_eq!(holder(LOCKS, 0x21, 9), Some(12));
        assert_eq!(holder(LOCKS, 0x22, 9), None);
        assert_eq!(holder(LOCKS, 0x21, 8), None);
    }
}
