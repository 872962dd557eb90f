//! One thread of the server that feeds one worker at a time.
//!
//! Invariant: a worker that has decoded for a tenant never sees another tenant's input, and one that misbehaved sees none at all.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::oneshot;

use super::exchange::{Ended, Opening, exchange_with, is_doubtful, limits_of, verdict};
use super::nursery::{End, Worker};
use super::pool::Shared;
use super::wire::Work;
use crate::answer::{Picture, Probe};
use crate::ids::TenantId;
use crate::{Error, Input, Reject, Rejection};

/// What a worker took from a video.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Facts of the video; none of a picture that came by itself.
    pub(crate) probe: Option<Probe>,
    /// Indices of the frames, temporal views one after the other.
    pub(crate) indices: Vec<u32>,
    pub(crate) pts: Vec<i64>,
    /// Width and height of a picture that came by itself.
    pub(crate) sizes: Vec<(u32, u32)>,
    pub(crate) pixels: Pixels,
    /// Whether more frames follow when they are asked for.
    pub(crate) goes_on: bool,
}

/// The pixels that came out.
#[derive(Debug)]
pub(crate) enum Pixels {
    None,
    Planes(Vec<Arc<[f32]>>),
    Pictures(Vec<Picture>),
}

/// Where a request is: its caller may leave at any time.
pub(super) enum Stage {
    /// The request is in the queue.
    Waits,
    /// The request is with a worker; writing to this pipe interrupts it.
    Runs(Arc<OwnedFd>),
    /// The request is answered.
    Done,
    /// The caller of the request left.
    Abandoned,
}

/// A request in the queue.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) input: Input,
    pub(super) work: Work,
    /// What a worker in the middle of a long video is kept under, for work on one.
    pub(super) ticket: Option<u64>,
    pub(super) stage: Arc<Mutex<Stage>>,
    pub(super) reply: oneshot::Sender<Result<Answer, Error>>,
}

