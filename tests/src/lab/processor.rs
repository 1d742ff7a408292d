//! One processor for all that is measured.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Moves the calling thread, and what it starts, to the last processor that it may use, ahead of
/// others there. Allocates nothing.
pub(super) fn take_last() -> Result<(), Errno> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut all = (0..CpuSet::count()).rev();
    let last = all.find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut only = CpuSet::new();
    only.set(last.ok_or(Errno::ENODEV)?)?;
    sched_setaffinity(this, &only)?;
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads the parameter, and concerns the calling thread. Where that is refused, others
    // disturb.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    Ok(())
}
