//! Measurements: see `lb_tests::perf`.

use std::process::ExitCode;

use clap::Parser as _;
use lb_tests::perf::{self, Options};

fn main() -> ExitCode {
    match perf::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
