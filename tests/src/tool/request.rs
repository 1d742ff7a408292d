//! A client that reports every request.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;

use super::connection::Connection;
use super::{Outcome, Reply, RequestOptions};

/// Sends requests and prints an [`Outcome`] a line, until the count is reached, standard
/// input closes, or a held connection fails.
///
/// # Errors
/// When standard output is closed; failed requests are outcomes, not errors.
pub fn request(options: &RequestOptions) -> io::Result<()> {
    let (stop, stopped) = channel();
    // Whoever gives a count need not hold the input open.
    let _running = if options.count == 0 {
        thread::spawn(move || wait_for_end(stop));
        None
    } else {
        Some(stop)
    };
    let mut held = None;
    for number in (0..).take_while(|number| options.count == 0 || *number < options.count) {
        let outcome = outcome(options, number, &mut held);
        print(&outcome)?;
        let failed = matches!(outcome, Outcome::Failure { .. });
        let is_over = failed && options.hold && !options.endure;
        if is_over || is_stopped(&stopped, options) {
            break;
        }
    }
    Ok(())
}

/// Reads standard input to its end, then lets go of `stop`.
fn wait_for_end(stop: Sender<()>) {
    let mut ignored = Vec::new();
    // An input that cannot be read has ended as well.
    let _ = io::stdin().read_to_end(&mut ignored);
    drop(stop);
}

/// Waits for the interval, at most until standard input closes.
fn is_stopped(stopped: &Receiver<()>, options: &RequestOptions) -> bool {
    stopped.recv_timeout(options.interval) == Err(RecvTimeoutError::Disconnected)
}

fn outcome(options: &RequestOptions, number: u64, held: &mut Option<Connection>) -> Outcome {
    attempt(options, number, held).map_or_else(|error| failure(options, &error), Outcome::Reply)
}

fn attempt(
    options: &RequestOptions,
    number: u64,
    held: &mut Option<Connection>,
) -> io::Result<Reply> {
    let start = Instant::now();
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => Connection::open(options)?,
    };
    let exchanged = match options.transfer {
        None => connection.exchange(&text(options, number)),
        Some(transfer) => connection.transfer(transfer),
    };
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let local = connection.local();
    if options.hold && (options.endure || exchanged.is_ok()) {
        *held = Some(connection);
    }
    let ((answer, peer), local) = (exchanged?, local?);
    Ok(Reply {
        number,
        server: answer.name,
        seen_client: answer.client,
        seen_server: answer.local,
        peer,
        local,
        ms,
    })
}

/// The request's text: unlike that of any other request on this machine.
fn text(options: &RequestOptions, number: u64) -> String {
    let name = format!("{}-{number}", std::process::id());
    let padding = "-".repeat(options.size.saturating_sub(name.len()));
    name + &padding
}

fn failure(options: &RequestOptions, error: &io::Error) -> Outcome {
    let RequestOptions {
        protocol,
        to,
        timeout,
        ..
    } = options;
    // What the kernel says of a blocking socket whose time is up.
    let unfinished = error.raw_os_error() == Some(Errno::EINPROGRESS as i32);
    let reason = match error.kind() {
        _ if unfinished => format!("no connection within {timeout:?}"),
        ErrorKind::WouldBlock => format!("no answer within {timeout:?}"),
        _ => error.to_string(),
    };
    Outcome::Failure {
        error: format!("{} to {to}: {reason}", protocol.name()),
    }
}

fn print(outcome: &Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(outcome)?;
    line.push(b'\n');
    // One write a line, so that whoever reads along sees whole lines, at once.
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
