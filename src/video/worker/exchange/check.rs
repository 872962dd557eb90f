//! What may come back from a worker: a reply is compared with its request, and pixels are copied before they are looked at.
//!
//! Invariant: the parent takes no length and no count from a worker; a reply that breaks a rule is the same as a crash.

use std::fs::File;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::spec::Normalization;
use crate::video::Error;
use crate::video::answer::{Picture, Probe};
use crate::video::decode::{Outcome, Refusal};
use crate::video::request::{ClipSpec, Limits, Sampling};
use crate::video::sampling::{OutOfRange, select_by_count};
use crate::video::worker::slot::{Answer, Pixels};
use crate::video::worker::wire::{Reply, Wanted};

/// The answer in a reply; `None` when it breaks a rule.
pub(in crate::video::worker) fn checked(
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
    if !is_selected(&outcome, selection) || !is_ordered(&outcome) {
        return None;
    }
    let pixels = match (wanted, output) {
        (Wanted::Probe, _) => Pixels::None,
        (Wanted::Clip(spec), Some(output)) => Pixels::Planes(planes(output, spec)?),
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
        Sampling::Uniform | Sampling::Strided(_) | Sampling::StridedPart(_) | Sampling::Fps(_) => {
            false
        }
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
    limits.containers.contains(probe.container)
        && (1..=limits.frames).contains(&probe.frames)
        && (1..=u64::from(limits.pixels)).contains(&pixels)
        && (1..=limits.streams).contains(&probe.streams)
        && probe.duration <= limits.duration
        && probe.time_base.numerator > 0
        && probe.time_base.denominator > 0
}

/// Whether later frames have later time stamps, and none is before the first.
fn is_ordered(outcome: &Outcome) -> bool {
    let mut frames: Vec<(u32, i64)> =
        std::iter::zip(outcome.indices.iter().copied(), outcome.pts.iter().copied()).collect();
    frames.sort_unstable();
    frames.dedup();
    frames
        .first()
        .is_none_or(|first| first.1 >= outcome.probe.first_pts)
        && frames
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1)
}

/// The largest value of a plane, of any picture: a bicubic resize overshoots by less than half of a picture's range.
fn largest_value(normalization: &Normalization) -> f32 {
    let channels = std::iter::zip(&normalization.mean, &normalization.std);
    channels
        .map(|(mean, std)| (1.5 - mean).abs().max((-0.5 - mean).abs()) / std)
        .fold(0.0, f32::max)
}

/// Copies planes out of the worker's memory, then looks at them: the worker may still write there.
fn planes(output: &OwnedFd, spec: &ClipSpec) -> Option<Vec<Arc<[f32]>>> {
    let output = File::from(output.try_clone().ok()?);
    let values = spec.values_per_view();
    let largest = largest_value(&spec.normalization);
    let mut bytes = vec![0; values * 4];
    (0..spec.view_count())
        .map(|view| {
            output
                .read_exact_at(&mut bytes, (view * values * 4) as u64)
                .ok()?;
            let (quads, _) = bytes.as_chunks();
            let planes: Arc<[f32]> = (quads.iter())
                .map(|value| f32::from_le_bytes(*value))
                .collect();
            // A comparison with NaN is false, too.
            let is_sound = planes
                .iter()
                .fold(true, |is_sound, value| is_sound & (value.abs() <= largest));
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
