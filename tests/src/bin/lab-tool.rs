//! Servers and clients for the places of a lab: see `lb_tests::tool`.

use std::error::Error;
use std::process::ExitCode;

use lb_tests::tool::{Task, attend, crowd, echo, parse, probe, request, serve, traffic};

fn main() -> ExitCode {
    let done = parse(std::env::args().skip(1)).map(|task| match task {
        Task::Serve(options) => serve(&options),
        Task::Request(options) => request(&options),
        Task::Probe(options) => probe(&options),
        Task::Traffic(options) => traffic(&options),
        Task::Echo(options) => echo(&options),
        Task::Attend(options) => attend(&options),
        Task::Crowd(options) => crowd(&options),
    });
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => complain(&error),
        Err(usage) => complain(&usage),
    }
}

fn complain(error: &dyn Error) -> ExitCode {
    eprintln!("lab-tool: {error}");
    ExitCode::FAILURE
}
