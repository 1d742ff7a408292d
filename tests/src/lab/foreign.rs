//! A program of somebody else on a device.

use std::fmt;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use lb_agent::object;

use super::netns::Netns;

/// Name of the program.
const NAME: &str = "lab_tc_next";

/// A program that runs before all others of a device, and leaves everything to them; detached on
/// drop.
pub struct ForeignProgram(#[expect(dead_code, reason = "holds on to the program")] Ebpf);

impl fmt::Debug for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl ForeignProgram {
    /// Attaches one to the ingress (tcx) of a device.
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub fn attach(netns: &Netns, device: &str) -> Result<Self> {
        let device = device.to_owned();
        netns.run(move || {
            let mut ebpf = Ebpf::load(object::LAB)?;
            let program: &mut SchedClassifier = ebpf
                .program_mut(NAME)
                .context("no such program")?
                .try_into()?;
            program.load()?;
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            program.attach_with_options(&device, TcAttachType::Ingress, first)?;
            Ok(Self(ebpf))
        })?
    }
}
