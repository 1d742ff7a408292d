//! The tool's command line, read and written.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{ProbeOptions, Protocol, Shape, Task, Transfer};

/// How to call the tool.
const USAGE: &str = "usage: lab-tool serve --name NAME --port PORT [--answers SHAPE]
       lab-tool request|hold --to ADDRESS:PORT [--protocol tcp|udp] [--count N (0: until stdin closes)]
                [--bind PORT] [--timeout-ms N] [--interval-ms N] [--size BYTES] [--connect]
                [--endure] [--shape SHAPE] [--upload BYTES | --download BYTES]
       lab-tool probe --to ADDRESS:PORT [--protocol tcp|udp] [--size BYTES] [--ttl N] [--timeout-ms N]
       lab-tool traffic|echo|attend|crowd OPTIONS (JSON)";

/// A command line that makes no sense.
#[derive(Debug)]
pub enum UsageError {
    /// No such subcommand, or none at all.
    Command,
    /// No such option, or one without its value.
    Option(String),
    /// A value that the option does not take.
    Value {
        /// The option.
        option: String,
        /// What it was given.
        value: String,
    },
    /// A needed option that is not there.
    Missing(&'static str),
}

impl std::error::Error for UsageError {}

impl std::fmt::Display for UsageError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command => write!(out, "{USAGE}"),
            Self::Option(option) => {
                write!(out, "unknown option or value missing: {option}\n{USAGE}")
            }
            Self::Value { option, value } => {
                write!(out, "{option} does not take {value:?}\n{USAGE}")
            }
            Self::Missing(option) => write!(out, "{option} is needed\n{USAGE}"),
        }
    }
}

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// The name to answer with.
    pub name: String,
    /// The port to listen on, TCP and UDP, on every address.
    pub port: u16,
    /// What answers over UDP look like: fragments, or datagrams without checksum.
    pub answers: Shape,
}

impl ServeOptions {
    /// A server that answers plainly.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            port,
            answers: Shape::Plain,
        }
    }

    /// The arguments that [`parse`] reads back.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let (port, answers) = (self.port.to_string(), self.answers.to_string());
        let words = [
            "serve",
            "--name",
            &self.name,
            "--port",
            &port,
            "--answers",
            &answers,
        ];
        words.map(str::to_owned).to_vec()
    }
}

/// What to request, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// Whom to ask.
    pub to: SocketAddr,
    /// Over what.
    pub protocol: Protocol,
    /// How many requests; 0: until standard input closes.
    pub count: u64,
    /// All requests go over one connection (or socket), and the first failure ends it.
    pub hold: bool,
    /// The client's port; 0: any.
    pub source_port: u16,
    /// How long to wait for a connection, and for an answer.
    pub timeout: Duration,
    /// How long to wait after an answer.
    pub interval: Duration,
    /// The least length of a request in bytes.
    pub size: usize,
    /// A UDP socket is connected, so that it takes answers of its server only.
    pub connect: bool,
    /// A UDP socket that is held is kept whatever fails.
    pub endure: bool,
    /// What the client's packets look like.
    pub shape: Shape,
    /// TCP: many bytes instead of a request.
    pub transfer: Option<Transfer>,
}

impl RequestOptions {
    /// One request.
    #[must_use]
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            to,
            protocol,
            count: 1,
            hold: false,
            source_port: 0,
            timeout: Duration::from_secs(2),
            interval: Duration::ZERO,
            size: 0,
            connect: false,
            endure: false,
            shape: Shape::Plain,
            transfer: None,
        }
    }

    /// The arguments that [`parse`] reads back (times in whole milliseconds).
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--to", self.to.to_string()),
            ("--protocol", self.protocol.name().to_owned()),
            ("--count", self.count.to_string()),
            ("--bind", self.source_port.to_string()),
            ("--timeout-ms", self.timeout.as_millis().to_string()),
            ("--interval-ms", self.interval.as_millis().to_string()),
            ("--size", self.size.to_string()),
            ("--shape", self.shape.to_string()),
        ];
        let command = if self.hold { "hold" } else { "request" };
        let pairs = pairs
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value]);
        let switches = [("--connect", self.connect), ("--endure", self.endure)];
        let switches = switches.into_iter().filter(|(_, is_on)| *is_on);
        let transfer = self
            .transfer
            .into_iter()
            .flat_map(|transfer| match transfer {
                Transfer::Upload(bytes) => ["--upload".to_owned(), bytes.to_string()],
                Transfer::Download(bytes) => ["--download".to_owned(), bytes.to_string()],
            });
        [command.to_owned()]
            .into_iter()
            .chain(pairs)
            .chain(switches.map(|(option, _)| option.to_owned()))
            .chain(transfer)
            .collect()
    }
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// [`UsageError`] says what is wrong, and how to call the tool.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Task, UsageError> {
    let mut arguments = arguments.into_iter();
    match arguments.next().as_deref() {
        Some("serve") => parse_serve(arguments).map(Task::Serve),
        Some("request") => parse_request(arguments, false).map(Task::Request),
        Some("hold") => parse_request(arguments, true).map(Task::Request),
        Some("probe") => parse_probe(arguments).map(Task::Probe),
        Some("traffic") => parse_json(arguments).map(Task::Traffic),
        Some("echo") => parse_json(arguments).map(Task::Echo),
        Some("attend") => parse_json(arguments).map(Task::Attend),
        Some("crowd") => parse_json(arguments).map(Task::Crowd),
        _ => Err(UsageError::Command),
    }
}

