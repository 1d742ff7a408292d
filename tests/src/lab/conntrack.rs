//! What netfilter remembers of connections.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::netns::Netns;

/// Forgets all connections of a namespace.
///
/// # Errors
/// What the kernel says.
pub fn forget_connections(netns: &Netns) -> Result<()> {
    netns.run(forget).context("forget connections")?
}

fn forget() -> Result<()> {
    /// `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_DELETE`: with no attribute, of all.
    const DELETE: u16 = 1 << 8 | 2;
    const LEN: usize = 20;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(LEN);
    message.extend((LEN as u32).to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender, then `struct nfgenmsg`: any family.
    message.resize(LEN, 0);
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 64];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer[..len].get(16..LEN).context("no answer")?;
    let error = i32::from_ne_bytes([error[0], error[1], error[2], error[3]]);
    ensure!(error == 0, "{}", std::io::Error::from_raw_os_error(-error));
    Ok(())
}
