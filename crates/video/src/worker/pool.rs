//! The workers and the queue before them.
//!
//! Invariant: no thread of an async runtime ever waits here; a caller that leaves frees its place at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Running;
use super::busy::Busy;
use super::losses::Losses;
use super::nursery::{Nursery, Worker};
use super::parked::Parked;
use super::queue::{Charge, Handed, Queue};
use super::samples;
use super::slot::{Answer, Job, Next, Slot, Stage};
use super::wire::Work;
use crate::answer::Containers;
use crate::fair::{Ledger, Weights};
use crate::ids::TenantId;
use crate::request::Lane;
use crate::{Config, Error, Input, Layers, Reject};

/// Pause before a slot that failed starts again.
const REST: Duration = Duration::from_millis(100);

/// A slot that waits, and whose worker it has.
struct Idle {
    slot: usize,
    tenant: Option<TenantId>,
}

/// What a slot works on, for the account of its tenant.
struct Account {
    tenant: TenantId,
    charge: Charge,
    since: Instant,
}

struct State {
    queue: Queue<Job>,
    idle: Vec<Idle>,
    /// Per slot a request that was handed to it while it waited.
    assigned: Vec<Option<Handed<Job>>>,
    /// Per slot the request that it works on.
    accounts: Vec<Option<Account>>,
    is_stopped: bool,
}

impl State {
    /// Charges the tenant for the time that a slot worked on its last request.
    fn settle(&mut self, slot: usize) {
        if let Some(account) = self.accounts[slot].take() {
            let millis = account.since.elapsed().as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            self.queue.settle(&account.tenant, account.charge, millis);
        }
    }

    /// Notes that a slot begins with a request.
    fn begin(&mut self, slot: usize, handed: Handed<Job>) -> Next {
        self.accounts[slot] = Some(Account {
            tenant: handed.tenant.clone(),
            charge: handed.charge,
            since: Instant::now(),
        });
        Next::Job(handed.tenant, Box::new(handed.request))
    }

    /// Hands a request to a waiting slot: best to one that has the tenant's worker, since any other means a new process; or gives it back.
    fn assign(&mut self, (lane, tenant): (Lane, &TenantId), job: Job) -> Option<Job> {
        let own = |idle: &Idle| idle.tenant.as_ref() == Some(tenant);
        let free = |idle: &Idle| idle.tenant.is_none();
        let at = (self.idle.iter().position(own))
            .or_else(|| self.idle.iter().position(free))
            .or_else(|| (!self.idle.is_empty()).then_some(0));
        let Some(at) = at else {
            return Some(job);
        };
        let slot = self.idle.swap_remove(at).slot;
        self.assigned[slot] = Some(Handed {
            tenant: tenant.clone(),
            request: job,
            charge: Charge::none(lane),
        });
        None
    }
}

