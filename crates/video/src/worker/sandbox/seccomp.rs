//! The list of system calls that a decoding worker may make; the kernel ends the process at any other.
//!
//! Invariant: no call on the list opens, connects, starts or signals anything, and none makes memory executable.

#![allow(unsafe_code)]

use std::io;
use std::mem::offset_of;

use libc::{c_long, seccomp_data, sock_filter};

/// What the kernel calls this machine's system calls.
#[cfg(target_arch = "x86_64")]
const MACHINE: Option<u32> = Some(0xc000_003e);
/// What the kernel calls this machine's system calls.
#[cfg(target_arch = "aarch64")]
const MACHINE: Option<u32> = Some(0xc000_00b7);
/// On other machines the numbers were not looked at, so that there is no list.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: Option<u32> = None;

/// Calls of x86-64's second ABI, which share its machine number, have this bit. They are on no list, but one comparison says so at once.
const X32: u32 = 0x4000_0000;

/// Calls that are allowed whatever their arguments. The frequent ones come first, since the list is walked.
const ALLOWED: &[c_long] = &[
    libc::SYS_clock_gettime,
    libc::SYS_pread64,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that are allowed unless they ask for executable memory in their third argument.
const MAPPING: [c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// A filter in the making.
struct Filter(Vec<sock_filter>);

impl Filter {
    /// An instruction; a jump skips `yes` or `no` instructions after it.
    fn then(&mut self, code: u32, operand: u32, (yes, no): (u8, u8)) {
        self.0.push(sock_filter {
            code: code as u16,
            jt: yes,
            jf: no,
            k: operand,
        });
    }

    fn load(&mut self, offset: usize) {
        self.then(LOAD, offset as u32, (0, 0));
    }

    /// The lower half of an argument; both machines are little-endian.
    fn load_argument(&mut self, number: usize) {
        self.load(offset_of!(seccomp_data, args) + number * size_of::<u64>());
    }

    fn allow(&mut self) {
        self.then(RETURN, libc::SECCOMP_RET_ALLOW, (0, 0));
    }

    fn kill(&mut self) {
        self.then(RETURN, libc::SECCOMP_RET_KILL_PROCESS, (0, 0));
    }
}

/// The filter of a process with this number.
fn filter(machine: u32, pid: u32) -> Vec<sock_filter> {
    let mut filter = Filter(Vec::with_capacity(128));
    filter.load(offset_of!(seccomp_data, arch));
    filter.then(IF_EQUAL, machine, (1, 0));
    filter.kill();
    filter.load(offset_of!(seccomp_data, nr));
    filter.then(IF_AT_LEAST, X32, (0, 1));
    filter.kill();
    for &call in ALLOWED {
        filter.then(IF_EQUAL, call as u32, (0, 1));
        filter.allow();
    }
    for call in MAPPING {
        filter.then(IF_EQUAL, call as u32, (0, 4));
        filter.load_argument(2);
        filter.then(IF_ANY_BIT, libc::PROT_EXEC as u32, (0, 1));
        filter.kill();
        filter.allow();
    }
    // With debug assertions, Rust's library asks whether a descriptor is open before it closes it; the answer says no more than that.
    filter.then(IF_EQUAL, libc::SYS_fcntl as u32, (0, 4));
    filter.load_argument(1);
    filter.then(IF_EQUAL, libc::F_GETFD as u32, (0, 1));
    filter.allow();
    filter.kill();
    // `abort` sends the process its own signal; it shall end with that reason.
    filter.then(IF_EQUAL, libc::SYS_tgkill as u32, (0, 5));
    filter.load_argument(0);
    filter.then(IF_EQUAL, pid, (0, 3));
    filter.load_argument(2);
    filter.then(IF_EQUAL, libc::SIGABRT as u32, (0, 1));
    filter.allow();
    filter.kill();
    filter.0
}

/// Puts the list on this process; `false` when the kernel has no filters, or this machine no list. `no_new_privs` must be set.
///
/// # Errors
/// When the kernel has filters but refuses this one.
pub(super) fn apply() -> io::Result<bool> {
    let Some(machine) = MACHINE else {
        return Ok(false);
    };
    let mut filter = filter(machine, std::process::id());
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions are readable during the call, and the kernel copies them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Not built in, or a container's profile hides it.
        Some(libc::ENOSYS | libc::EINVAL) => Ok(false),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests;
