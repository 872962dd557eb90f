//! What a worker takes away from itself before it sees a stranger's byte.
//!
//! Invariant: nothing here needs a privilege, and nothing can be given back afterwards.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use crate::video::Layer;

/// Where the worker's socket is, after all else is closed.
pub(super) const SOCKET: RawFd = 3;

/// Bit of a layer in a worker's first message.
fn bit(layer: Layer) -> u8 {
    match layer {
        Layer::Process => 1,
        Layer::ResourceLimits => 2,
        Layer::NoNewPrivileges => 4,
    }
}

/// Layers in the order in which they are shown.
const LAYERS: [Layer; 3] = [
    Layer::Process,
    Layer::ResourceLimits,
    Layer::NoNewPrivileges,
];

/// The layers of a first message.
pub(super) fn layers(bits: u8) -> Vec<Layer> {
    LAYERS
        .into_iter()
        .filter(|&layer| bits & bit(layer) != 0)
        .collect()
}

/// Confines this process for good: only `socket`, as descriptor [`SOCKET`], and the null device stay open. Returns the bits of the layers that hold.
///
/// # Errors
/// When a layer that every Linux has is refused: then nothing may be decoded.
pub(super) fn confine(socket: OwnedFd, zygote: Pid, (memory, cpu): (u64, u64)) -> io::Result<u8> {
    // The kernel shall end a worker before it ends the server. Without /proc it cannot be told.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // libavformat reads the time zone for tags of the creation time; without one glibc would open files for it later.
    // SAFETY: this process has one thread, and the texts end with a zero.
    unsafe {
        libc::setenv(c"TZ".as_ptr(), c"UTC0".as_ptr(), 1);
        tzset();
    }
    keep_only(socket)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(zygote) {
        // It ended before the signal was set.
        return Err(io::ErrorKind::NotConnected.into());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let hard = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::As, hard(memory))?;
    // The soft limit is a signal that says why; the hard one cannot be caught.
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(cpu),
            maximum: Some(cpu + 5),
        },
    )?;
    setrlimit(Resource::Fsize, hard(0))?;
    setrlimit(Resource::Nproc, hard(0))?;
    setrlimit(Resource::Core, hard(0))?;
    setrlimit(Resource::Memlock, hard(0))?;
    setrlimit(Resource::Nofile, hard(16))?;
    rustix::thread::set_no_new_privs(true)?;
    keep_freed_memory();
    Ok(LAYERS.into_iter().fold(0, |bits, layer| bits | bit(layer)))
}

unsafe extern "C" {
    /// Reads the time zone from the environment.
    fn tzset();
}

/// Moves the socket to its place and closes everything above it.
fn keep_only(socket: OwnedFd) -> io::Result<()> {
    // SAFETY: the calls take numbers only. No owner of a descriptor above `SOCKET` is used afterwards: the zygote's were forgotten with its stack, since
    // a worker never returns there, and `socket` is let go of below.
    unsafe {
        if socket.as_raw_fd() != SOCKET && libc::dup2(socket.as_raw_fd(), SOCKET) < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(socket);
        let first = (SOCKET + 1) as libc::c_uint;
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Frame buffers are freed and asked for again all the time; each would otherwise be mapped and faulted in afresh.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator; a value that it does not like is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
