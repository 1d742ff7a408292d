//! The main job, shown: see `lb_tests::demo`.

use std::process::ExitCode;

use clap::Parser as _;
use lb_tests::demo::{self, Options};

fn main() -> ExitCode {
    match demo::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
