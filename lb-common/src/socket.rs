//! What is remembered of a socket of the node whose destination was translated.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Protocol};

/// Key of `SOCKETS`: a socket and the backend that it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct SocketKey {
    /// Socket cookie.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port, host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad_word: u32,
}

const _: () = assert!(size_of::<SocketKey>() == 32);

/// Value of `SOCKETS`: what the process believes that it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct SocketPeer {
    /// The frontend's address.
    pub addr: Addr,
    /// The frontend's port, host byte order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<SocketPeer>() == 20);
