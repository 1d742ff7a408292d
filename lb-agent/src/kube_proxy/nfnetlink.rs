//! Lists that the kernel gives of netfilter (nfnetlink).

use std::{io, os::fd::AsRawFd as _};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Flags in the type of an attribute.
const TYPE_MASK: u16 = 0x3fff;
/// More than the kernel puts into a datagram.
const BUFFER: usize = 1 << 16;

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

/// Has `each` read every element of a list of this network namespace: its family (`NFPROTO_*`), and its
/// attributes. `request` is the subsystem, and what it is asked for. False if the kernel has no such subsystem.
pub(super) fn dump(request: u16, mut each: impl FnMut(i32, &[u8])) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let request = Header {
        len: size_of::<Header>() as u32,
        kind: request,
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
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let read = read(buffer.get(..length).unwrap_or_default(), &mut each)?;
        if read != Read::Some {
            return Ok(read == Read::All);
        }
    }
}

/// What has been read after a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There is more to come.
    Some,
    /// All of the list.
    All,
    /// Nothing: the kernel does not know what it is asked for.
    Unknown,
}

/// Reads the messages of a datagram.
pub(super) fn read(mut bytes: &[u8], each: &mut impl FnMut(i32, &[u8])) -> io::Result<Read> {
    while let (Some(len), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let message = bytes.get(..len as usize).unwrap_or(bytes);
        match i32::from(kind) {
            kind @ (libc::NLMSG_DONE | libc::NLMSG_ERROR) => {
                // The end says, too, whether something went wrong on the way there.
                let code = u32_at(message, MESSAGE).unwrap_or_default().cast_signed();
                return match -code {
                    ..=0 => Ok(Read::All),
                    libc::EINVAL | libc::EOPNOTSUPP if kind == libc::NLMSG_ERROR => {
                        Ok(Read::Unknown)
                    }
                    code => Err(io::Error::from_raw_os_error(code)),
                };
            }
            _ => {
                let attributes = message.get(size_of::<Header>()..);
                if let (Some(family), Some(attributes)) = (message.get(MESSAGE), attributes) {
                    each(i32::from(*family), attributes);
                }
            }
        }
        bytes = bytes
            .get(align(len as usize).max(MESSAGE)..)
            .unwrap_or_default();
    }
    Ok(Read::Some)
}

/// The kind of each attribute, and what it holds.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        let value = bytes.get(4..len.into()).unwrap_or_default();
        bytes = bytes.get(align(len.into()).max(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// What the first attribute of a kind holds.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(of, value)| (of == kind).then_some(value))
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

/// Messages as the kernel writes them.
#[cfg(test)]
pub(super) mod fixture {
    use super::{MESSAGE, align};

    /// With the family and the attributes as its body.
    pub(in super::super) fn message(kind: u16, family: i32, attributes: &[u8]) -> Vec<u8> {
        raw(kind, &[&[family as u8, 0, 0, 0], attributes].concat())
    }

    pub(in super::super) fn raw(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = (MESSAGE + body.len()) as u32;
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    pub(in super::super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::raw, *};

    #[test]
    fn a_list_that_ends_by_an_error_is_none() {
        let end =
            |kind: i32, code: i32| read(&raw(kind as u16, &code.to_ne_bytes()), &mut |_, _| ());
        assert_eq!(end(libc::NLMSG_DONE, 0).unwrap(), Read::All);
        assert_eq!(
            end(libc::NLMSG_ERROR, -libc::EINVAL).unwrap(),
            Read::Unknown
        );
        let error = end(libc::NLMSG_DONE, -libc::ENOMEM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }

    #[test]
    fn a_refusal_is_an_error_and_nonsense_is_nothing() {
        let refusal = raw(libc::NLMSG_ERROR as u16, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refusal, &mut |_, _| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        for length in 0..40 {
            let mut seen = Vec::new();
            let mut each = |_, bytes: &[u8]| seen.extend(attributes(bytes).map(|(kind, _)| kind));
            assert_eq!(read(&vec![0; length], &mut each).unwrap(), Read::Some);
            assert!(seen.iter().all(|kind| *kind == 0), "{seen:?}");
        }
    }
}
