//! Puts the programs on network devices.

use std::{
    collections::BTreeSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaXdpMode,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::{XdpLink, XdpLinkId},
};
use lb_common::maps;
use nix::net::if_::if_indextoname;
use tracing::{debug, warn};

use super::{
    BpfDataplane,
    error::{Error, LinkFailure, errno},
    failpoint, filter, load,
    plan::{Action, Attachment, Hook, plan, wanted},
    sockets,
};
use crate::interfaces::State;

/// How long the kernel may take to detach a program after its link's pin is removed (an RCU grace
/// period, and a work queue).
const DETACHING: Duration = Duration::from_millis(500);

/// What [`BpfDataplane::sync_attachments`] has done.
#[derive(Debug, Default)]
#[must_use]
pub struct Synced {
    /// Programs newly attached.
    pub attached: Vec<Attachment>,
    /// Links of an earlier process that now run this one's programs.
    pub replaced: Vec<Attachment>,
    /// Links that were removed.
    pub removed: Vec<Attachment>,
    /// What did not succeed; call again to try again.
    pub failed: Vec<Error>,
}

impl BpfDataplane {
    /// Whether the pins are still there. Without them this process's maps are nobody's after it.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        self.pins.maps().exists() && self.pins.map(maps::FRONTENDS).exists()
    }

    /// Makes the attachments on network devices what `state` asks for.
    ///
    /// Level-triggered: call it with every new state. One device's failure does not stop the
    /// others. A device that goes away meanwhile is no failure.
    pub fn sync_attachments(&mut self, state: &State) -> Synced {
        let mut synced = Synced::default();
        if let Err(error) = self.mend_sockets() {
            synced.failed.push(error);
        }
        let pinned = match self.attachments() {
            Ok(pinned) => pinned,
            Err(error) => {
                synced.failed.push(error);
                return synced;
            }
        };
        let wanted = wanted(state, self.xdp, &pinned);
        self.current = self.current.intersection(&pinned).copied().collect();
        for action in plan(&wanted, &pinned, &self.current) {
            if let Err(error) = self.carry_out(action, &mut synced) {
                synced.failed.push(error);
            }
        }
        let is_ours = |all: BTreeSet<Attachment>| all.is_subset(&self.current);
        if synced.failed.is_empty() && self.attachments().is_ok_and(is_ours) {
            self.tables.known.trust();
        }
        synced
    }

    /// Attaches the socket programs anew if they were found broken.
    fn mend_sockets(&mut self) -> Result<(), Error> {
        if self.sockets_broken {
            sockets::sync(&mut self.ebpf, &self.pins, self.cgroup.as_deref())?;
            self.sockets_broken = false;
        }
        Ok(())
    }

    /// The attachments whose links are pinned.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the pins cannot be listed.
    pub fn attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        let names = self.pins.link_names()?;
        let attachments = names.iter().filter_map(|n| Attachment::from_pin_name(n));
        Ok(attachments.collect())
    }

    /// The devices at which XDP runs this process's program.
    #[must_use]
    pub fn xdp_devices(&self) -> BTreeSet<u32> {
        let xdp = self.current.iter().filter(|a| direction(a.hook).is_none());
        xdp.map(|attachment| attachment.ifindex).collect()
    }

    fn carry_out(&mut self, action: Action, synced: &mut Synced) -> Result<(), Error> {
        failpoint::pass();
        match action {
            Action::Remove(attachment) => {
                self.remove(attachment)?;
                synced.removed.push(attachment);
            }
            Action::Replace(attachment) => match self.replace(attachment) {
                Ok(()) => {
                    self.current.insert(attachment);
                    synced.replaced.push(attachment);
                }
                // The device of this link is gone, and another has its index now.
                Err(failure) if failure.is_gone() => {
                    self.remove(attachment)?;
                    self.attach(attachment, synced)?;
                }
                Err(failure) => {
                    return Err(Error::Link {
                        action: "replace the program of",
                        path: self.pins.link(&attachment.to_string()),
                        source: failure.into(),
                    });
                }
            },
            Action::Attach(attachment) => self.attach(attachment, synced)?,
        }
        Ok(())
    }

    fn remove(&mut self, attachment: Attachment) -> Result<(), Error> {
        self.current.remove(&attachment);
        if direction(attachment.hook).is_none() {
            self.xdp_removed = Some(Instant::now());
        }
        let pin = self.pins.link(&attachment.to_string());
        if filter::is_filter(&pin) {
            filter::detach(attachment, &pin)?;
        }
        self.pins.remove_link(&attachment.to_string())
    }

    /// Exchanges the program of a pinned link for this process's: no packet meets neither.
    fn replace(&mut self, attachment: Attachment) -> Result<(), LinkFailure> {
        let pin = self.pins.link(&attachment.to_string());
        if filter::is_filter(&pin) {
            return self.replace_filter(attachment, &pin);
        }
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        let name = attachment.hook.program();
        // The pin alone keeps the link: one that a program holds outlives its pin.
        if direction(attachment.hook).is_some() {
            let program: &mut SchedClassifier = load::program(&mut self.ebpf, name)?;
            let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        } else {
            let program: &mut Xdp = load::program(&mut self.ebpf, name)?;
            let id = program.attach_to_link(XdpLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        }
        Ok(())
    }

    /// The same for a filter.
    pub(super) fn replace_filter(
        &mut self,
        attachment: Attachment,
        pin: &Path,
    ) -> Result<(), LinkFailure> {
        let (Some(direction), Some(device)) =
            (direction(attachment.hook), device_name(attachment.ifindex))
        else {
            return Err(LinkFailure::NoFilter);
        };
        let program = load::program(&mut self.ebpf, attachment.hook.program())?;
        filter::replace(program, &device, direction, pin)
    }

    fn attach(&mut self, wanted: Attachment, synced: &mut Synced) -> Result<(), Error> {
        let Some(device) = device_name(wanted.ifindex) else {
            debug!(%wanted, "the device is gone");
            return Ok(());
        };
        let attached = match (direction(wanted.hook), wanted.hook) {
            (Some(direction), _) if self.has_filters => {
                self.attach_filter(wanted, direction, &device)
            }
            (Some(direction), _) => self.attach_tcx(wanted, direction, &device),
            (None, Hook::XdpNative) => self.attach_xdp_native_first(wanted, &device),
            (None, _) => self.attach_xdp(wanted),
        };
        match attached {
            Ok(attachment) => {
                self.current.insert(attachment);
                synced.attached.push(attachment);
                Ok(())
            }
            Err(_) if device_name(wanted.ifindex).is_none() => Ok(()),
            Err(failure) => Err(Error::Attach {
                program: wanted.hook.program().into(),
                target: device,
                source: failure.into(),
            }),
        }
    }

    fn attach_tcx(
        &mut self,
        wanted: Attachment,
        direction: TcAttachType,
        device: &str,
    ) -> Result<Attachment, LinkFailure> {
        let program: &mut SchedClassifier = load::program(&mut self.ebpf, wanted.hook.program())?;
        let head = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(device, direction, head)?;
        let link = program.take_link(id)?;
        // aya takes a name only; another device may have got it since.
        if device_name(wanted.ifindex).as_deref() != Some(device) {
            return Err(LinkFailure::Renamed);
        }
        self.pin(wanted, FdLink::try_from(link)?)
    }

    fn attach_filter(
        &mut self,
        wanted: Attachment,
        direction: TcAttachType,
        device: &str,
    ) -> Result<Attachment, LinkFailure> {
        let pin = self.pins.link(&wanted.to_string());
        let program = load::program(&mut self.ebpf, wanted.hook.program())?;
        filter::attach(program, device, direction, &pin)?;
        // Another device may have got the name since, and the filter.
        if device_name(wanted.ifindex).as_deref() != Some(device) {
            filter::undo(device, direction, &pin);
            return Err(LinkFailure::Renamed);
        }
        Ok(wanted)
    }

    /// Native mode, else generic. Returns what it has come to.
    fn attach_xdp_native_first(
        &mut self,
        wanted: Attachment,
        device: &str,
    ) -> Result<Attachment, LinkFailure> {
        let native = match self.attach_xdp(wanted) {
            Ok(attachment) => return Ok(attachment),
            Err(failure) => failure,
        };
        let fallback = Attachment {
            hook: Hook::XdpFallback,
            ..wanted
        };
        match self.attach_xdp(fallback) {
            Ok(attachment) => {
                let native: &dyn std::error::Error = &native;
                warn!(
                    device,
                    native, "no native XDP: using the slower generic mode"
                );
                Ok(attachment)
            }
            Err(generic) => Err(LinkFailure::Xdp {
                native: Box::new(native),
                generic: Box::new(generic),
            }),
        }
    }

    fn attach_xdp(&mut self, wanted: Attachment) -> Result<Attachment, LinkFailure> {
        let id = self.create_xdp(wanted)?;
        let program: &mut Xdp = load::program(&mut self.ebpf, wanted.hook.program())?;
        match FdLink::try_from(program.take_link(id)?) {
            Ok(link) => self.pin(wanted, link),
            // aya fell back to netlink, and the conversion left that attached: attaching once more
            // gives a handle that can undo it.
            Err(LinkError::InvalidLink) => {
                let id = program.attach_to_if_index(wanted.ifindex, xdp_mode(wanted.hook))?;
                program.detach(id)?;
                Err(LinkFailure::Netlink)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for another XDP program to go if it was this process that removed it: a mode changes
    /// when an agent starts with other settings, and then tcx does the work meanwhile.
    fn create_xdp(&mut self, wanted: Attachment) -> Result<XdpLinkId, LinkFailure> {
        let deadline = self.xdp_removed.map(|removed| removed + DETACHING);
        let program: &mut Xdp = load::program(&mut self.ebpf, wanted.hook.program())?;
        loop {
            match program.attach_to_if_index(wanted.ifindex, xdp_mode(wanted.hook)) {
                Err(error)
                    if is_occupied(&error) && deadline.is_some_and(|d| Instant::now() < d) =>
                {
                    thread::sleep(Duration::from_millis(2));
                }
                created => return Ok(created?),
            }
        }
    }

    /// Pins `link`, and leaves it to its pin. If that fails, `link` is detached.
    fn pin(&self, attachment: Attachment, link: FdLink) -> Result<Attachment, LinkFailure> {
        failpoint::pass();
        link.pin(self.pins.link(&attachment.to_string()))?;
        Ok(attachment)
    }
}

/// Direction of a tcx hook; none for XDP.
pub(super) fn direction(hook: Hook) -> Option<TcAttachType> {
    match hook {
        Hook::PodIngress | Hook::WireIngress | Hook::TunnelIngress => Some(TcAttachType::Ingress),
        Hook::PodEgress | Hook::WireEgress => Some(TcAttachType::Egress),
        Hook::XdpNative | Hook::XdpGeneric | Hook::XdpFallback => None,
    }
}

fn xdp_mode(hook: Hook) -> AyaXdpMode {
    if hook == Hook::XdpNative {
        AyaXdpMode::Driver
    } else {
        AyaXdpMode::Skb
    }
}

/// Whether another XDP program stands in the way.
fn is_occupied(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

/// Name of the device now; none if it is gone.
pub(super) fn device_name(ifindex: u32) -> Option<String> {
    // nix 0.31 takes the null that means failure for success, with an empty name.
    let name = if_indextoname(ifindex).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}
