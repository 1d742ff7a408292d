//! HTTP as load balancers and the kubelet speak it, from any place of a lab.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::lab::Place;

/// How long a connection and each part of an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Lines of the head, in lower case.
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

/// Asks for `path` from `place`, by `method`.
pub(crate) fn ask(place: &impl Place, to: SocketAddr, method: &str, path: &str) -> Result<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    let exchange = move || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = place.netns().run(exchange)??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let mut head = head.lines().map(str::to_lowercase);
    let status = head.next().context("a status")?;
    let status = status.split(' ').nth(1).context("a code")?.parse()?;
    Ok(Answer {
        status,
        head: head.collect(),
        body: body.to_owned(),
    })
}

/// Gets `path` from `place`.
pub(crate) fn get(place: &impl Place, to: SocketAddr, path: &str) -> Result<Answer> {
    ask(place, to, "GET", path)
}
