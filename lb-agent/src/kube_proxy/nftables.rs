//! The kernel's list of chains (nfnetlink), those of iptables with nftables beneath among them.

use std::{io, os::fd::AsRawFd as _};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFTA_CHAIN_TABLE` and `NFTA_CHAIN_NAME`.
const TABLE: u16 = 1;
const NAME: u16 = 3;
/// Flags in the type of an attribute.
const TYPE_MASK: u16 = 0x3fff;
/// More than the kernel puts into a message.
const BUFFER: usize = 1 << 16;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// As nft calls it.
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) name: String,
}

/// `struct nlmsghdr` of `linux/netlink.h` and `struct nfgenmsg` of `linux/netfilter/nfnetlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
    family: u8,
    version: u8,
    resource: u16,
}

/// Bytes of `struct nlmsghdr` alone.
const MESSAGE: usize = 16;

/// Every chain of this network namespace.
pub(super) fn chains() -> io::Result<Vec<Chain>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let request = Header {
        len: size_of::<Header>() as u32,
        kind: GET_CHAIN,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
        seq: 1,
        pid: 0,
        family: 0,
        version: 0,
        resource: 0,
    };
    let kernel = NetlinkAddr::new(0, 0);
    let bytes = bytemuck::bytes_of(&request);
    sendto(socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
    let mut chains = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read(buffer.get(..length).unwrap_or_default(), &mut chains)? {
            return Ok(chains);
        }
    }
}

/// Reads the messages of a datagram. True if that was the end.
fn read(mut bytes: &[u8], chains: &mut Vec<Chain>) -> io::Result<bool> {
    while let (Some(len), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let message = bytes.get(..len as usize).unwrap_or(bytes);
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = u32_at(message, MESSAGE).unwrap_or_default().cast_signed();
                // A kernel without nftables has no chains.
                return match -code {
                    0 | libc::EINVAL | libc::EOPNOTSUPP => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code)),
                };
            }
            _ => chains.extend(chain(message)),
        }
        bytes = bytes
            .get(align(len as usize).max(MESSAGE)..)
            .unwrap_or_default();
    }
    Ok(false)
}

fn chain(message: &[u8]) -> Option<Chain> {
    let family = match i32::from(*message.get(MESSAGE)?) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let (mut table, mut name) = (None, None);
    let mut attributes = message.get(size_of::<Header>()..)?;
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let text = attributes.get(4..len.into()).unwrap_or_default();
        let text = || {
            String::from_utf8_lossy(text)
                .trim_end_matches('\0')
                .to_owned()
        };
        match kind & TYPE_MASK {
            TABLE => table = Some(text()),
            NAME => name = Some(text()),
            _ => {}
        }
        attributes = attributes
            .get(align(len.into()).max(4)..)
            .unwrap_or_default();
    }
    Some(Chain {
        family,
        table: table?,
        name: name?,
    })
}

fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = (MESSAGE + body.len()) as u32;
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    fn attribute(kind: u16, text: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + text.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(text);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn chains_are_read_with_their_tables() {
        let mut body = vec![libc::NFPROTO_IPV6 as u8, 0, 0, 0];
        body.extend(attribute(TABLE, b"kube-proxy\0"));
        body.extend(attribute(2, &[0; 8]));
        body.extend(attribute(NAME, b"services\0"));
        let mut bytes = message(10 << 8 | 3, &body);
        bytes.extend(message(libc::NLMSG_DONE as u16, &[0; 4]));
        let mut chains = Vec::new();
        assert!(read(&bytes, &mut chains).unwrap());
        let expected = Chain {
            family: "ip6",
            table: "kube-proxy".into(),
            name: "services".into(),
        };
        assert_eq!(chains, [expected]);
    }

    #[test]
    fn a_refusal_is_an_error_and_nonsense_is_nothing() {
        let refusal = message(libc::NLMSG_ERROR as u16, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refusal, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        for length in 0..40 {
            let mut chains = Vec::new();
            assert!(!read(&vec![0; length], &mut chains).unwrap());
            assert_eq!(chains, []);
        }
    }
}
