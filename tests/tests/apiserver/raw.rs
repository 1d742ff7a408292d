//! HTTP as it goes over the wire, for what clients hide.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use flate2::read::MultiGzDecoder;
use lb_tests::apiserver::ApiServer;
use serde_json::Value;

use super::DEADLINE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Whether it came as a whole.
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The events of a watch.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    pub(crate) fn gunzip(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        MultiGzDecoder::new(self.body.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }
}

/// Sends a request and reads until the connection ends.
pub(crate) fn send(
    server: &ApiServer,
    method: &str,
    url: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let headers = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect::<String>();
    let request = format!(
        "{method} {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A connection that is cut may end in an error.
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

pub(crate) fn get(server: &ApiServer, url: &str) -> Answer {
    send(server, "GET", url, &[], "")
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        return Answer {
            code: 0,
            head: String::new(),
            body: Vec::new(),
            is_whole: false,
        };
    };
    let head = String::from_utf8(bytes[..end].to_vec())
        .unwrap()
        .to_lowercase();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let rest = &bytes[end + 4..];
    let (body, is_whole) = if head.contains("transfer-encoding: chunked") {
        dechunk(rest)
    } else {
        (rest.to_vec(), true)
    };
    Answer {
        code,
        head,
        body,
        is_whole,
    }
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let chunk = &rest[end + 2..];
        body.extend_from_slice(&chunk[..size.min(chunk.len())]);
        if chunk.len() < size + 2 {
            return (body, false);
        }
        rest = &chunk[size + 2..];
    }
}