/// What the slots share.
pub(super) struct Shared {
    pub(super) config: Config,
    state: Mutex<State>,
    changed: Condvar,
    nursery: Nursery,
    /// The slots that decode now.
    pub(super) busy: Busy,
    /// Workers in the middle of long videos.
    pub(super) parked: Parked,
    /// Workers that were lost with an input.
    pub(super) losses: Losses,
    /// A worker forked ahead, which has seen no input.
    spare: Mutex<Option<Worker>>,
    running: Mutex<Vec<Option<Running>>>,
    /// Where the processor time of workers is taken down.
    pub(super) ledger: Arc<dyn Ledger>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The queue's own methods do not panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a request, at most for the time that an idle worker is kept.
    pub(super) fn next(&self, slot: usize, turn: Option<&(TenantId, u32)>) -> Next {
        if let Some(next) = self.pop(slot, turn) {
            return next;
        }
        self.prepare_spare();
        let end = turn.map(|_| Instant::now() + self.config.idle);
        let mut state = self.state();
        loop {
            if state.is_stopped {
                return Next::Stopped;
            }
            if let Some(handed) = state.assigned[slot].take() {
                return state.begin(slot, handed);
            }
            state.idle.retain(|idle| idle.slot != slot);
            if let Some(handed) = state.queue.pop(turn.map(|(own, served)| (own, *served))) {
                return state.begin(slot, handed);
            }
            let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
            if rest.is_some_and(|rest| rest.is_zero()) {
                return Next::Idle;
            }
            state.idle.push(Idle {
                slot,
                tenant: turn.map(|(tenant, _)| tenant.clone()),
            });
            state = match rest {
                None => (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner),
                Some(rest) => {
                    let waited = self.changed.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Settles a slot's last request, and takes the next one if there is one.
    fn pop(&self, slot: usize, turn: Option<&(TenantId, u32)>) -> Option<Next> {
        let turn = turn.map(|(tenant, served)| (tenant, *served));
        let mut state = self.state();
        state.settle(slot);
        let handed = state.queue.pop(turn)?;
        Some(state.begin(slot, handed))
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
        // A video whose worker went with its zygote is given to one more worker only, which must not be one that went, too.
        match spare.filter(Worker::is_ready) {
            Some(worker) => Ok(worker),
            None => self.nursery.fork(),
        }
    }

    /// A worker that has seen no input and may use as much processor time as the longest video lasts.
    pub(super) fn fresh_for_long(&self) -> Result<Worker, Error> {
        self.nursery.fork_for(self.config.limits.duration)
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
pub(crate) struct Pool {
    shared: Arc<Shared>,
    layers: Layers,
    next: AtomicU64,
}

impl Pool {
    /// Starts the processes and waits until one is ready. Blocks.
    pub(crate) fn start(
        mut config: Config,
        (weights, ledger): (Arc<dyn Weights>, Arc<dyn Ledger>),
    ) -> Result<Self, Error> {
        let workers = config.workers.max(1);
        let nursery = Nursery::new(config.clone());
        let first = nursery.fork()?;
        let layers = first.layers;
        if config.layers.is_confined() && !layers.is_confined() {
            return Err(Error::Unconfined { layers });
        }
        if !config.layers.is_confined() {
            tracing::warn!(held = %layers, "the kernel does not confine the video workers, as configured");
        }
        let missing = config.layers.without(layers);
        if !missing.is_empty() {
            tracing::warn!(%missing, held = %layers, "this kernel lacks a layer of the video workers' confinement");
        }
        let (containers, first) = samples::check(&nursery, first, config.limits.containers)?;
        config.limits.containers = containers;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::new(config.queue_per_tenant, config.queue, weights),
                idle: Vec::new(),
                assigned: std::iter::repeat_with(|| None).take(workers).collect(),
                accounts: std::iter::repeat_with(|| None).take(workers).collect(),
                is_stopped: false,
            }),
            changed: Condvar::new(),
            nursery,
            busy: Busy::default(),
            losses: Losses::default(),
            parked: Parked::new(config.parked()),
            spare: Mutex::new(Some(first)),
            running: Mutex::new(vec![None; workers]),
            ledger,
            config,
        });
        let pool = Self {
            shared: Arc::clone(&shared),
            layers,
            next: AtomicU64::new(1),
        };
        for number in 0..workers {
            start_slot(&shared, number).map_err(|source| Error::System {
                action: "start a thread",
                source: Arc::new(source),
            })?;
        }
        Ok(pool)
    }

    /// The layers that hold.
    pub(crate) fn layers(&self) -> Layers {
        self.layers
    }

    /// The containers that work here.
    pub(crate) fn containers(&self) -> Containers {
        self.shared.config.limits.containers
    }

    /// The zygote's process, while there is one, and the workers that hold a turn.
    pub(crate) fn processes(&self) -> (Option<u32>, Vec<Running>) {
        let running = (self.shared.running.lock()).unwrap_or_else(PoisonError::into_inner);
        let workers = running.iter().flatten().cloned().collect();
        (self.shared.nursery.zygote_pid(), workers)
    }

    /// The workers that were lost with an input since the start, by reason.
    pub(crate) fn lost(&self) -> Vec<(Reject, u64)> {
        self.shared.losses.so_far()
    }

    /// A number under which a worker may be kept in the middle of a video.
    pub(crate) fn ticket(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the worker go that is kept under a ticket, if one is.
    pub(crate) fn forget(&self, ticket: u64) {
        self.shared.parked.take(ticket);
    }

    /// Has a video decoded, or with a ticket the next part of one; dropping the future gives it up.
    pub(crate) async fn decode(
        &self,
        (tenant, lane): (&TenantId, Lane),
        input: Input,
        work: Work,
        ticket: Option<u64>,
    ) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let stage = Arc::new(Mutex::new(Stage::Waits));
        let job = Job {
            id,
            input,
            work,
            ticket,
            stage: Arc::clone(&stage),
            reply,
        };
        {
            let mut state = self.shared.state();
            // A slot that waits found the queue empty.
            let left = state.assign((lane, tenant), job);
            let refused = left.and_then(|job| state.queue.push((lane, tenant), id, job).err());
            if refused.is_some() {
                return Err(Error::QueueFull);
            }
        }
        self.shared.changed.notify_all();
        let _caller = Caller {
            shared: Arc::clone(&self.shared),
            tenant,
            id,
            stage,
        };
        // The request is dropped without a word only when the pool stops, or by a slot that panicked.
        answer.await.unwrap_or_else(|_| {
            Err(if self.shared.state().is_stopped {
                Error::Stopped
            } else {
                Error::Interrupted
            })
        })
    }
}

fn start_slot(shared: &Arc<Shared>, number: usize) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let mut first = Some(Slot::new(Arc::clone(&shared), number)?);
    let life = move || {
        let slot = match first.take() {
            Some(first) => first,
            None => {
                shared.note(number, None);
                Slot::new(Arc::clone(&shared), number)?
            }
        };
        slot.run();
        Ok(())
    };
    let thread = std::thread::Builder::new().name(format!("video-{number}"));
    thread.spawn(move || supervise(number, life)).map(drop)
}

/// Lives a slot's life again until it ends by itself: a panic costs the request that the slot had, never the slot, since without slots requests would wait
/// without end.
fn supervise(number: usize, mut life: impl FnMut() -> std::io::Result<()>) {
    loop {
        match catch_unwind(AssertUnwindSafe(&mut life)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!(number, %error, "a video slot cannot begin"),
            Err(_) => tracing::error!(number, "a video slot panicked; it begins anew"),
        }
        // What fails at once shall not take a whole core.
        std::thread::sleep(REST);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().is_stopped = true;
        self.shared.changed.notify_all();
    }
}

/// Gives a request up when it is dropped before the answer.
struct Caller<'a> {
    shared: Arc<Shared>,
    tenant: &'a TenantId,
    id: u64,
    stage: Arc<Mutex<Stage>>,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, Stage::Abandoned) {
            Stage::Waits => {
                drop(stage);
                let job = self.shared.state().queue.remove(self.tenant, self.id);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_panics_or_cannot_begin_comes_back_until_it_ends_by_itself() {
        let mut lives = 0;
        supervise(0, || {
            lives += 1;
            match lives {
                1 => panic!("as planned"),
                2 => Err(std::io::ErrorKind::OutOfMemory.into()),
                _ => Ok(()),
            }
        });
        assert_eq!(lives, 3);
    }
}
