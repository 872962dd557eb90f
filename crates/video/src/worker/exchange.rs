//! One request and its reply: what goes to a worker, how long it may take, and what its death means.
//!
//! Invariant: no worker gets more time than its limits, and what it says is checked before it is an answer.

mod check;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::check::checked;
#[cfg(any(fuzzing, test))]
pub(super) use self::check::checked as read;
use super::memory::{receive, room, sealed, send, wait_readable};
use super::nursery::{End, Worker};
use super::slot::Answer;
use super::wire::{LONGEST, Request, Work, encode_more};
use crate::request::{Limits, Sampling};
use crate::{Error, Input, Reject};

/// How an exchange ended.
pub(super) enum Ended {
    /// The worker replied and kept the rules.
    Answered(Result<Answer, Error>),
    /// The worker's reply breaks the rules.
    Lied,
    /// The worker died.
    Died(End),
    /// The time, real or of the processor, is over.
    TimedOut(Reject),
    /// The caller of the request left.
    Abandoned,
}

/// Bytes that the worker needs to write to.
fn output_bytes(work: &Work) -> u64 {
    match work {
        Work::Probe => 0,
        Work::Clip(spec) => spec.values() as u64 * 4,
        Work::Pictures(spec) => u64::from(spec.bytes),
        Work::Still(spec) => spec.clip().values() as u64 * 4,
        Work::Frames(spec) => spec.values() as u64 * 4,
    }
}

/// What a video may cost: only windows and frames in their order are taken from long ones.
pub(super) fn limits_of(work: &Work, limits: &Limits) -> Limits {
    let sampling = match work {
        Work::Probe | Work::Still(_) => return *limits,
        Work::Clip(spec) => &spec.sampling,
        Work::Pictures(spec) => &spec.sampling,
        Work::Frames(_) => return limits.of_long(),
    };
    match matches!(sampling, Sampling::Windows(_)) {
        true => limits.of_long(),
        false => *limits,
    }
}

/// The input as a descriptor and its length.
fn descriptor(input: &Input) -> io::Result<(Arc<File>, u64)> {
    match input {
        Input::Bytes(bytes) => {
            let memory = sealed(bytes)?;
            Ok((Arc::new(File::from(memory)), bytes.len() as u64))
        }
        Input::File(file) => Ok((Arc::clone(file), file.metadata()?.len())),
    }
}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System {
        action,
        source: Arc::new(source),
    }
}

/// Has a worker decode an input; `abandoned` becomes readable when the caller leaves.
pub(super) fn exchange(
    worker: &mut Worker,
    (id, input, work): (u64, &Input, &Work),
    limits: &Limits,
    abandoned: BorrowedFd<'_>,
) -> Result<Ended, Error> {
    exchange_with(worker, (id, input, work), limits, abandoned, Opening::First)
}

/// How an exchange begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// With the request and its input.
    First,
    /// With the request for more of what the worker has in hand.
    More,
}

/// As [`exchange`], also with a worker that is in the middle of a video.
pub(super) fn exchange_with(
    worker: &mut Worker,
    (id, input, work): (u64, &Input, &Work),
    limits: &Limits,
    abandoned: BorrowedFd<'_>,
    opening: Opening,
) -> Result<Ended, Error> {
    let limits = &limits_of(work, limits);
    let deadline = Instant::now() + limits.wall;
    // The worker looks at its own clock, and can refuse a video and live on; it gets a little longer to do so.
    let cpu_end = worker.processor_time() + limits.cpu + limits.cpu / 16;
    let is_there = match opening {
        Opening::First => hand_over(worker, (id, input, work), limits)?,
        Opening::More => send(&worker.socket, &encode_more(id), &[]).is_ok(),
    };
    if !is_there {
        return Ok(Ended::Died(worker.end()));
    }
    match wait(worker, abandoned, (deadline, cpu_end))
        .map_err(system("wait for a decoding process"))?
    {
        Waited::Answered => {}
        Waited::Abandoned => return Ok(Ended::Abandoned),
        Waited::TimedOut(reject) => return Ok(Ended::TimedOut(reject)),
    }
    let mut buffer = vec![0; LONGEST];
    let Ok(Some(message)) = receive(&worker.socket, &mut buffer) else {
        return Ok(Ended::Died(worker.end()));
    };
    let output = worker.output.as_ref().map(|(memory, _)| memory);
    Ok(checked(message, (id, work), limits, output).map_or(Ended::Lied, Ended::Answered))
}