fn parse_serve(mut arguments: impl Iterator<Item = String>) -> Result<ServeOptions, UsageError> {
    let (mut name, mut port, mut answers) = (None, None, Shape::Plain);
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--name" => name = Some(value(&option, &mut arguments)?),
            "--port" => port = Some(value(&option, &mut arguments)?),
            "--answers" => answers = value::<String>(&option, &mut arguments)?.parse()?,
            _ => return Err(UsageError::Option(option)),
        }
    }
    Ok(ServeOptions {
        name: name.ok_or(UsageError::Missing("--name"))?,
        port: port.ok_or(UsageError::Missing("--port"))?,
        answers,
    })
}

fn parse_request(
    mut arguments: impl Iterator<Item = String>,
    hold: bool,
) -> Result<RequestOptions, UsageError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let count = if hold { 0 } else { 1 };
    let mut options = RequestOptions {
        hold,
        count,
        ..RequestOptions::new(Protocol::Tcp, nowhere)
    };
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--to" => options.to = value(&option, &mut arguments)?,
            "--protocol" => options.protocol = value::<String>(&option, &mut arguments)?.parse()?,
            "--count" => options.count = value(&option, &mut arguments)?,
            "--bind" => options.source_port = value(&option, &mut arguments)?,
            "--timeout-ms" => options.timeout = milliseconds(&option, &mut arguments)?,
            "--interval-ms" => options.interval = milliseconds(&option, &mut arguments)?,
            "--size" => options.size = value(&option, &mut arguments)?,
            "--connect" => options.connect = true,
            "--endure" => options.endure = true,
            "--shape" => options.shape = value::<String>(&option, &mut arguments)?.parse()?,
            "--upload" => {
                options.transfer = Some(Transfer::Upload(value(&option, &mut arguments)?))
            }
            "--download" => {
                options.transfer = Some(Transfer::Download(value(&option, &mut arguments)?));
            }
            _ => return Err(UsageError::Option(option)),
        }
    }
    if options.to == nowhere {
        Err(UsageError::Missing("--to"))
    } else {
        Ok(options)
    }
}

fn parse_probe(mut arguments: impl Iterator<Item = String>) -> Result<ProbeOptions, UsageError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut options = ProbeOptions::new(Protocol::Udp, nowhere);
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--to" => options.to = value(&option, &mut arguments)?,
            "--protocol" => options.protocol = value::<String>(&option, &mut arguments)?.parse()?,
            "--size" => options.size = value(&option, &mut arguments)?,
            "--ttl" => options.ttl = value(&option, &mut arguments)?,
            "--timeout-ms" => options.timeout = milliseconds(&option, &mut arguments)?,
            _ => return Err(UsageError::Option(option)),
        }
    }
    if options.to == nowhere {
        Err(UsageError::Missing("--to"))
    } else {
        Ok(options)
    }
}

/// Options that only programs write.
fn parse_json<T: DeserializeOwned>(
    mut arguments: impl Iterator<Item = String>,
) -> Result<T, UsageError> {
    let text = arguments.next().ok_or(UsageError::Missing("OPTIONS"))?;
    serde_json::from_str(&text).ok().ok_or(UsageError::Value {
        option: "OPTIONS".to_owned(),
        value: text,
    })
}

fn value<T: FromStr>(
    option: &str,
    arguments: &mut impl Iterator<Item = String>,
) -> Result<T, UsageError> {
    let value = arguments
        .next()
        .ok_or_else(|| UsageError::Option(option.to_owned()))?;
    value.parse().ok().ok_or_else(|| UsageError::Value {
        option: option.to_owned(),
        value,
    })
}

fn milliseconds(
    option: &str,
    arguments: &mut impl Iterator<Item = String>,
) -> Result<Duration, UsageError> {
    value(option, arguments).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::super::Order;
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_survive_the_command_line() {
        let to = "[fd00::1]:8000".parse().unwrap();
        let options = RequestOptions {
            count: 7,
            hold: true,
            source_port: 4000,
            timeout: Duration::from_millis(250),
            interval: Duration::from_millis(5),
            size: 9000,
            connect: true,
            endure: true,
            shape: Shape::Fragments(Order::Reversed),
            transfer: Some(Transfer::Upload(12)),
            ..RequestOptions::new(Protocol::Udp, to)
        };
        assert_eq!(parse(options.arguments()).unwrap(), Task::Request(options));
        let options = ServeOptions {
            answers: Shape::Unchecked,
            ..ServeOptions::new("alpaca-1", 8000)
        };
        assert_eq!(parse(options.arguments()).unwrap(), Task::Serve(options));
        let options = ProbeOptions {
            size: 1452,
            ttl: 3,
            timeout: Duration::from_millis(700),
            ..ProbeOptions::new(Protocol::Tcp, to)
        };
        assert_eq!(parse(options.arguments()).unwrap(), Task::Probe(options));
    }

    #[test]
    fn a_wrong_command_line_is_refused_by_name() {
        let refusals = [
            ("dance", "usage:"),
            ("serve --name x", "--port is needed"),
            ("request", "--to is needed"),
            ("request --to here", "--to does not take \"here\""),
            (
                "request --protocol sctp",
                "--protocol does not take \"sctp\"",
            ),
            ("hold --fast", "--fast"),
        ];
        for (line, complaint) in refusals {
            let message = parse(words(line)).unwrap_err().to_string();
            assert!(message.contains(complaint), "{line}: {message}");
        }
    }
}
