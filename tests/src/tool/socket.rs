//! Socket options that have no wrapper elsewhere.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};

/// A socket option: its level, and its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    level: i32,
    name: i32,
}

impl Setting {
    /// `IP_OPTIONS`: options in the header of every packet.
    pub(super) const OPTIONS_V4: Self = Self::new(libc::IPPROTO_IP, libc::IP_OPTIONS);
    /// `IPV6_HOPOPTS`: a header of options for everybody on the way.
    pub(super) const HOP_BY_HOP: Self = Self::new(libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS);
    /// `IPV6_DSTOPTS`: a header of options for the destination.
    pub(super) const DESTINATION: Self = Self::new(libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS);
    /// `SO_NO_CHECK`: UDP over IPv4 without checksum.
    pub(super) const UNCHECKED_V4: Self = Self::new(libc::SOL_SOCKET, libc::SO_NO_CHECK);
    /// `UDP_NO_CHECK6_TX`: UDP over IPv6 without checksum.
    pub(super) const UNCHECKED_V6: Self = Self::new(libc::SOL_UDP, libc::UDP_NO_CHECK6_TX);
    /// `UDP_NO_CHECK6_RX`: such datagrams are taken.
    pub(super) const TAKE_UNCHECKED_V6: Self = Self::new(libc::SOL_UDP, libc::UDP_NO_CHECK6_RX);

    const fn new(level: i32, name: i32) -> Self {
        Self { level, name }
    }

    /// Sets it to bytes as they are.
    pub(super) fn set(self, socket: &impl AsFd, value: &[u8]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: `value` is valid for reads of its length, which is what the kernel is told.
        let done = unsafe {
            libc::setsockopt(socket, self.level, self.name, value.as_ptr().cast(), length)
        };
        check(done)
    }

    /// Sets it to a number.
    pub(super) fn set_number(self, socket: &impl AsFd, value: i32) -> io::Result<()> {
        self.set(socket, &value.to_ne_bytes())
    }

    fn number(self, socket: &impl AsFd) -> io::Result<i32> {
        let (mut value, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: `value` is valid for writes of `length` bytes; both outlive the call.
        let done = unsafe {
            libc::getsockopt(
                socket,
                self.level,
                self.name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        check(done).map(|()| value)
    }
}

/// The options of one address family that probes need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    discover: Setting,
    mtu: Setting,
    ttl: Setting,
    report: Setting,
}

impl Family {
    const V4: Self = Self {
        discover: Setting::new(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        mtu: Setting::new(libc::IPPROTO_IP, libc::IP_MTU),
        ttl: Setting::new(libc::IPPROTO_IP, libc::IP_TTL),
        report: Setting::new(libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    const V6: Self = Self {
        discover: Setting::new(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        mtu: Setting::new(libc::IPPROTO_IPV6, libc::IPV6_MTU),
        ttl: Setting::new(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
        report: Setting::new(libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };

    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// Packets are never fragmented: IPv4 has "don't fragment".
    pub(super) fn keep_whole(self, socket: &impl AsFd) -> io::Result<()> {
        self.discover.set_number(socket, libc::IP_PMTUDISC_DO)
    }

    /// How many routers a packet may pass.
    pub(super) fn limit_hops(self, socket: &impl AsFd, ttl: u8) -> io::Result<()> {
        self.ttl.set_number(socket, ttl.into())
    }

    /// ICMP errors are kept, to be read with all that they say.
    pub(super) fn keep_reports(self, socket: &impl AsFd) -> io::Result<()> {
        self.report.set_number(socket, 1)
    }

    /// What the kernel knows of the path of a connected socket.
    pub(super) fn mtu(self, socket: &impl AsFd) -> io::Result<u32> {
        let mtu = self.mtu.number(socket)?;
        u32::try_from(mtu).map_err(io::Error::other)
    }
}

fn check(done: i32) -> io::Result<()> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
