//! One request and its reply: what goes to a worker, what may come back, and what its death means.
//!
//! Invariant: the parent takes no length and no count from a worker; a reply that breaks a rule is the same as a crash.

use std::fs::File;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use super::memory::{receive, room, sealed, send, wait_readable};
use super::nursery::{End, Worker};
use super::slot::{Answer, Pixels};
use super::wire::{LONGEST, Reply, Request, Wanted};
use crate::video::answer::{Picture, Probe};
use crate::video::decode::{Outcome, Refusal};
use crate::video::request::{Limits, Sampling};
use crate::video::sampling::{OutOfRange, select_by_count};
use crate::video::{Error, Input, Reject};

/// How an exchange ended.
pub(super) enum Ended {
    /// With a reply that keeps the rules.
    Answered(Result<Answer, Error>),
    /// With one that breaks them.
    Lied,
    /// The worker died.
    Died(End),
    /// The time is over.
    TimedOut,
    /// The caller left.
    Abandoned,
}

/// Values of a plane lie within this, whatever the picture: normalisation is limited, and the resize overshoots a little.
const LARGEST_VALUE: f32 = 256.0;

/// Bytes that the worker needs to write to.
fn output_bytes(wanted: &Wanted) -> u64 {
    match wanted {
        Wanted::Probe => 0,
        Wanted::Clip(spec) => spec.values() as u64 * 4,
        Wanted::Pictures(spec) => u64::from(spec.bytes),
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

/// Has a worker decode an input; `abandoned` becomes readable when the caller leaves.
pub(super) fn exchange(
    worker: &mut Worker,
    (id, input, wanted): (u64, &Input, &Wanted),
    limits: &Limits,
    abandoned: BorrowedFd<'_>,
) -> Result<Ended, Error> {
    let limits = &match wanted {
        Wanted::Probe => *limits,
        Wanted::Clip(spec) => limits.with(&spec.sampling),
        Wanted::Pictures(spec) => limits.with(&spec.sampling),
    };
    let deadline = Instant::now() + limits.wall;
    let system = |action| {
        move |source: io::Error| Error::System {
            action,
            source: Arc::new(source),
        }
    };
    let (file, input_bytes) = descriptor(input).map_err(system("read the video"))?;
    let needed = output_bytes(wanted);
    let is_new_output = needed > worker.output.as_ref().map_or(0, |(_, bytes)| *bytes);
    if is_new_output {
        let memory = room(needed).map_err(system("allocate a clip's memory"))?;
        worker.output = Some((memory, needed));
    }
    let request = Request {
        id,
        input_bytes,
        is_new_output,
        limits: *limits,
        wanted: wanted.clone(),
    };
    let mut descriptors = vec![file.as_fd()];
    if is_new_output && let Some((memory, _)) = &worker.output {
        descriptors.push(memory.as_fd());
    }
    if send(&worker.socket, &request.encode(), &descriptors).is_err() {
        return Ok(Ended::Died(worker.end()));
    }
    drop(file);
    let [is_answered, is_abandoned] =
        wait_readable([worker.socket.as_fd(), abandoned], Some(deadline))
            .map_err(system("wait for a decoding process"))?;
    if is_abandoned {
        return Ok(Ended::Abandoned);
    }
    if !is_answered {
        return Ok(Ended::TimedOut);
    }
    let mut buffer = vec![0; LONGEST];
    let Ok(Some(message)) = receive(&worker.socket, &mut buffer) else {
        return Ok(Ended::Died(worker.end()));
    };
    let output = worker.output.as_ref().map(|(memory, _)| memory);
    Ok(checked(message, (id, wanted), limits, output).map_or(Ended::Lied, Ended::Answered))
}

/// The answer in a reply; `None` when it breaks a rule.
fn checked(
    message: &[u8],
    (id, wanted): (u64, &Wanted),
    limits: &Limits,
    output: Option<&OwnedFd>,
) -> Option<Result<Answer, Error>> {
    let reply = Reply::decode(message).filter(|reply| reply.id == id)?;
    let outcome = match reply.result {
        Ok(outcome) => outcome,
        Err(Refusal::Rejected(reject)) => return Some(Err(Error::Rejected(reject))),
        Err(Refusal::OutOfRange(missing)) => {
            let asked = match wanted {
                Wanted::Clip(spec) => &spec.sampling,
                Wanted::Pictures(spec) => &spec.sampling,
                Wanted::Probe => return None,
            };
            return out_of_range(asked, missing).map(Err);
        }
        Err(Refusal::PicturesTooLarge) => {
            return match wanted {
                Wanted::Pictures(spec) => Some(Err(Error::PicturesTooLarge {
                    bytes: spec.bytes.into(),
                })),
                Wanted::Probe | Wanted::Clip(_) => None,
            };
        }
    };
    is_plausible(&outcome.probe, limits).then_some(())?;
    let selection = match wanted {
        Wanted::Probe => None,
        Wanted::Clip(spec) => Some((&spec.sampling, spec.frames, spec.temporal_views.get())),
        Wanted::Pictures(spec) => Some((&spec.sampling, spec.frames, 1)),
    };
    is_selected(&outcome, selection).then_some(())?;
    let pixels = match (wanted, output) {
        (Wanted::Probe, _) => Pixels::None,
        (Wanted::Clip(spec), Some(output)) => {
            Pixels::Planes(planes(output, spec.view_count(), spec.values_per_view())?)
        }
        (Wanted::Pictures(spec), Some(output)) => {
            Pixels::Pictures(pictures(output, &outcome, spec.bytes, limits)?)
        }
        (Wanted::Clip(_) | Wanted::Pictures(_), None) => return None,
    };
    Some(Ok(Answer {
        probe: outcome.probe,
        indices: outcome.indices,
        pts: outcome.pts,
        pixels,
    }))
}

/// The error of a request for what a video lacks; `None` when the request asked for no such thing.
fn out_of_range(asked: &Sampling, missing: OutOfRange) -> Option<Error> {
    let OutOfRange { index, count } = missing;
    let is_asked = match asked {
        Sampling::Indices(indices) => indices.contains(&index),
        Sampling::Windows(windows) => index >= windows.first,
        Sampling::Uniform | Sampling::Strided(_) | Sampling::Fps(_) => false,
    };
    (is_asked && index >= count).then_some(if matches!(asked, Sampling::Windows(_)) {
        Error::WindowOutOfRange {
            index,
            windows: count,
        }
    } else {
        Error::IndexOutOfRange {
            index,
            frames: count,
        }
    })
}

/// Whether these are the frames that were asked for: sampling, frames of a clip, temporal views.
fn is_selected(outcome: &Outcome, selection: Option<(&Sampling, NonZeroU16, u8)>) -> bool {
    let count = outcome.probe.frames;
    let expected = match selection {
        None => return outcome.indices.is_empty() && outcome.pts.is_empty(),
        Some((sampling, frames, views)) => {
            let expected = select_by_count(sampling, count, frames.get(), views);
            expected.ok_or(usize::from(frames.get()) * usize::from(views))
        }
    };
    match expected {
        // The indices follow from the number of frames, so that they are known.
        Ok(Ok(indices)) => outcome.indices == indices && outcome.pts.len() == indices.len(),
        Ok(Err(_)) => false,
        // They follow from times that only the worker has seen.
        Err(selected) => {
            outcome.indices.len() == selected
                && outcome.pts.len() == selected
                && outcome.indices.iter().all(|&index| index < count)
        }
    }
}

fn is_plausible(probe: &Probe, limits: &Limits) -> bool {
    let pixels = u64::from(probe.width) * u64::from(probe.height);
    (1..=limits.frames).contains(&probe.frames)
        && (1..=u64::from(limits.pixels)).contains(&pixels)
        && (1..=limits.streams).contains(&probe.streams)
        && probe.duration <= limits.duration
}

/// Copies planes out of the worker's memory, then looks at them: the worker may still write there.
fn planes(output: &OwnedFd, views: usize, values: usize) -> Option<Vec<Arc<[f32]>>> {
    let output = File::from(output.try_clone().ok()?);
    let mut bytes = vec![0; values * 4];
    (0..views)
        .map(|view| {
            output
                .read_exact_at(&mut bytes, (view * values * 4) as u64)
                .ok()?;
            let (quads, _) = bytes.as_chunks();
            let planes: Arc<[f32]> = (quads.iter())
                .map(|value| f32::from_le_bytes(*value))
                .collect();
            // A comparison with NaN is false, too.
            let is_sound = planes.iter().fold(true, |is_sound, value| {
                is_sound & (value.abs() <= LARGEST_VALUE)
            });
            is_sound.then_some(planes)
        })
        .collect()
}

/// Copies pictures out of the worker's memory.
fn pictures(
    output: &OwnedFd,
    outcome: &Outcome,
    room: u32,
    limits: &Limits,
) -> Option<Vec<Picture>> {
    if outcome.sizes.len() != outcome.indices.len() {
        return None;
    }
    let output = File::from(output.try_clone().ok()?);
    let mut at = 0_u64;
    (outcome.sizes.iter())
        .map(|&(width, height)| {
            let pixels = u64::from(width) * u64::from(height);
            let end = at.checked_add(pixels.checked_mul(3)?)?;
            if !(1..=u64::from(limits.pixels)).contains(&pixels) || end > u64::from(room) {
                return None;
            }
            let mut rgb = vec![0; (end - at) as usize];
            output.read_exact_at(&mut rgb, at).ok()?;
            at = end;
            Some(Picture { width, height, rgb })
        })
        .collect()
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

#[cfg(test)]
mod tests;
