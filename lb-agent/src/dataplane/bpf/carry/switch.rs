//! Puts new programs where old ones are, without a moment in which there are none.

use std::{collections::BTreeSet, fs};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, Xdp,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use tracing::{debug, warn};

use crate::dataplane::bpf::{
    XdpMode,
    attach::{device_name, direction},
    error::{Error, LinkFailure},
    filter, load,
    pins::Pins,
    plan::{Attachment, Hook},
};

/// The attachments whose links `old` has and `new` has not, in order: where replies come first, so
/// that from the moment that new connections are recorded in the new maps, their replies are found there.
pub(super) fn links(old: &Pins, new: &Pins) -> Result<Vec<Attachment>, Error> {
    let of = |pins: &Pins| -> Result<BTreeSet<Attachment>, Error> {
        let names = pins.link_names()?;
        Ok(names
            .iter()
            .filter_map(|n| Attachment::from_pin_name(n))
            .collect())
    };
    Ok(Vec::from_iter(&of(old)? - &of(new)?))
}

/// Whether connections from outside to backends of other nodes begin there.
pub(super) fn opens_with_snat(attachment: Attachment) -> bool {
    attachment.hook == Hook::WireIngress || direction(attachment.hook).is_none()
}

/// Whether every old program that shares its place will run behind a new one. Filters do not: they change
/// hands.
pub(super) fn leaves_old_ones_behind(old: &Pins) -> Result<bool, Error> {
    let names = old.link_names()?;
    Ok(!names.iter().any(|name| filter::is_filter(&old.link(name))))
}

/// New programs that get to where old ones are.
pub(super) struct Switch<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) old: &'a Pins,
    pub(super) new: &'a Pins,
    pub(super) xdp: XdpMode,
}

impl Switch<'_> {
    /// Attaches the programs before those of `links`, and pins theirs. Which ones it has attached; the
    /// others are for `sync_attachments`.
    ///
    /// A packet meets the new program first, and the old one if the new one does not know it: the reply
    /// to a connection whose record is on its way. XDP has room for one program, whose link changes
    /// hands; what the new one does not know goes on to tcx.
    pub(super) fn attach_before(&mut self, links: &[Attachment]) -> BTreeSet<Attachment> {
        let Self { old, new, .. } = *self;
        let mut attached = BTreeSet::new();
        for &attachment in links {
            let result = match direction(attachment.hook) {
                Some(_) => before(self.ebpf, old, new, attachment),
                // From now on tc, old and new, sees to it all: what XDP still opened would be lost.
                None if self.xdp == XdpMode::Off => {
                    match old.remove_link(&attachment.to_string()) {
                        Ok(()) => continue,
                        Err(error) => Err(error.into()),
                    }
                }
                None => hand_over(self.ebpf, old, new, attachment),
            };
            match result {
                Ok(()) => {
                    attached.insert(attachment);
                }
                Err(failure) if device_name(attachment.ifindex).is_none() => {
                    debug!(%attachment, %failure, "the device is gone");
                }
                Err(failure) => {
                    let failure: &dyn std::error::Error = &failure;
                    warn!(%attachment, failure, "cannot attach before the old program");
                }
            }
        }
        attached
    }
}

fn before(
    ebpf: &mut Ebpf,
    old: &Pins,
    new: &Pins,
    attachment: Attachment,
) -> Result<(), LinkFailure> {
    let (Some(direction), Some(device)) =
        (direction(attachment.hook), device_name(attachment.ifindex))
    else {
        return Err(LinkFailure::Renamed);
    };
    let name = attachment.to_string();
    if filter::is_filter(&old.link(&name)) {
        // There is no order among filters of one priority: it changes hands.
        let program = load::program(ebpf, attachment.hook.program())?;
        filter::replace(program, &device, direction, &new.link(&name))?;
        return Ok(fs::remove_file(old.link(&name))?);
    }
    let pin = PinnedLink::from_pin(old.link(&name))?;
    let link = SchedClassifierLink::try_from(FdLink::from(pin))?;
    let program: &mut SchedClassifier = load::program(ebpf, attachment.hook.program())?;
    let place = TcAttachOptions::TcxOrder(LinkOrder::before_link(&link)?);
    let id = program.attach_with_options(&device, direction, place)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    if device_name(attachment.ifindex).as_deref() != Some(&device) {
        return Err(LinkFailure::Renamed);
    }
    link.pin(new.link(&name))?;
    Ok(())
}

fn hand_over(
    ebpf: &mut Ebpf,
    old: &Pins,
    new: &Pins,
    attachment: Attachment,
) -> Result<(), LinkFailure> {
    let name = attachment.to_string();
    let pin = PinnedLink::from_pin(old.link(&name))?;
    let link = XdpLink::try_from(FdLink::from(pin))?;
    let program: &mut Xdp = load::program(ebpf, attachment.hook.program())?;
    let id = program.attach_to_link(link)?;
    drop(program.take_link(id)?);
    fs::rename(old.link(&name), new.link(&name)).map_err(|source| Error::File {
        action: "rename",
        path: old.link(&name),
        source,
    })?;
    Ok(())
}
