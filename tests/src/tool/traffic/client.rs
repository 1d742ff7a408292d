//! The traffic's own side: one thread, which never waits for one of its connections.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::flow::Flow;
use super::stream::Stream;
use super::{Contact, TrafficOptions, TrafficReport, now_ns};
use crate::tool::READY;

/// How long answers are waited for at the end.
const END: Duration = Duration::from_secs(5);

/// Makes traffic until standard input closes, and prints a [`TrafficReport`].
///
/// Prints [`READY`] once every connection that stays has had an answer.
///
/// # Errors
/// When there are no sockets.
pub fn traffic(options: &TrafficOptions) -> io::Result<()> {
    let mut traffic = Traffic::open(options)?;
    let interval = Duration::from_millis(options.interval_ms);
    let mut next = Instant::now();
    let mut end: Option<Instant> = None;
    let mut is_ready = false;
    loop {
        let now = Instant::now();
        if now >= next {
            traffic.tick(end.is_none());
            next += interval;
            if next < now {
                traffic.report.late += 1;
                next = now + interval;
            }
        }
        if !is_ready && traffic.has_begun() {
            println!("{READY}");
            is_ready = true;
        }
        let is_open = traffic.wait(next.saturating_duration_since(now), end.is_none())?;
        if !is_open && end.is_none() {
            end = Some(now + END);
        }
        if end.is_some_and(|end| now >= end || traffic.is_quiet()) {
            break;
        }
    }
    println!("{}", serde_json::to_string(&traffic.report)?);
    Ok(())
}

struct Traffic<'a> {
    options: &'a TrafficOptions,
    flows: Vec<Flow>,
    streams: Vec<Stream>,
    /// Connections for a request each.
    dials: Vec<Flow>,
    /// Those that were begun, times a thousand, less those that ought to have been.
    due: u64,
    dialled: usize,
    report: TrafficReport,
}

impl<'a> Traffic<'a> {
    fn open(options: &'a TrafficOptions) -> io::Result<Self> {
        let targets = || options.targets.iter().copied().enumerate().cycle();
        let flows = targets().take(options.flows);
        let streams = targets().take(options.streams);
        Ok(Self {
            options,
            flows: flows
                .map(|(i, to)| Flow::open(i, to))
                .collect::<Result<_, _>>()?,
            streams: streams
                .map(|(i, to)| Stream::open(i, to, options.streams_may_move))
                .collect::<Result<_, _>>()?,
            dials: Vec::new(),
            due: 0,
            dialled: 0,
            report: TrafficReport::default(),
        })
    }

    fn has_begun(&self) -> bool {
        self.report.exchanges >= self.options.flows as u64 || self.report.failures > 0
    }

    fn is_quiet(&self) -> bool {
        let flows = self.flows.iter().chain(&self.dials);
        !flows.into_iter().any(Flow::is_waiting) && !self.streams.iter().any(Stream::is_waiting)
    }

    /// Gives up what has waited too long, and asks all others, if there are to be more requests.
    fn tick(&mut self, goes_on: bool) {
        let Self {
            options,
            flows,
            streams,
            dials,
            report,
            ..
        } = self;
        let patience = options.patience_ms * 1_000_000;
        let overdue =
            |flow: &Flow| flow.is_waiting() && now_ns().saturating_sub(flow.asked_ns) > patience;
        flows.retain(|flow| keep(report, "a connection that stays", flow, overdue(flow)));
        dials.retain(|flow| keep(report, "a new connection", flow, overdue(flow)));
        if !goes_on {
            return;
        }
        flows.retain_mut(|flow| match flow.ask() {
            Ok(()) => true,
            Err(error) => {
                report.fail("a connection that stays", flow.to, &error);
                false
            }
        });
        for stream in streams {
            match stream.ask() {
                Ok(()) => report.datagrams += 1,
                Err(error) => report.fail("a datagram", stream.to, &error),
            }
        }
        self.dial();
    }

    /// Begins as many new connections as are due.
    fn dial(&mut self) {
        self.due += u64::from(self.options.connections_per_second) * self.options.interval_ms;
        while self.due >= 1000 {
            self.due -= 1000;
            let target = self.dialled % self.options.targets.len().max(1);
            self.dialled += 1;
            let Some(to) = self.options.targets.get(target) else {
                return;
            };
            match Flow::open(target, *to) {
                Ok(flow) => self.dials.push(flow),
                Err(error) => self.report.fail("a new connection", *to, &error),
            }
        }
    }

    /// Waits until something has come, and takes it. False once standard input is closed.
    fn wait(&mut self, timeout: Duration, heeds_input: bool) -> io::Result<bool> {
        let stdin = io::stdin();
        let input = if heeds_input {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let mut ready = vec![PollFd::new(stdin.as_fd(), input)];
        for flow in self.flows.iter().chain(&self.dials) {
            let event = if flow.is_connecting() {
                PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            ready.push(PollFd::new(flow.stream.as_fd(), event));
        }
        let sockets = self.streams.iter().map(|stream| stream.socket.as_fd());
        ready.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout.as_millis()).unwrap_or(PollTimeout::MAX);
        poll(&mut ready, timeout)?;
        let ready: Vec<bool> = ready.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let (input, rest) = ready.split_at(1);
        self.take(rest);
        Ok(!(heeds_input && input == [true] && is_at_end()?))
    }

    /// Takes what has come, by connection: those that stay, new ones, UDP.
    fn take(&mut self, ready: &[bool]) {
        let lists = self.options.lists_contacts;
        let mut ready = ready.iter().copied();
        let report = &mut self.report;
        self.flows.retain_mut(|flow| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            match flow.proceed() {
                Ok(Some(_)) => {
                    report.exchanges += 1;
                    report.took(flow.asked_ns, now_ns());
                    true
                }
                Ok(None) => true,
                Err(error) => {
                    report.fail("a connection that stays", flow.to, &error);
                    false
                }
            }
        });
        self.dials.retain_mut(|flow| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            match flow.proceed() {
                Ok(Some(server)) => {
                    report.connections += 1;
                    let contact = Contact {
                        asked_ns: flow.asked_ns,
                        answered_ns: now_ns(),
                        target: flow.target,
                        server,
                    };
                    report.met(contact, lists);
                    false
                }
                Ok(None) => true,
                Err(error) => {
                    report.fail("a new connection", flow.to, &error);
                    false
                }
            }
        });
        self.take_datagrams(ready, lists);
    }

    /// Takes the answers over UDP that are there.
    fn take_datagrams(&mut self, mut ready: impl Iterator<Item = bool>, lists: bool) {
        let report = &mut self.report;
        for stream in &mut self.streams {
            if !ready.next().unwrap_or_default() {
                continue;
            }
            loop {
                match stream.proceed() {
                    Ok(Some(contact)) => {
                        report.answered += 1;
                        report.met(contact, lists);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        report.fail("a datagram", stream.to, &error);
                        break;
                    }
                }
            }
        }
    }
}

fn keep(report: &mut TrafficReport, what: &str, flow: &Flow, is_overdue: bool) -> bool {
    if is_overdue {
        let why = if flow.is_connecting() {
            "no handshake in time"
        } else {
            "no answer in time"
        };
        report.fail(what, flow.to, &why);
    }
    !is_overdue
}

fn is_at_end() -> io::Result<bool> {
    Ok(io::stdin().read(&mut [0; 64])? == 0)
}
