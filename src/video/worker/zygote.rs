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

use super::memory::{receive_with, send, wait_readable};
use super::wire::{Command, LONGEST, Report};
use super::{sandbox, serve};

/// Wrong use of the program.
const EXIT_USAGE: u8 = 64;
/// Something that every Linux has is not there.
const EXIT_SYSTEM: u8 = 71;

/// Runs until the server is gone.
pub(super) fn run() -> ExitCode {
    // SAFETY: descriptor 0 is open for as long as this process does not close it; the borrow ends before it is replaced.
    let input = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
    if socket_type(input) != Ok(SocketType::SEQPACKET) {
        eprintln!("video-worker is started by `frameshift serve`, not by hand");
        return ExitCode::from(EXIT_USAGE);
    }
    match prepare().and_then(|(control, deaths)| forever(&control, &deaths)) {
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
        if libc::dup2(libc::STDIN_FILENO, CONTROL) < 0 || libc::dup2(null, libc::STDIN_FILENO) < 0 {
            return Err(io::Error::last_os_error());
        }
        let first = (CONTROL + 1) as libc::c_uint;
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
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

/// Workers that run.
type Workers = HashMap<u64, Pid>;

fn forever(control: &OwnedFd, deaths: &OwnedFd) -> io::Result<()> {
    let mut workers = Workers::new();
    let result = loop {
        match wait_readable([control.as_fd(), deaths.as_fd()], None) {
            Ok([asked, died]) => {
                let step = (if died {
                    bury(control, deaths, &mut workers)
                } else {
                    Ok(())
                })
                .and_then(|()| {
                    if asked {
                        obey(control, &mut workers)
                    } else {
                        Ok(true)
                    }
                });
                match step {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
            Err(error) => break Err(error),
        }
    };
    for pid in workers.into_values() {
        let _ = kill_process(pid, Signal::KILL);
    }
    result
}

/// Does what the server says; `false` when it is gone.
fn obey(control: &OwnedFd, workers: &mut Workers) -> io::Result<bool> {
    let mut buffer = [0; LONGEST];
    let Some((message, mut descriptors)) = receive_with(control, &mut buffer)? else {
        return Ok(false);
    };
    match Command::decode(message).ok_or(io::ErrorKind::InvalidData)? {
        Command::Fork { id, memory, cpu } => {
            let socket = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
            let pid = fork(id, socket, (memory, cpu));
            if let Some(pid) = pid {
                workers.insert(id, pid);
            }
            let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
            send(control, &Report::Forked { id, pid }.encode(), &[])?;
        }
        Command::Kill { id } => {
            if let Some(&pid) = workers.get(&id) {
                // It may be dead already.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
    Ok(true)
}

/// Forks a worker, which never returns from here.
fn fork(id: u64, socket: OwnedFd, limits: (u64, u64)) -> Option<Pid> {
    let zygote = getpid();
    // SAFETY: this process has one thread, so that the child finds every lock free.
    match unsafe { libc::fork() } {
        0 => {
            let code = match sandbox::confine(socket, zygote, limits) {
                Ok(layers) => serve::run(id, layers),
                Err(_) => EXIT_SYSTEM.into(),
            };
            // SAFETY: ends the process at once; what the zygote registered for its own exit is not the worker's business.
            unsafe { libc::_exit(code) }
        }
        pid => Pid::from_raw(pid).filter(|_| pid > 0),
    }
}

/// Reports the workers that ended.
fn bury(control: &OwnedFd, deaths: &OwnedFd, workers: &mut Workers) -> io::Result<()> {
    let mut buffer = [0_u8; 16 * size_of::<libc::signalfd_siginfo>()];
    // SAFETY: the buffer is writable for its length. One signal may stand for many deaths, so its content does not matter.
    unsafe { libc::read(deaths.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    loop {
        let mut status = 0;
        // SAFETY: writes the status of a child of this process.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return Ok(());
        }
        let found = (workers.iter())
            .find_map(|(&id, own)| (own.as_raw_nonzero().get() == pid).then_some(id));
        if let Some(id) = found {
            workers.remove(&id);
            send(control, &Report::Exited { id, status }.encode(), &[])?;
        }
    }
}
