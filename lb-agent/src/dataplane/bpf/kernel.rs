//! Constants of the running kernel that the programs are configured with.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    time::{ClockId, clock_getres, clock_gettime},
};

/// A constant of the kernel cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coarse clock, or its resolution.
    #[error("read CLOCK_MONOTONIC_COARSE")]
    Clock(#[source] nix::Error),
    /// The coarse clock's resolution is no kernel tick.
    #[error("the resolution of CLOCK_MONOTONIC_COARSE is {0:?}: not a tick")]
    NoTick(Duration),
    /// The cookie of the network namespace (Linux 5.14).
    #[error("read the cookie of the network namespace (SO_NETNS_COOKIE)")]
    Cookie(#[source] nix::Error),
}

/// Kernel ticks a second (`CONFIG_HZ`): what `bpf_jiffies64` advances by.
///
/// The coarse clock advances once a tick, so its resolution is the length of one.
///
/// # Errors
///
/// [`Error::Clock`] and [`Error::NoTick`].
pub fn ticks_per_second() -> Result<u32, Error> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(Error::Clock)?;
    from_tick(resolution.into())
}

/// About the kernel tick `seconds` from now.
///
/// A guess: user space can read only how long the kernel has been up, to which jiffies begin five minutes
/// before they have 32 bits no more (`INITIAL_JIFFIES`). Wrong in a time namespace with an offset.
///
/// # Errors
///
/// As [`ticks_per_second`].
pub fn tick_in(seconds: u32) -> Result<u64, Error> {
    const FIRST: u64 = 1 << 32;
    const BEFORE_S: u64 = 300;
    let up: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(Error::Clock)?
        .into();
    let ticks = u64::from(ticks_per_second()?);
    let passed = (up.as_secs() + u64::from(seconds)) * ticks;
    Ok(FIRST - BEFORE_S * ticks + passed)
}

fn from_tick(tick: Duration) -> Result<u32, Error> {
    let second = Duration::from_secs(1).as_nanos();
    // Rounded: a tick of 1/300 s is no whole number of nanoseconds.
    let ticks = (second + tick.as_nanos() / 2).checked_div(tick.as_nanos());
    match ticks.and_then(|ticks| u32::try_from(ticks).ok()) {
        Some(ticks @ 1..=10_000) => Ok(ticks),
        _ => Err(Error::NoTick(tick)),
    }
}

/// The cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` has it.
///
/// # Errors
///
/// [`Error::Cookie`].
pub fn netns_cookie() -> Result<u64, Error> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None);
    socket
        .and_then(|socket| cookie_of(&socket))
        .map_err(Error::Cookie)
}

fn cookie_of(socket: &OwnedFd) -> nix::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, and the length to `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(result).map(|_| cookie)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn usual_ticks_are_recognised() {
        for hz in [100, 250, 300, 1000] {
            let tick = Duration::from_nanos(1_000_000_000 / u64::from(hz));
            assert_eq!(from_tick(tick).unwrap(), hz);
        }
    }

    #[test]
    fn resolution_of_a_fine_clock_is_no_tick() {
        assert!(from_tick(Duration::from_nanos(1)).is_err());
        assert!(from_tick(Duration::ZERO).is_err());
    }

    #[test]
    fn this_kernel_ticks() {
        assert!(ticks_per_second().unwrap() >= 100);
    }

    #[test]
    fn cookie_stays_within_a_namespace() {
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let cookie = netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        let again = std::thread::spawn(|| {
            let namespace = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
            (namespace, netns_cookie().unwrap())
        });
        assert_eq!(again.join().unwrap(), (namespace, cookie));
    }
}
