//! Switches checksum offload off, so that packets carry the checksums they claim.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};

use super::netns::Netns;

/// `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const SET_TX_CHECKSUM: u32 = 0x17;

/// `ETHTOOL_SGRO`
const SET_GRO: u32 = 0x2c;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Lets a device compute checksums before it sends (and segment large packets).
pub(super) fn disable_tx(netns: &Netns, device: &str) -> Result<()> {
    set_within(netns, device, SET_TX_CHECKSUM, 0)
        .with_context(|| format!("switch tx offload of {device} off"))
}

/// Lets a veth take packets in batches (NAPI), as one with an XDP program does.
pub(super) fn enable_gro(netns: &Netns, device: &str) -> Result<()> {
    set_within(netns, device, SET_GRO, 1).with_context(|| format!("switch GRO of {device} on"))
}

fn set_within(netns: &Netns, device: &str, command: u32, data: u32) -> Result<()> {
    ensure!(
        device.len() < libc::IFNAMSIZ,
        "{device} is no name for a device"
    );
    Ok(netns.run(|| set(device, command, data))??)
}

fn set(device: &str, command: u32, data: u32) -> io::Result<()> {
    // Any socket will do to reach the devices of its namespace.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut value = EthtoolValue { command, data };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    for (slot, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *slot = byte.cast_signed();
    }
    // SAFETY: `request` is a whole ifreq with a terminated name, and its data points to
    // the structure of this command; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
