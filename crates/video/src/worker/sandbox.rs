//! What a worker takes away from itself before it sees a stranger's byte.
//!
//! Invariant: nothing here needs a privilege, and nothing can be given back afterwards.

#![allow(unsafe_code)]

mod landlock;
mod seccomp;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use crate::{Layer, Layers};

/// Where the worker's socket is, after all else is closed.
const SOCKET: RawFd = 3;

/// What a worker may use in its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Address space in bytes.
    pub(super) memory: u64,
    /// Processor time in seconds.
    pub(super) cpu: u64,
}

/// Confines this process for good with the work layers: only `socket` and the null device stay open. Returns the socket, and the layers that hold:
/// the kernel may lack Landlock or seccomp.
///
/// # Errors
/// When a layer that every Linux has is refused: then nothing may be decoded.
pub(super) fn confine(
    socket: OwnedFd,
    zygote: Pid,
    allowance: Allowance,
    work: Layers,
) -> io::Result<(OwnedFd, Layers)> {
    let mut held = Layers::NONE;
    let mut socket = socket;
    for layer in work.iter() {
        let holds = match layer {
            Layer::Process => {
                socket = stand_alone(socket, zygote)?;
                true
            }
            Layer::ResourceLimits => limit(allowance).map(|()| true)?,
            Layer::NoNewPrivileges => rustix::thread::set_no_new_privs(true).map(|()| true)?,
            Layer::Landlock => landlock::apply()?,
            Layer::Seccomp => seccomp::apply()?,
        };
        if holds {
            held = held.with(layer);
        }
    }
    Ok((socket, held))
}

/// Lets go of everything that the process has from its parent.
fn stand_alone(socket: OwnedFd, zygote: Pid) -> io::Result<OwnedFd> {
    // Short of memory, the kernel should end a worker before the server. Without /proc it cannot be asked to.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // libavformat reads the time zone for tags of the creation time; without one glibc would open files for it later.
    // SAFETY: this process has one thread, and the texts end with a zero.
    unsafe {
        libc::setenv(c"TZ".as_ptr(), c"UTC0".as_ptr(), 1);
        tzset();
    }
    let socket = keep_only(socket)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(zygote) {
        // It ended before the signal was set.
        return Err(io::ErrorKind::NotConnected.into());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    die_of_signals();
    Ok(socket)
}

fn limit(allowance: Allowance) -> io::Result<()> {
    let hard = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::As, hard(allowance.memory))?;
    // The soft limit is a signal that says why; the hard one cannot be caught.
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(allowance.cpu),
            maximum: Some(allowance.cpu.saturating_add(5)),
        },
    )?;
    setrlimit(Resource::Fsize, hard(0))?;
    setrlimit(Resource::Nproc, hard(0))?;
    setrlimit(Resource::Core, hard(0))?;
    setrlimit(Resource::Memlock, hard(0))?;
    setrlimit(Resource::Nofile, hard(16))?;
    Ok(())
}

unsafe extern "C" {
    /// Reads the time zone from the environment.
    fn tzset();
}

/// Moves the socket to its place and closes everything above it.
fn keep_only(socket: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: the calls take numbers only. No owner of a descriptor above `SOCKET` is used afterwards: the zygote's were forgotten with its stack, since
    // a worker never returns there, and `socket` is let go of. The descriptor at `SOCKET` gets its one owner here.
    unsafe {
        if socket.as_raw_fd() != SOCKET && libc::dup2(socket.as_raw_fd(), SOCKET) < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(socket);
        close_from(SOCKET + 1)?;
        Ok(OwnedFd::from_raw_fd(SOCKET))
    }
}

/// Closes every descriptor from this number on.
///
/// # Safety
/// Nothing uses them afterwards.
pub(super) unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the calls take numbers only, and the caller says that nothing uses the descriptors.
    unsafe {
        if libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            0,
        ) == 0
        {
            return Ok(());
        }
        // Kernels before 5.9, and profiles of container runtimes that do not know the call.
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        let end = limit.and_then(|limit| RawFd::try_from(limit).ok());
        // Without a limit there is no last number.
        let end = end.ok_or_else(io::Error::last_os_error)?;
        for descriptor in first..end {
            libc::close(descriptor);
        }
    }
    Ok(())
}

/// Gives signals of a crash their own meaning back. Rust's runtime catches them to tell a stack overflow, and the call that it makes then is not on the
/// list, so that a crash would look like an attack.
fn die_of_signals() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: sets the default action, in a process with one thread.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
