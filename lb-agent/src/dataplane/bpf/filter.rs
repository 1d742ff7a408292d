//! Programs as filters of a device's `clsact` qdisc: where the kernel has no tcx.
//!
//! A filter is nothing that can be pinned, and stays with its device whoever ends. The pin of its program
//! stands for it where that of a link would be: the directory of pins says what is attached.

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
};

use aya::programs::{
    SchedClassifier, TcAttachType,
    links::Link as _,
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle,
        qdisc_add_clsact,
    },
};
use nix::errno::Errno;

use super::{
    attach::{device_name, direction},
    error::{Error, LinkFailure, errno, is_absent},
    failpoint, link,
    plan::Attachment,
    query,
};

/// Before all filters of other priorities; in the order of their making among those of the same.
const PRIORITY: u16 = 1;
/// Tells ours from others: the first bytes of our name.
const HANDLE: TcHandle = TcHandle::new(0, 0x6c62);
/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;

/// Whether the kernel has tcx (Linux 6.6). It is asked: distributions have what versions do not tell.
pub(super) fn has_tcx() -> bool {
    query::tcx(LOOPBACK, TcAttachType::Ingress) != Err(Errno::EINVAL)
}

/// Whether the pin of an attachment is that of a filter's program; else it is a link's.
pub(super) fn is_filter(pin: &Path) -> bool {
    link::is_program(pin).unwrap_or(false)
}

/// Attaches a program, and pins it.
///
/// The pin comes first: without it, nobody would know of the filter. One that is there without a pin is
/// exchanged.
pub(super) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), LinkFailure> {
    match qdisc_add_clsact(device) {
        Err(error) if errno(&error) != Some(libc::EEXIST) => return Err(error.into()),
        _ => {}
    }
    repin(program, pin)?;
    failpoint::pass();
    let place = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let attached = match program.attach_with_options(device, direction, place) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            program.attach_to_link(of(device, direction)?)
        }
        attached => attached,
    };
    match attached {
        Ok(id) => leave(program, id),
        Err(error) => {
            // Nothing is attached: whoever comes next is to know.
            let _absent = fs::remove_file(pin);
            Err(error.into())
        }
    }
}

/// Exchanges the program of a filter: no packet meets neither. Pins the new one in place of the old.
///
/// Fails with [`LinkFailure::NoFilter`] if there is none: another device has the index now, or somebody has
/// removed it.
pub(super) fn replace(
    program: &mut SchedClassifier,
    device: &str,
    direction: TcAttachType,
    pin: &Path,
) -> Result<(), LinkFailure> {
    let id = program
        .attach_to_link(of(device, direction)?)
        .map_err(|error| match errno(&error) {
            Some(libc::ENOENT | libc::EINVAL) => LinkFailure::NoFilter,
            _ => LinkFailure::from(error),
        })?;
    leave(program, id)?;
    failpoint::pass();
    repin(program, pin)
}

/// Removes the filter of an attachment whose pin is that of a filter's program. One that is gone, as is one
/// of a device that is, is no failure.
pub(super) fn detach(attachment: Attachment, pin: &Path) -> Result<(), Error> {
    let (Some(direction), Some(device)) =
        (direction(attachment.hook), device_name(attachment.ifindex))
    else {
        return Ok(());
    };
    let failed = |source: LinkFailure| Error::Link {
        action: "detach",
        path: pin.into(),
        source: source.into(),
    };
    let filter = of(&device, direction).map_err(|source| failed(source.into()))?;
    match filter.detach() {
        Err(error) if !matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL)) => {
            Err(failed(error.into()))
        }
        _ => Ok(()),
    }
}

/// Takes back what [`attach`] has done.
pub(super) fn undo(device: &str, direction: TcAttachType, pin: &Path) {
    // Whatever is gone need not be removed.
    if let Ok(filter) = of(device, direction) {
        let _gone = filter.detach();
    }
    let _gone = fs::remove_file(pin);
}

/// Ours at a device.
fn of(device: &str, direction: TcAttachType) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None)
}

/// Leaves a filter to its device: aya would detach it with its handle.
fn leave(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<(), LinkFailure> {
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Pins a program, whatever is pinned there.
fn repin(program: &mut SchedClassifier, pin: &Path) -> Result<(), LinkFailure> {
    let next = next_to(pin);
    match fs::remove_file(&next) {
        Err(error) if !is_absent(&error) => return Err(error.into()),
        _ => {}
    }
    program.pin(&next)?;
    Ok(fs::rename(next, pin)?)
}

/// A name that is no attachment's.
fn next_to(pin: &Path) -> PathBuf {
    let mut next = pin.as_os_str().to_owned();
    next.push("-next");
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_pin_that_is_being_made_is_no_attachments() {
        for name in ["7-pod-ingress", "7-wire-egress"] {
            assert!(Attachment::from_pin_name(name).is_some());
            let next = next_to(Path::new(name));
            assert_eq!(Attachment::from_pin_name(next.to_str().unwrap()), None);
        }
    }
}