/// A thread's state.
pub(super) struct Slot {
    shared: Arc<Shared>,
    number: usize,
    worker: Option<Worker>,
    /// Requests in a row for the worker's tenant.
    turn: u32,
    interrupt: Arc<OwnedFd>,
    interrupted: OwnedFd,
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> std::io::Result<Self> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (interrupted, interrupt) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            shared,
            number,
            worker: None,
            turn: 0,
            interrupt: Arc::new(interrupt),
            interrupted,
        })
    }

    /// Serves until the pool stops.
    pub(super) fn run(mut self) {
        loop {
            let turn = (self.worker.as_ref())
                .and_then(|worker| worker.tenant.clone())
                .map(|tenant| (tenant, self.turn));
            match self.shared.next(self.number, turn.as_ref()) {
                Next::Job(tenant, job) => self.serve(&tenant, *job),
                Next::Idle => self.retire(),
                Next::Stopped => return self.retire(),
            }
        }
    }

    fn retire(&mut self) {
        self.worker = None;
        self.shared.note(self.number, None);
    }

    fn serve(&mut self, tenant: &TenantId, job: Job) {
        {
            let mut stage = job.stage.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*stage, Stage::Abandoned) {
                return;
            }
            *stage = Stage::Runs(Arc::clone(&self.interrupt));
        }
        let result = self.decode(tenant, &job);
        if self.worker.is_none() {
            self.shared.note(self.number, None);
        }
        {
            let mut stage = job.stage.lock().unwrap_or_else(PoisonError::into_inner);
            *stage = Stage::Done;
        }
        // An interruption that came too late was for this job, not for the next.
        let mut byte = [0; 16];
        while !matches!(
            rustix::io::read(&self.interrupted, &mut byte),
            Err(Errno::AGAIN) | Ok(0)
        ) {}
        // The caller may have left, and then nobody takes the worker that was kept for it.
        if job.reply.send(result).is_err()
            && let Some(ticket) = job.ticket
        {
            self.shared.parked.take(ticket);
        }
    }

    /// Decodes, at a second worker when the first went away for a reason that need not be the video's: with its zygote, killed, or out of real time. Only
    /// when the second one says the same, and nothing ran beside it, is the video refused.
    fn decode(&mut self, tenant: &TenantId, job: &Job) -> Result<Answer, Error> {
        let mut doubt = None;
        for _ in 0..2 {
            match self.attempt(tenant, job)? {
                Attempt::Ended(result) => return result,
                Attempt::Doubtful { reject, was_alone } => {
                    if was_alone && doubt == Some(reject) {
                        let limits = &self.shared.config.limits;
                        return Err(Rejection::from(reject).under(limits).into());
                    }
                    doubt = Some(reject);
                }
                Attempt::Gone => {}
            }
        }
        Err(Error::Interrupted)
    }

    /// Gives the video to one worker.
    fn attempt(&mut self, tenant: &TenantId, job: &Job) -> Result<Attempt, Error> {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let (mut worker, opening) = self.worker_for(tenant, job)?;
        let (before, begun) = (worker.processor_time(), Instant::now());
        let turn = shared.busy.begin();
        let ended = exchange_with(
            &mut worker,
            (job.ticket.unwrap_or(job.id), &job.input, &job.work),
            &config.limits,
            self.interrupted.as_fd(),
            opening,
        );
        let used = match &ended {
            Ok(Ended::Died(end)) => {
                let limits = limits_of(&job.work, &config.limits);
                time_of_dead(*end, begun.elapsed(), limits.cpu)
            }
            Ok(Ended::Answered(_) | Ended::Lied | Ended::TimedOut(_) | Ended::Abandoned) => {
                worker.processor_time().saturating_sub(before)
            }
            Err(_) => Duration::ZERO,
        };
        shared.ledger.decoded(tenant, used);
        let ended = ended?;
        shared.losses.count(&ended);
        let was_alone = turn.is_alone();
        drop(turn);
        worker.served += 1;
        if let Some(reject) = is_doubtful(&ended) {
            tracing::warn!(%tenant, reason = reject.reason(), was_alone, "a video worker was lost, possibly not because of its video");
            return Ok(Attempt::Doubtful { reject, was_alone });
        }
        let reject = match ended {
            Ended::Answered(result) => {
                let is_short_of_memory =
                    matches!(&result, Err(Error::Rejected(own)) if *own == Reject::Memory);
                let is_old = worker.served >= config.worker_requests.get()
                    || worker.processor_time() >= config.worker_cpu;
                match (job.ticket, &result) {
                    (Some(ticket), Ok(Answer { goes_on: true, .. })) => {
                        shared.parked.put(ticket, worker);
                    }
                    // Its processor time was meant for one long video.
                    (Some(_), _) => {}
                    (None, _) if is_short_of_memory || is_old => {}
                    (None, _) => self.worker = Some(worker),
                }
                return Ok(Attempt::Ended(result));
            }
            Ended::Abandoned => return Err(Error::Stopped),
            Ended::TimedOut(reject) => reject,
            Ended::Lied => Reject::DecoderCrashed,
            Ended::Died(end) => match verdict(end) {
                Some(reject) => reject,
                None => return Ok(Attempt::Gone),
            },
        };
        Err(Rejection::from(reject).under(&config.limits).into())
    }

    /// The worker for a job, and how to begin with it.
    fn worker_for(&mut self, tenant: &TenantId, job: &Job) -> Result<(Worker, Opening), Error> {
        let Some(ticket) = job.ticket else {
            return Ok((self.worker_of(tenant)?, Opening::First));
        };
        // There are never more workers than slots, those that wait in the middle of a video, and one spare.
        self.retire();
        self.turn = 0;
        let (worker, opening) = match self.shared.parked.take(ticket) {
            Some(worker) => (worker, Opening::More),
            None => {
                let mut worker = self.shared.fresh_for_long()?;
                worker.tenant = Some(tenant.clone());
                (worker, Opening::First)
            }
        };
        self.shared.note(self.number, Some((worker.pid, tenant)));
        Ok((worker, opening))
    }

    /// Takes a worker that has decoded for nobody else; it is only put back after an answer that keeps the rules.
    fn worker_of(&mut self, tenant: &TenantId) -> Result<Worker, Error> {
        // The old one is killed first: there are never more workers than slots and one spare.
        let own = (self.worker.take())
            .filter(|own| own.tenant.as_ref() == Some(tenant) && own.is_ready());
        if let Some(worker) = own {
            self.turn = self.turn.saturating_add(1);
            return Ok(worker);
        }
        self.turn = 1;
        self.shared.note(self.number, None);
        let mut worker = self.shared.fresh()?;
        worker.tenant = Some(tenant.clone());
        self.shared.note(self.number, Some((worker.pid, tenant)));
        Ok(worker)
    }
}

/// Processor time that counts for a worker that has died, whose clock is gone: the time that went by, but no more than it might use. What went with its zygote
/// counts for nobody.
fn time_of_dead(end: End, elapsed: Duration, limit: Duration) -> Duration {
    match end {
        End::WithZygote => Duration::ZERO,
        End::Status(_) => elapsed.min(limit),
    }
}

/// The result of giving a video to one worker.
enum Attempt {
    /// An answer, or a refusal that says so itself.
    Ended(Result<Answer, Error>),
    /// The worker was lost for a reason that may be the video's or not.
    Doubtful {
        /// The reason for which the video would be refused.
        reject: Reject,
        /// Nothing else was decoded at the same time.
        was_alone: bool,
    },
    /// The worker went with its zygote.
    Gone,
}

/// The next thing that a slot does.
pub(super) enum Next {
    /// Serves a tenant's request.
    Job(TenantId, Box<Job>),
    /// Lets its worker go: nothing came for a while.
    Idle,
    /// Ends.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_worker_costs_no_more_than_its_limit() {
        let [short, long, limit] = [1, 50, 10].map(Duration::from_secs);
        assert_eq!(time_of_dead(End::Status(9), short, limit), short);
        assert_eq!(time_of_dead(End::Status(9), long, limit), limit);
        assert_eq!(time_of_dead(End::WithZygote, long, limit), Duration::ZERO);
    }
}
