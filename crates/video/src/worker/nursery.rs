//! The server's side of the zygote: starts it, starts it again when it dies, has workers forked and learns how they ended.
//!
//! Invariant: a worker's owner always learns that it ended, at the latest when the zygote is gone.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ids::TenantId;
use crate::{Config, Error, Layers};

use super::memory::{receive, send, sockets, wait_readable};
use super::sandbox::Allowance;
use super::wire::{Command, LONGEST, Notice, decode_ready};

/// A fork takes milliseconds, loading the libraries a fraction of a second; a machine that swaps may need longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether a zygote that has not answered yet was stopped.
const LOOK: Duration = Duration::from_millis(500);
/// A worker whose socket closed is dead, and the zygote says so at once.
const BURIAL: Duration = Duration::from_secs(5);

/// The state of a worker, as the zygote reported it.
#[derive(Debug, Clone, Copy)]
enum State {
    Asked,
    Runs(u32),
    NotForked,
    Ended(i32),
}

/// What the zygote has said.
struct Board {
    is_alive: bool,
    workers: HashMap<u64, State>,
}

struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        // A thread that panicked cannot have left the board half written: every change is one assignment.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a worker's state is one that `pick` takes; `None` when the zygote is gone or time is over.
    fn wait<T>(&self, id: u64, time: Duration, pick: impl Fn(State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + time;
        let mut board = self.board();
        loop {
            if let Some(found) = board.workers.get(&id).copied().and_then(&pick) {
                return Some(found);
            }
            let rest = end.saturating_duration_since(Instant::now());
            if !board.is_alive || rest.is_zero() {
                return None;
            }
            board = self
                .changed
                .wait_timeout(board, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A running zygote. Its process ends when the socket closes.
struct Zygote {
    pid: u32,
    control: OwnedFd,
    shared: Arc<Shared>,
}

impl Zygote {
    /// Waits for the answer to a fork; a zygote that is stopped, or does not answer for long, is ended. `None` when it is gone.
    fn forked(&self, id: u64) -> Option<Option<u32>> {
        let forked = |state| match state {
            State::Asked => None,
            State::Runs(pid) => Some(Some(pid)),
            State::NotForked | State::Ended(_) => Some(None),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.shared.wait(id, LOOK, forked) {
                return Some(found);
            }
            if !self.shared.board().is_alive {
                return None;
            }
            if Instant::now() >= end || is_stopped(self.pid) {
                self.end();
                return None;
            }
        }
    }

    /// Kills the process, which need not listen any more; its workers end with it, and the next fork starts another one.
    fn end(&self) {
        let mut board = self.shared.board();
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Its end is written on the board before anybody waits for the process, so that the number is still its own.
        if let Some(pid) = pid.filter(|_| board.is_alive) {
            tracing::error!(
                pid = self.pid,
                "the zygote of the video workers does not answer; it is replaced"
            );
            let _ = kill_process(pid, Signal::KILL);
            board.is_alive = false;
        }
        drop(board);
        self.shared.changed.notify_all();
    }
}

/// Whether somebody stopped a process; `false` when the system does not say.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it is in brackets and may hold anything.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    matches!(state, Some('T' | 't'))
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // The reading thread holds a copy of the socket, so that closing ours would not end the connection.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
    }
}

/// Starts zygotes and workers.
pub(super) struct Nursery {
    config: Config,
    zygote: Mutex<Option<Arc<Zygote>>>,
    next: AtomicU64,
    /// What confines the first worker.
    layers: OnceLock<Layers>,
}

/// A worker, from its fork to its death: dropping it kills it.
pub(super) struct Worker {
    pub(super) pid: u32,
    pub(super) socket: OwnedFd,
    pub(super) layers: Layers,
    /// The tenant that the worker decodes for, from its first request on.
    pub(super) tenant: Option<TenantId>,
    /// Requests that it has served.
    pub(super) served: u32,
    /// The memory that it writes to, and its size.
    pub(super) output: Option<(OwnedFd, u64)>,
    id: u64,
    zygote: Arc<Zygote>,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The worker ended with this wait status.
    Status(i32),
    /// The worker ended with its zygote.
    WithZygote,
}

impl Worker {
    /// Processor time that it has used; none when the kernel does not say.
    pub(super) fn processor_time(&self) -> Duration {
        processor_time(self.pid).unwrap_or_default()
    }

    /// Whether the worker can be given a video: one whose socket has something to say before it is asked is dead or lies, and when the zygote is gone its
    /// workers are about to be.
    pub(super) fn is_ready(&self) -> bool {
        self.zygote.shared.board().is_alive
            && matches!(
                wait_readable([self.socket.as_fd()], Some(Instant::now())),
                Ok([false])
            )
    }

    /// How the worker ended, once its socket has closed.
    pub(super) fn end(&self) -> End {
        let ended = |state| match state {
            State::Ended(status) => Some(End::Status(status)),
            State::Asked | State::Runs(_) | State::NotForked => None,
        };
        (self.zygote.shared)
            .wait(self.id, BURIAL, ended)
            .unwrap_or(End::WithZygote)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = send(
            &self.zygote.control,
            &Command::Kill { id: self.id }.encode(),
            &[],
        );
        self.zygote.shared.board().workers.remove(&self.id);
    }
}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System {
        action,
        source: Arc::new(source),
    }
}

impl Nursery {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            zygote: Mutex::new(None),
            next: AtomicU64::new(1),
            layers: OnceLock::new(),
        }
    }

    /// The zygote's process, while there is one.
    pub(super) fn zygote_pid(&self) -> Option<u32> {
        let zygote = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        zygote
            .as_ref()
            .filter(|zygote| zygote.shared.board().is_alive)
            .map(|zygote| zygote.pid)
    }

    /// Has a worker forked; starts the zygote if there is none.
    pub(super) fn fork(&self) -> Result<Worker, Error> {
        // Its whole life: the last video may begin just before the worker is due to be replaced.
        self.fork_for(self.config.worker_cpu + self.config.limits.cpu)
    }

    /// Has a worker forked that may use so much processor time in its life.
    pub(super) fn fork_for(&self, life: Duration) -> Result<Worker, Error> {
        // A zygote that dies just now is no reason to give up; one that dies twice is.
        for _ in 0..2 {
            if let Some(worker) = self.fork_from(self.zygote()?, life)? {
                return Ok(worker);
            }
        }
        Err(Error::Interrupted)
    }

    fn zygote(&self) -> Result<Arc<Zygote>, Error> {
        let mut slot = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zygote) = &*slot
            && zygote.shared.board().is_alive
        {
            return Ok(Arc::clone(zygote));
        }
        let zygote = Arc::new(self.spawn()?);
        *slot = Some(Arc::clone(&zygote));
        Ok(zygote)
    }

    fn spawn(&self) -> Result<Zygote, Error> {
        let (control, theirs) = sockets().map_err(system("connect a decoding process"))?;
        let child = Program::new(&self.config.program)
            .args(&self.config.arguments)
            .env_clear()
            .current_dir("/")
            // A terminal's interrupt ends the server's way, not the decoder's under its feet.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::Spawn {
                program: self.config.program.clone(),
                source: Arc::new(source),
            })?;
        let shared = Arc::new(Shared {
            board: Mutex::new(Board {
                is_alive: true,
                workers: HashMap::new(),
            }),
            changed: Condvar::new(),
        });
        let zygote = Zygote {
            pid: child.id(),
            control,
            shared: Arc::clone(&shared),
        };
        let reports = (zygote.control.try_clone()).map_err(system("connect a decoding process"))?;
        std::thread::Builder::new()
            .name("video-zygote".to_owned())
            .spawn(move || listen(&reports, &shared, child))
            .map_err(system("start a thread"))?;
        Ok(zygote)
    }

    /// `None` when the zygote is gone.
    fn fork_from(&self, zygote: Arc<Zygote>, life: Duration) -> Result<Option<Worker>, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (socket, theirs) = sockets().map_err(system("connect a decoding process"))?;
        zygote.shared.board().workers.insert(id, State::Asked);
        let mut worker = Worker {
            pid: 0,
            socket,
            layers: Layers::NONE,
            tenant: None,
            served: 0,
            output: None,
            id,
            zygote,
        };
        let command = Command::Fork {
            id,
            allowance: Allowance {
                memory: self.config.limits.memory,
                cpu: life.as_secs() + 1,
            },
            layers: self.config.layers,
        };
        if send(&worker.zygote.control, &command.encode(), &[theirs.as_fd()]).is_err() {
            return Ok(None);
        }
        drop(theirs);
        let Some(pid) = worker.zygote.forked(id) else {
            return Ok(None);
        };
        let ready = pid.and_then(|pid| Some((pid, first_message(&worker.socket, id)?)));
        let Some((pid, layers)) = ready else {
            return Err(system("confine a decoding process")(
                io::ErrorKind::PermissionDenied.into(),
            ));
        };
        // Later workers are as confined as the first, whose layers the server reports.
        if *self.layers.get_or_init(|| layers) != layers {
            return Err(Error::Unconfined { layers });
        }
        worker.pid = pid;
        worker.layers = layers;
        Ok(Some(worker))
    }
}

