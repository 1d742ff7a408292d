//! Many connections at once, and a server that takes them: each on one thread, for measurements.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout_at;

use super::READY;

/// Bytes of a request, and of its answer.
const MESSAGE: usize = 64;
/// How long the last connections may take after the others.
const GRACE: Duration = Duration::from_secs(2);

/// Ports that [`attend`] takes connections at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttendOptions {
    /// The first,
    pub port: u16,
    /// and how many.
    pub ports: u16,
}

/// What a crowd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrowdOptions {
    /// Whom it asks,
    pub to: SocketAddr,
    /// and at how many ports from there on, by turns.
    pub ports: u16,
    /// How many ask at once.
    pub at_once: usize,
    /// Whether each keeps its connection for all that it asks.
    pub keep: bool,
    /// How long it goes on before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub window: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Crowded {
    /// How long each took that was answered within the window, in microseconds; with its connection,
    /// unless that was kept.
    pub took_us: Vec<f64>,
    /// How many were not answered.
    pub failed: u64,
}

/// Takes connections and answers each request on them by as many bytes, until killed.
///
/// Prints [`READY`] once it listens.
///
/// # Errors
/// When a port cannot be had.
pub fn attend(options: &AttendOptions) -> io::Result<()> {
    run(async {
        for port in options.port..options.port + options.ports {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
            spawn_local(accept(listener));
        }
        println!("{READY}");
        std::future::pending().await
    })
}

async fn accept(listener: TcpListener) {
    loop {
        // A client that hangs up, in whatever way, is no concern of the server's.
        if let Ok((stream, _)) = listener.accept().await {
            spawn_local(answer(stream));
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
    }
}

/// Asks, and prints what came of it as [`Crowded`].
///
/// # Errors
/// When standard output is closed.
pub fn crowd(options: &CrowdOptions) -> io::Result<()> {
    let crowded = run(ask_all(*options))?;
    println!("{}", serde_json::to_string(&crowded)?);
    Ok(())
}

fn run<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}

async fn ask_all(options: CrowdOptions) -> io::Result<Crowded> {
    let begin = Instant::now() + options.warm_up;
    let end = begin + options.window;
    let crowded = Rc::<RefCell<Crowded>>::default();
    let members: Vec<_> = (0..options.at_once)
        .map(|member| spawn_local(ask_on(options, member, begin..end, Rc::clone(&crowded))))
        .collect();
    for member in members {
        // Whoever is not back by then has asked in vain.
        if timeout_at((end + GRACE).into(), member).await.is_err() {
            crowded.borrow_mut().failed += 1;
        }
    }
    Ok(crowded.take())
}

/// One member asks until the end, at first at the port of its number.
async fn ask_on(
    options: CrowdOptions,
    number: usize,
    window: Range<Instant>,
    crowded: Rc<RefCell<Crowded>>,
) {
    let mut kept = None;
    let ports = (0..options.ports).cycle().skip(number);
    for port in ports.take_while(|_| Instant::now() < window.end) {
        let mut to = options.to;
        to.set_port(to.port() + port);
        let asked = Instant::now();
        let answered = ask(to, &mut kept, options.keep).await;
        let now = Instant::now();
        match answered {
            Ok(()) if window.contains(&now) => {
                let took = now - asked;
                crowded.borrow_mut().took_us.push(took.as_secs_f64() * 1e6);
            }
            Ok(()) => {}
            Err(_) => {
                crowded.borrow_mut().failed += 1;
                kept = None;
            }
        }
    }
}

async fn ask(to: SocketAddr, kept: &mut Option<TcpStream>, keep: bool) -> io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let mut message = [0; MESSAGE];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    *kept = keep.then_some(stream);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a server on this thread.
    fn asked(keep: bool) -> Crowded {
        let work = async {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await?;
            let to = listener.local_addr()?;
            spawn_local(accept(listener));
            let options = CrowdOptions {
                to,
                ports: 1,
                at_once: 3,
                keep,
                warm_up: Duration::ZERO,
                window: Duration::from_millis(50),
            };
            ask_all(options).await
        };
        run(work).unwrap()
    }

    #[test]
    fn crowd_is_answered_with_and_without_kept_connections() {
        for keep in [false, true] {
            let crowded = asked(keep);
            assert!(!crowded.took_us.is_empty(), "{keep}");
            assert_eq!(crowded.failed, 0, "{keep}");
        }
    }

    #[test]
    fn crowd_that_nobody_answers_fails() {
        let work = async {
            let closed = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
                .await?
                .local_addr()?;
            let options = CrowdOptions {
                to: closed,
                ports: 1,
                at_once: 2,
                keep: false,
                warm_up: Duration::ZERO,
                window: Duration::from_millis(5),
            };
            ask_all(options).await
        };
        let crowded = run(work).unwrap();
        assert!(
            crowded.failed > 0 && crowded.took_us.is_empty(),
            "{crowded:?}"
        );
    }
}