/// Sends a worker its request, the input, and its output when it needs a larger one; `false` when it is dead.
fn hand_over(
    worker: &mut Worker,
    (id, input, work): (u64, &Input, &Work),
    limits: &Limits,
) -> Result<bool, Error> {
    let (file, input_bytes) = descriptor(input).map_err(system("read the video"))?;
    let needed = output_bytes(work);
    let is_new_output = needed > worker.output.as_ref().map_or(0, |(_, bytes)| *bytes);
    if is_new_output {
        let memory = room(needed).map_err(system("allocate a clip's memory"))?;
        worker.output = Some((memory, needed));
    }
    let request = Request {
        id,
        input_bytes,
        is_new_output,
        output_bytes: needed,
        limits: *limits,
        work: work.clone(),
    };
    let mut descriptors = vec![file.as_fd()];
    if is_new_output && let Some((memory, _)) = &worker.output {
        descriptors.push(memory.as_fd());
    }
    Ok(send(&worker.socket, &request.encode(), &descriptors).is_ok())
}

/// What ended the wait for a worker.
enum Waited {
    /// The worker has something to say, or is dead.
    Answered,
    /// The caller of the request left.
    Abandoned,
    /// The time is over.
    TimedOut(Reject),
}

fn wait(
    worker: &Worker,
    abandoned: BorrowedFd<'_>,
    (deadline, cpu_end): (Instant, Duration),
) -> io::Result<Waited> {
    loop {
        // A worker has one thread, so that its processor time is not over before this.
        let left = cpu_end.saturating_sub(worker.processor_time());
        let until = deadline.min(Instant::now() + left);
        let [is_answered, is_abandoned] =
            wait_readable([worker.socket.as_fd(), abandoned], Some(until))?;
        if is_abandoned {
            return Ok(Waited::Abandoned);
        }
        if is_answered {
            return Ok(Waited::Answered);
        }
        if left.is_zero() {
            return Ok(Waited::TimedOut(Reject::CpuTime));
        }
        if Instant::now() >= deadline {
            return Ok(Waited::TimedOut(Reject::WallTime));
        }
    }
}

/// What a worker's death says of the input that it had; `None` when it says nothing.
pub(super) fn verdict(end: End) -> Option<Reject> {
    let End::Status(status) = end else {
        return None;
    };
    if !libc::WIFSIGNALED(status) {
        return Some(Reject::DecoderCrashed);
    }
    Some(match libc::WTERMSIG(status) {
        libc::SIGSYS => Reject::SandboxViolation,
        libc::SIGXCPU => Reject::CpuTime,
        // Nobody here killed it: the kernel did, for want of memory.
        libc::SIGKILL => Reject::Memory,
        _ => Reject::DecoderCrashed,
    })
}

/// Whether load, the kernel or an operator may have caused it as well as the input: only when it comes again, with nothing running beside it, is it the
/// input's fault. An input that needs too much memory or processor time by itself runs into limits of its own before.
pub(super) fn is_doubtful(ended: &Ended) -> Option<Reject> {
    match ended {
        Ended::TimedOut(Reject::WallTime) => Some(Reject::WallTime),
        Ended::Died(end) => verdict(*end).filter(|reject| *reject == Reject::Memory),
        Ended::Answered(_) | Ended::Lied | Ended::TimedOut(_) | Ended::Abandoned => None,
    }
}

#[cfg(test)]
mod tests;
