//! Forty thousand connections at once: more packets than the queue of a processor takes.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::counter::{Hook, Outcome};
use lb_tests::dial::{any, connect, family};
use lb_tests::lab::{Fabric, Place as _};
use lb_tests::scene::{PORT, Scene};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::FLOODING;

/// Connections at once.
const CONNECTIONS: usize = 40_000;
/// The client's first port.
const FIRST_PORT: u16 = 20_000;
/// Threads at each end. A process may have 20,000 open files here: each thread has a table of its own.
const THREADS: usize = 4;
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// One of several listeners at the same address: the kernel deals out connections to them.
fn listener(at: SocketAddr) -> nix::Result<TcpListener> {
    let socket = socket(family(at), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

/// Takes connections until there are [`CONNECTIONS`] with all threads, then answers a byte on each
/// with the same one. Returns who the clients were.
fn serve(listener: &TcpListener, accepted: &AtomicUsize) -> io::Result<Vec<SocketAddr>> {
    let deadline = Instant::now() + DEADLINE;
    let mut streams = Vec::new();
    while accepted.load(Ordering::Relaxed) < CONNECTIONS {
        match listener.accept() {
            Ok(stream) => {
                streams.push(stream);
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "{accepted:?} connections");
            }
            Err(error) => return Err(error),
        }
    }
    for (stream, _) in &mut streams {
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    Ok(streams.into_iter().map(|(_, client)| client).collect())
}

/// Opens the `share`-th part of the connections; once `all` have theirs, exchanges a byte on each.
///
/// The ports are said: to find a free one takes the kernel long, once most are in use.
fn ask(to: SocketAddr, share: u16, all: &Barrier) -> io::Result<()> {
    const SHARE: u16 = (CONNECTIONS / THREADS) as u16;
    let first = FIRST_PORT + share * SHARE;
    let ports = first..first + SHARE;
    let streams: io::Result<Vec<TcpStream>> =
        ports.map(|port| connect(any(to, port), to)).collect();
    all.wait();
    let mut streams = streams?;
    for (byte, stream) in (0..=u8::MAX).cycle().zip(&mut streams) {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(&[byte])?;
    }
    for (byte, stream) in (0..=u8::MAX).cycle().zip(&mut streams) {
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, [byte]);
    }
    Ok(())
}

/// Runs `work` on [`THREADS`] threads, each with its own table of open files.
fn on_threads<T: Send>(work: impl Fn(u16) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let begin = |number| {
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_FILES).expect("a table of files");
                work(number)
            })
        };
        let threads: Vec<_> = (0..THREADS as u16).map(begin).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.expect("no panic")).collect()
    })
}

/// One client has 40,000 connections with one backend on another node at once, by one node port.
#[test]
fn snat_40k_connections_one_backend() {
    let own = ["192.168.77.211", "fd00:77::d3"];
    let _alone = FLOODING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut scene = Scene::sending_from(
        Fabric::Direct,
        &["--snat-address", "192.168.77.211,fd00:77::d3"],
        "eth0",
        own,
    );
    scene.stop_serving();
    let client = scene.cluster.client().netns();
    let pod = &scene.backends[0];
    for ((to, addr), own) in scene
        .node_ports(0)
        .into_iter()
        .zip(pod.addresses())
        .zip(own)
    {
        let at = SocketAddr::new(addr, PORT);
        let (accepted, all) = (AtomicUsize::new(0), Barrier::new(THREADS));
        let (served, asked) = thread::scope(|scope| {
            let (ready, listening) = std::sync::mpsc::channel();
            let accepted = &accepted;
            let served = scope.spawn(move || {
                let work = |_| {
                    let listener = listener(at).expect("a listener");
                    ready.send(()).expect("somebody waits");
                    serve(&listener, accepted)
                };
                pod.netns().run(|| on_threads(work))
            });
            listening.iter().take(THREADS).for_each(drop);
            let asked = client.run(|| on_threads(|share| ask(to, share, &all)));
            (served.join().expect("no panic"), asked)
        });
        for asked in asked.expect("the client's namespace") {
            asked.expect("all connections");
        }
        let mut clients = BTreeSet::new();
        for served in served.expect("the pod's namespace") {
            clients.extend(served.expect("all connections"));
        }
        assert_eq!(clients.len(), CONNECTIONS);
        let own: IpAddr = own.parse().expect("an address");
        assert!(clients.iter().all(|client| client.ip() == own));
    }
    for hook in [Hook::Xdp, Hook::WireIngress] {
        assert_eq!(scene.count(0, hook, Outcome::NoSnatPort), 0);
    }
}
