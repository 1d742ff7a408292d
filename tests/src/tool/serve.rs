//! A server that says who asked.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;

use nix::cmsg_space;
use nix::libc::{in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
};

use super::probe::{PROBE, received};
use super::socket::Setting;
use super::{Answer, READY, ServeOptions, Shape, Transfer, canonical, fragments, pattern};

/// The longest UDP payload.
const MAX_DATAGRAM: usize = 65_507;

/// Serves TCP and UDP on every address of both families, until killed.
///
/// Prints [`READY`] once both are listened to.
///
/// # Errors
/// When the port cannot be had, or the UDP socket breaks.
pub fn serve(options: &ServeOptions) -> io::Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let listener = TcpListener::bind(any)?;
    let socket = UdpSocket::bind(any)?;
    // The answer has to leave from the address that was asked.
    setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
    Setting::TAKE_UNCHECKED_V6.set_number(&socket, 1)?;
    if options.answers == Shape::Unchecked {
        // The socket is of both families.
        Setting::UNCHECKED_V4.set_number(&socket, 1)?;
        Setting::UNCHECKED_V6.set_number(&socket, 1)?;
    }
    println!("{READY}");
    let name: Arc<str> = options.name.as_str().into();
    let tcp_name = Arc::clone(&name);
    thread::spawn(move || accept(&listener, &tcp_name));
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        answer_datagram(&socket, &name, options.answers, &mut buffer)?;
    }
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    for stream in listener.incoming().flatten() {
        let name = Arc::clone(name);
        // A client that hangs up, in whatever way, is no concern of the server's.
        thread::spawn(move || answer_stream(&stream, &name));
    }
}

fn answer_stream(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (client, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let request = std::mem::take(&mut line).trim_end().to_owned();
        let transfer = Transfer::requested(&request);
        if let Some(Transfer::Upload(bytes)) = transfer {
            pattern::receive(&mut reader, bytes)?;
        }
        let mut answer = answer(name, client, local, request)?;
        answer.push(b'\n');
        stream.write_all(&answer)?;
        if let Some(Transfer::Download(bytes)) = transfer {
            pattern::send(&mut stream, bytes)?;
        }
    }
    Ok(())
}

/// Waits for a datagram, and answers it.
fn answer_datagram(
    socket: &UdpSocket,
    name: &str,
    shape: Shape,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut control = cmsg_space!(in6_pktinfo);
    let (length, client, local) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        let message =
            recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let local = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_addr),
            _ => None,
        });
        (message.bytes, message.address, local)
    };
    let (Some(client), Some(local)) = (client, local) else {
        return Ok(());
    };
    let seen = SocketAddr::from((Ipv6Addr::from(local.s6_addr), socket.local_addr()?.port()));
    let text = match &buffer[..length] {
        probe if probe.starts_with(PROBE.as_bytes()) => received(length),
        request => String::from_utf8_lossy(request).into_owned(),
    };
    let answer = answer(name, SocketAddrV6::from(client).into(), seen, text)?;
    // An answer that cannot be sent is lost, like any datagram: the client notices.
    let _ = match shape {
        Shape::Fragments(order) => {
            let client = canonical(SocketAddrV6::from(client).into());
            fragments::send(canonical(seen), client, &answer, order)
        }
        _ => send_from(socket, local, &client, &answer).map(drop),
    };
    Ok(())
}

/// Sends a datagram from the given address of this host.
fn send_from(
    socket: &UdpSocket,
    local: in6_addr,
    to: &SockaddrIn6,
    payload: &[u8],
) -> io::Result<usize> {
    // Interface 0: the routes decide.
    let info = in6_pktinfo {
        ipi6_addr: local,
        ipi6_ifindex: 0,
    };
    let control = [ControlMessage::Ipv6PacketInfo(&info)];
    let parts = [IoSlice::new(payload)];
    Ok(sendmsg(
        socket.as_raw_fd(),
        &parts,
        &control,
        MsgFlags::empty(),
        Some(to),
    )?)
}

fn answer(name: &str, client: SocketAddr, local: SocketAddr, echo: String) -> io::Result<Vec<u8>> {
    let (client, local) = (canonical(client), canonical(local));
    Ok(serde_json::to_vec(&Answer {
        name: name.to_owned(),
        client,
        local,
        echo,
    })?)
}