/// Waits until a worker is confined.
fn first_message(socket: &OwnedFd, id: u64) -> Option<Layers> {
    let mut buffer = [0; LONGEST];
    let [is_ready] = wait_readable([socket.as_fd()], Some(Instant::now() + PATIENCE)).ok()?;
    let message = is_ready.then(|| receive(socket, &mut buffer)).transpose();
    let (own, layers) = decode_ready(message.ok()???)?;
    (own == id).then_some(layers)
}

/// Processor time of another process. `None` when it is gone, or the kernel does not say.
fn processor_time(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls write to a local variable.
    let done = unsafe {
        libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &mut clock) == 0
            && libc::clock_gettime(clock, &mut time) == 0
    };
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    done.then_some(Duration::new(u64::try_from(time.tv_sec).ok()?, nanoseconds))
}

/// Writes down what the zygote says until it is gone.
fn listen(reports: &OwnedFd, shared: &Shared, mut zygote: Child) {
    let mut buffer = [0; LONGEST];
    while let Ok(Some(message)) = receive(reports, &mut buffer) {
        let (id, state) = match Notice::decode(message) {
            Some(Notice::Forked { id, pid: 0 }) => (id, State::NotForked),
            Some(Notice::Forked { id, pid }) => (id, State::Runs(pid)),
            Some(Notice::Exited { id, status }) => (id, State::Ended(status)),
            None => break,
        };
        // Of a worker that was dropped nothing is kept.
        if let Some(own) = shared.board().workers.get_mut(&id) {
            *own = state;
        }
        shared.changed.notify_all();
    }
    shared.board().is_alive = false;
    shared.changed.notify_all();
    // It ends when its socket does; a hanging one is ended.
    let _ = rustix::net::shutdown(reports, rustix::net::Shutdown::Both);
    let _ = zygote.kill();
    let _ = zygote.wait();
}
