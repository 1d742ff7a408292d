//! Asks which programs a hook has, by id. aya asks for each program, too, which takes `CAP_SYS_ADMIN`.

use aya::programs::TcAttachType;
use bytemuck::{Pod, Zeroable};
use nix::errno::Errno;

use super::syscall::{bpf, command};

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// Programs that a hook can have (`BPF_MPROG_MAX`).
const MAX: usize = 64;

/// `struct { … } query` of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<Query>() == 64);

/// Ids of the tcx programs of a device, in their order.
pub(super) fn tcx(ifindex: u32, direction: TcAttachType) -> nix::Result<Vec<u32>> {
    let attach_type = match direction {
        TcAttachType::Ingress => TCX_INGRESS,
        TcAttachType::Egress => TCX_EGRESS,
        TcAttachType::Custom(_) => return Err(Errno::EINVAL),
    };
    let mut ids = vec![0_u32; MAX];
    let mut query = Query {
        ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MAX as u32,
        ..Query::zeroed()
    };
    // SAFETY: the kernel writes at most `count` ids, and fields of `query`; both outlive the call.
    unsafe { bpf(command::PROG_QUERY, &mut query) }?;
    ids.truncate(query.count as usize);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(tcx(u32::MAX >> 1, TcAttachType::Ingress).is_err());
    }
}
