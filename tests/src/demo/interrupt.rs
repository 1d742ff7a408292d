//! The end of a demo that somebody has seen enough of.

use std::io;
use std::process::exit;
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::ctrl_c;

use crate::lab;

/// What shells say of a process that an interrupt has ended.
const INTERRUPTED: i32 = 130;

/// Removes the lab and ends the process when the user presses Ctrl-C.
///
/// Servers and agents are in process groups of their own: they do not get the signal. If the
/// signal cannot be caught, the next lab on this machine removes what this one leaves.
pub(super) fn remove_on_interrupt(lab: &str) {
    let lab = lab.to_owned();
    thread::spawn(move || {
        if wait().is_ok() {
            if let Err(error) = lab::remove_lab(&lab) {
                eprintln!("demo: {error:#}");
            }
            exit(INTERRUPTED);
        }
    });
}

fn wait() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(ctrl_c())
}
