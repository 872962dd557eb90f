//! The workers and the queue before them.
//!
//! Invariant: no thread of an async runtime ever waits here; a caller that leaves frees its place at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Running;
use super::nursery::{Nursery, Worker};
use super::queue::Queue;
use super::slot::{Answer, Job, Next, Slot, Stage};
use super::wire::Wanted;
use crate::ids::TenantId;
use crate::video::request::{ClipSpec, Lane, PictureSpec};
use crate::video::{Config, Error, Input, Layer};

/// What is wanted of a video.
pub(in crate::video) enum Work {
    /// The facts.
    Probe,
    /// A clip.
    Clip(ClipSpec),
    /// Pictures.
    Pictures(PictureSpec),
}

struct State {
    queue: Queue<Job>,
    is_stopped: bool,
}

/// What the slots share.
pub(super) struct Shared {
    pub(super) config: Config,
    state: Mutex<State>,
    changed: Condvar,
    nursery: Nursery,
    /// A worker forked ahead, which has seen no input.
    spare: Mutex<Option<Worker>>,
    running: Mutex<Vec<Option<Running>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The queue's own methods do not panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a request, at most for the time that an idle worker is kept.
    pub(super) fn next(&self, turn: Option<&(TenantId, u32)>, idle: Option<Duration>) -> Next {
        let end = idle.map(|idle| Instant::now() + idle);
        let mut state = self.state();
        loop {
            if state.is_stopped {
                return Next::Stopped;
            }
            let turn = turn.map(|(tenant, served)| (tenant, *served));
            if let Some((tenant, job)) = state.queue.pop(turn) {
                return Next::Job(tenant, job);
            }
            drop(state);
            self.prepare_spare();
            state = self.state();
            if !state.queue.is_empty() || state.is_stopped {
                continue;
            }
            let Some(end) = end else {
                state = (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Next::Idle;
            }
            state = (self.changed.wait_timeout(state, rest))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Forks a worker ahead, unless another slot is at it.
    fn prepare_spare(&self) {
        if let Ok(mut spare) = self.spare.try_lock()
            && spare.is_none()
        {
            // A failure shows when a worker is needed.
            *spare = self.nursery.fork().ok();
        }
    }

    /// A worker that has seen no input.
    pub(super) fn fresh(&self) -> Result<Worker, Error> {
        let spare = (self.spare.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match spare {
            Some(worker) => Ok(worker),
            None => self.nursery.fork(),
        }
    }

    /// Writes down what a slot runs.
    pub(super) fn note(&self, slot: usize, worker: Option<(u32, &TenantId)>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.get_mut(slot) {
            *own = worker.map(|(pid, tenant)| Running {
                pid,
                tenant: tenant.clone(),
            });
        }
    }
}

/// The workers. They end when it is dropped.
pub(in crate::video) struct Pool {
    shared: Arc<Shared>,
    layers: Vec<Layer>,
    next: AtomicU64,
}

impl Pool {
    /// Starts the processes and waits until one is ready. Blocks.
    pub(in crate::video) fn start(config: Config) -> Result<Self, Error> {
        let workers = config.workers.max(1);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::new(config.queue_per_tenant, config.queue),
                is_stopped: false,
            }),
            changed: Condvar::new(),
            nursery: Nursery::new(config.clone()),
            spare: Mutex::new(None),
            running: Mutex::new(vec![None; workers]),
            config,
        });
        let first = shared.nursery.fork()?;
        let layers = first.layers.clone();
        *shared.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
        let pool = Self {
            shared: Arc::clone(&shared),
            layers,
            next: AtomicU64::new(1),
        };
        for number in 0..workers {
            let system = |source| Error::System {
                action: "start a thread",
                source: Arc::new(source),
            };
            let slot = Slot::new(Arc::clone(&shared), number).map_err(system)?;
            std::thread::Builder::new()
                .name(format!("video-{number}"))
                .spawn(move || slot.run())
                .map_err(system)?;
        }
        Ok(pool)
    }

    /// The layers that hold.
    pub(in crate::video) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The zygote's process, while there is one, and the workers that hold a turn.
    pub(in crate::video) fn processes(&self) -> (Option<u32>, Vec<Running>) {
        let running = (self.shared.running.lock()).unwrap_or_else(PoisonError::into_inner);
        let workers = running.iter().flatten().cloned().collect();
        (self.shared.nursery.zygote_pid(), workers)
    }

    /// Has a video decoded; dropping the future gives it up.
    pub(in crate::video) async fn decode(
        &self,
        (tenant, lane): (&TenantId, Lane),
        input: Input,
        work: Work,
    ) -> Result<Answer, Error> {
        let wanted = match work {
            Work::Probe => Wanted::Probe,
            Work::Clip(spec) => Wanted::Clip(spec),
            Work::Pictures(spec) => Wanted::Pictures(spec),
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let stage = Arc::new(Mutex::new(Stage::Waits));
        let job = Job {
            id,
            input,
            wanted,
            stage: Arc::clone(&stage),
            reply,
        };
        {
            let mut state = self.shared.state();
            if state.queue.push((lane, tenant), id, job).is_err() {
                return Err(Error::QueueFull);
            }
        }
        self.shared.changed.notify_one();
        let _caller = Caller {
            shared: Arc::clone(&self.shared),
            id,
            stage,
        };
        answer.await.unwrap_or(Err(Error::Stopped))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().is_stopped = true;
        self.shared.changed.notify_all();
    }
}

/// Gives a request up when it is dropped before the answer.
struct Caller {
    shared: Arc<Shared>,
    id: u64,
    stage: Arc<Mutex<Stage>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, Stage::Abandoned) {
            Stage::Waits => {
                drop(stage);
                let job = self.shared.state().queue.remove(self.id);
                drop(job);
            }
            Stage::Runs(interrupt) => {
                // The pipe has room: a slot empties it after every job.
                let _ = rustix::io::write(&*interrupt, &[1]);
            }
            Stage::Done | Stage::Abandoned => {}
        }
    }
}
