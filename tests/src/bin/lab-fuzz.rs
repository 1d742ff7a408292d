//! The programs against the model: see `lb_tests::fuzz`.

use std::process::ExitCode;

use clap::Parser as _;
use lb_tests::fuzz::{self, Options};

fn main() -> ExitCode {
    match fuzz::main(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}
