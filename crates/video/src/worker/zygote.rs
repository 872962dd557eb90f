//! The zygote: a process with one thread and nothing to hide, which forks workers and says how they end.
//!
//! Invariant: it never reads a stranger's byte. When the server is gone, it kills its workers and ends.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::memory::{receive_with, send, wait_readable};
use super::wire::{Command, LONGEST, Notice};
use super::{Before, converters, heap, sandbox, serve};
use crate::Layers;

/// Wrong use of the program.
const EXIT_USAGE: u8 = 64;
/// Something that every Linux has is not there.
const EXIT_SYSTEM: u8 = 71;
/// A worker panicked.
const EXIT_PANIC: i32 = 101;

/// Runs until the server is gone.
pub(super) fn run(before: Before) -> ExitCode {
    // SAFETY: descriptor 0 is open for as long as this process does not close it; the borrow ends before it is replaced.
    let input = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
    if socket_type(input) != Ok(SocketType::SEQPACKET) {
        eprintln!("video-worker is started by `frameshift serve`, not by hand");
        return ExitCode::from(EXIT_USAGE);
    }
    converters::open();
    heap::prepare();
    // The first look at a clock asks the system where the clock is, which no worker may.
    let _ = clock_gettime(ClockId::ProcessCPUTime);
    let result = prepare().and_then(|(control, deaths)| {
        let mut zygote = Zygote {
            control,
            deaths,
            workers: HashMap::new(),
            before,
        };
        let result = zygote.forever();
        for pid in zygote.workers.into_values() {
            let _ = kill_process(pid, Signal::KILL);
        }
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("video-worker: {error}");
            ExitCode::from(EXIT_SYSTEM)
        }
    }
}

/// Moves the control socket away from standard input, closes what was inherited by accident, and makes deaths of children readable.
fn prepare() -> io::Result<(OwnedFd, OwnedFd)> {
    const CONTROL: RawFd = 3;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: this process has one thread, and nothing in it owns a descriptor but `null`, which is let go of. The numbers become owned once.
    unsafe {
        let null = std::os::fd::IntoRawFd::into_raw_fd(null);
        // Above all numbers that are given out below: the null device may have got the control socket's place.
        let moved = libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, CONTROL + 1);
        if moved < 0
            || libc::dup2(null, libc::STDIN_FILENO) < 0
            || libc::dup3(moved, CONTROL, libc::O_CLOEXEC) < 0
        {
            return Err(io::Error::last_os_error());
        }
        sandbox::close_from(CONTROL + 1)?;
        let control = OwnedFd::from_raw_fd(CONTROL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let deaths = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if deaths < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((control, OwnedFd::from_raw_fd(deaths)))
    }
}

struct Zygote {
    control: OwnedFd,
    deaths: OwnedFd,
    /// Workers that run.
    workers: HashMap<u64, Pid>,
    before: Before,
}

impl Zygote {
    fn forever(&mut self) -> io::Result<()> {
        loop {
            let [asked, died] = wait_readable([self.control.as_fd(), self.deaths.as_fd()], None)?;
            if died {
                self.bury()?;
            }
            if asked && !self.obey()? {
                return Ok(());
            }
        }
    }

    /// Does what the server says; `false` when it is gone.
    fn obey(&mut self) -> io::Result<bool> {
        let mut buffer = [0; LONGEST];
        let Some((message, mut descriptors)) = receive_with(&self.control, &mut buffer)? else {
            return Ok(false);
        };
        match Command::decode(message).ok_or(io::ErrorKind::InvalidData)? {
            Command::Fork {
                id,
                allowance,
                layers,
            } => {
                let socket = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
                let pid = self.fork(id, socket, (allowance, layers));
                if let Some(pid) = pid {
                    self.workers.insert(id, pid);
                }
                let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
                send(&self.control, &Notice::Forked { id, pid }.encode(), &[])?;
            }
            Command::Kill { id } => {
                if let Some(&pid) = self.workers.get(&id) {
                    // It may be dead already.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
        Ok(true)
    }

    /// Forks a worker, which never returns from here.
    fn fork(
        &self,
        id: u64,
        socket: OwnedFd,
        (allowance, layers): (sandbox::Allowance, Layers),
    ) -> Option<Pid> {
        let zygote = getpid();
        // SAFETY: this process has one thread, so that the child finds every lock free.
        match unsafe { libc::fork() } {
            0 => {
                // A panic would otherwise unwind into the zygote's loop.
                let life = std::panic::AssertUnwindSafe(|| {
                    match sandbox::confine(socket, zygote, allowance, layers) {
                        Ok((socket, held)) => serve::run(id, socket, held, self.before),
                        Err(_) => EXIT_SYSTEM.into(),
                    }
                });
                let code = std::panic::catch_unwind(life).unwrap_or(EXIT_PANIC);
                // SAFETY: ends the process at once; what the zygote registered for its own exit is not the worker's business.
                unsafe { libc::_exit(code) }
            }
            pid => Pid::from_raw(pid).filter(|_| pid > 0),
        }
    }

    /// Reports the workers that ended.
    fn bury(&mut self) -> io::Result<()> {
        let mut buffer = [0_u8; 16 * size_of::<libc::signalfd_siginfo>()];
        let deaths = self.deaths.as_raw_fd();
        // SAFETY: the buffer is writable for its length. One signal may stand for many deaths, so its content does not matter.
        unsafe { libc::read(deaths, buffer.as_mut_ptr().cast(), buffer.len()) };
        loop {
            let mut status = 0;
            // SAFETY: writes the status of a child of this process.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return Ok(());
            }
            let found = (self.workers.iter())
                .find_map(|(&id, own)| (own.as_raw_nonzero().get() == pid).then_some(id));
            if let Some(id) = found {
                self.workers.remove(&id);
                send(&self.control, &Notice::Exited { id, status }.encode(), &[])?;
            }
        }
    }
}
