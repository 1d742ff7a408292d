//! System calls, by a seccomp filter.

use std::{collections::BTreeMap, env::consts, process};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be made, for one because the processor is not known.
    #[error("make the filter")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("apply the filter")]
    Apply(#[from] seccompiler::Error),
}

/// Commands of bpf(2) that serving takes: maps, pins and links, and runs on packets in memory. There
/// are no new programs and no new maps.
const BPF_COMMANDS: [u64; 17] = [
    1, 2, 3, 4, // BPF_MAP_LOOKUP_ELEM, …_UPDATE_ELEM, …_DELETE_ELEM, …_GET_NEXT_KEY
    6, 7, // BPF_OBJ_PIN, BPF_OBJ_GET
    10, 13, 15,
    16, // BPF_PROG_TEST_RUN, …_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY
    21, 24, 26,
    27, // BPF_MAP_LOOKUP_AND_DELETE_ELEM, …_LOOKUP_BATCH, …_UPDATE_BATCH, …_DELETE_BATCH
    28, 29, 34, // BPF_LINK_CREATE, …_UPDATE, …_DETACH
];

/// Calls that are allowed whatever their arguments: memory, threads and time; files and directories;
/// sockets; waiting. There is none that starts a program, enters a namespace, mounts, traces, loads
/// into the kernel, or gains a right.
const ALLOWED: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and the process.
    libc::SYS_capget,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Files and directories.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_socketpair,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

/// Older forms of some of these.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Leaves the process the calls that it makes; others fail with `EPERM`.
pub(super) fn restrict() -> Result<String, super::Error> {
    let filter = filter().map_err(Error::Filter)?;
    seccompiler::apply_filter_all_threads(&filter).map_err(Error::Apply)?;
    Ok("by a seccomp filter".into())
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().chain(OLDER) {
        rules.insert(*call, Vec::new());
    }
    let bpf = BPF_COMMANDS.map(first_is);
    rules.insert(libc::SYS_bpf, bpf.into_iter().collect::<Result<_, _>>()?);
    // Only itself: to abort, for one.
    let own = u64::from(process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![first_is(own)?]);
    }
    let arch = TargetArch::try_from(consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

/// The call's first argument is `value`.
fn first_is(value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let (length, equal) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    let condition = SeccompCondition::new(0, length, equal, value)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use std::{fs, io, process::Command, thread};

    use super::*;

    /// Runs `test` in a thread of its own that the filter holds for.
    fn filtered<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
        let body = move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            test()
        };
        thread::spawn(body).join().unwrap()
    }

    fn bpf(command: libc::c_long) -> io::Error {
        // SAFETY: of no attributes, the kernel reads nothing.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, 0, 0) };
        assert_eq!(result, -1);
        io::Error::last_os_error()
    }

    #[test]
    fn programs_cannot_be_started() {
        let result = filtered(|| Command::new("true").status().map(|_| ()));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn files_threads_and_sockets_go_on() {
        filtered(|| {
            assert!(fs::read_to_string("/proc/self/status").is_ok());
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let client = thread::spawn(move || std::net::TcpStream::connect(to).map(drop));
            assert!(listener.accept().is_ok());
            client.join().unwrap().unwrap();
        });
    }

    #[test]
    fn maps_can_be_read_and_programs_not_loaded() {
        const PROG_LOAD: libc::c_long = 5;
        const LOOKUP: libc::c_long = 1;
        let [load, look_up] = filtered(|| [bpf(PROG_LOAD), bpf(LOOKUP)]);
        assert_eq!(load.raw_os_error(), Some(libc::EPERM));
        // As root; others are refused by the kernel itself.
        if nix::unistd::Uid::effective().is_root() {
            assert_ne!(look_up.raw_os_error(), Some(libc::EPERM));
        }
    }
}
