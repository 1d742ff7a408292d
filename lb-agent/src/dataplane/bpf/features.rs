//! What the kernel has of what we use. It is asked: distributions have what versions do not tell.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::{error::Error, filter, kernel};

/// Something that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// Whether the kernel has it.
    pub is_there: bool,
    /// What happens where it has not; empty for what nothing works without.
    pub without: &'static str,
}

impl Feature {
    /// Whether an agent does not start because of it.
    #[must_use]
    pub fn stops(&self) -> bool {
        !self.is_there && self.without.is_empty()
    }
}

/// Asks the kernel for everything.
///
/// # Errors
///
/// [`Error::Kernel`] if it does not say: for want of `CAP_BPF`, say.
pub fn features() -> Result<Vec<Feature>, Error> {
    let program = |kind| is_program_supported(kind).map_err(|error| Error::Kernel(error.into()));
    let map = |kind| is_map_supported(kind).map_err(|error| Error::Kernel(error.into()));
    let feature = |name, is_there, without| Feature {
        name,
        is_there,
        without,
    };
    Ok(vec![
        feature("tc programs", program(ProgramType::SchedClassifier)?, ""),
        feature(
            "tcx",
            filter::has_tcx(),
            "programs are filters of a clsact qdisc",
        ),
        feature(
            "XDP programs",
            program(ProgramType::Xdp)?,
            "`--xdp off`: tc serves uplinks, too",
        ),
        feature(
            "programs of socket calls",
            program(ProgramType::CgroupSockAddr)?,
            "`--socket-lb off`: processes of the node are served packet by packet",
        ),
        feature(
            "cookies of network namespaces",
            kernel::netns_cookie().is_ok(),
            "`--socket-lb node` is refused",
        ),
        feature(
            "what is too big for a device (bpf_check_mtu)",
            is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu)
                .map_err(|error| Error::Kernel(error.into()))?,
            "",
        ),
        feature("LRU hash maps", map(MapType::LruHash)?, ""),
        feature("longest prefix maps", map(MapType::LpmTrie)?, ""),
        feature("ring buffers", map(MapType::RingBuf)?, ""),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_and_has_no_substitute_stops_an_agent() {
        let feature = |is_there, without| Feature {
            name: "",
            is_there,
            without,
        };
        assert!(feature(false, "").stops());
        assert!(!feature(true, "").stops());
        assert!(!feature(false, "something else is done").stops());
    }
}
