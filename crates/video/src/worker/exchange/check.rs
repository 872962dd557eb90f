//! What may come back from a worker: a reply is compared with its request, and pixels are copied before they are looked at.
//!
//! Invariant: the parent takes no length and no count from a worker; a reply that breaks a rule is the same as a crash.

use std::fs::File;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::Error;
use crate::answer::{Picture, Probe};
use crate::decode::{Refusal, Summary};
use crate::frames::FramesSpec;
use crate::request::{Limits, Sampling};
use crate::sampling::{OutOfRange, select_by_count, time_stamp};
use crate::spec::{FrameOrder, Normalization};
use crate::still::StillSpec;
use crate::worker::slot::{Answer, Pixels};
use crate::worker::wire::{Reply, Work};

/// The answer in a reply; `None` when it breaks a rule.
pub(in crate::worker) fn checked(
    message: &[u8],
    (id, work): (u64, &Work),
    limits: &Limits,
    output: Option<&OwnedFd>,
) -> Option<Result<Answer, Error>> {
    let reply = Reply::decode(message).filter(|reply| reply.id == id)?;
    if reply.goes_on && !matches!(work, Work::Frames(_)) {
        return None;
    }
    let summary = match reply.result {
        Ok(summary) => summary,
        Err(Refusal::Rejected(rejection)) => {
            let rejection = rejection.under(limits);
            let is_plausible = rejection.is_plausible();
            return is_plausible.then_some(Err(Error::Rejected(rejection)));
        }
        Err(Refusal::OutOfRange(missing)) => {
            let asked = match work {
                Work::Clip(spec) => &spec.sampling,
                Work::Pictures(spec) => &spec.sampling,
                Work::Probe | Work::Still(_) | Work::Frames(_) => return None,
            };
            return out_of_range(asked, missing).map(Err);
        }
        Err(Refusal::PicturesTooLarge) => {
            return match work {
                Work::Pictures(spec) => Some(Err(Error::PicturesTooLarge {
                    bytes: spec.bytes.into(),
                })),
                Work::Probe | Work::Clip(_) | Work::Still(_) | Work::Frames(_) => None,
            };
        }
    };
    let probe = match (work, &summary.probe) {
        (Work::Still(spec), None) => return still(&summary, spec, limits, output?).map(Ok),
        (Work::Still(_), Some(_)) | (_, None) => return None,
        (_, Some(probe)) => probe,
    };
    let selection = match work {
        Work::Probe | Work::Still(_) => None,
        Work::Clip(spec) => Some((&spec.sampling, spec.frames, spec.temporal_views.get())),
        Work::Pictures(spec) => Some((&spec.sampling, spec.frames, 1)),
        Work::Frames(_) => None,
    };
    let is_selected = match work {
        Work::Frames(spec) => is_part((&summary, probe), spec, reply.goes_on),
        Work::Probe | Work::Clip(_) | Work::Pictures(_) | Work::Still(_) => {
            is_selected((&summary, probe), selection)
        }
    };
    let is_sound =
        is_plausible(probe, limits) && is_selected && is_ordered((&summary, probe), work.order());
    is_sound.then_some(())?;
    let pixels = match (work, output) {
        (Work::Probe | Work::Still(_), _) => Pixels::None,
        (Work::Clip(spec), Some(output)) => {
            let shape = (spec.view_count(), spec.values_per_view());
            Pixels::Planes(planes(output, shape, &spec.normalization)?)
        }
        (Work::Frames(spec), Some(output)) => {
            let views = summary.indices.len() * spec.views.count();
            let shape = (views, spec.values_per_view());
            Pixels::Planes(planes(output, shape, &spec.normalization)?)
        }
        (Work::Pictures(spec), Some(output)) => {
            Pixels::Pictures(pictures(output, &summary, spec.bytes, limits)?)
        }
        (Work::Clip(_) | Work::Pictures(_) | Work::Frames(_), None) => return None,
    };
    Some(Ok(Answer {
        probe: summary.probe,
        indices: summary.indices,
        pts: summary.pts,
        sizes: Vec::new(),
        pixels,
        goes_on: reply.goes_on,
    }))
}

/// A picture that came by itself: of one size, which may be, and with nothing that only videos have.
fn still(summary: &Summary, spec: &StillSpec, limits: &Limits, output: &OwnedFd) -> Option<Answer> {
    let &[size] = summary.sizes.as_slice() else {
        return None;
    };
    let pixels = u64::from(size.0) * u64::from(size.1);
    let is_sound = (1..=u64::from(limits.pixels)).contains(&pixels)
        && summary.indices.is_empty()
        && summary.pts.is_empty()
        && (spec.coding.size()).is_none_or(|own| own == size);
    is_sound.then_some(())?;
    let clip = spec.clip();
    let shape = (clip.view_count(), clip.values_per_view());
    Some(Answer {
        probe: None,
        indices: Vec::new(),
        pts: Vec::new(),
        sizes: vec![size],
        pixels: Pixels::Planes(planes(output, shape, &spec.normalization)?),
        goes_on: false,
    })
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
fn is_selected(
    (summary, probe): (&Summary, &Probe),
    selection: Option<(&Sampling, NonZeroU16, u8)>,
) -> bool {
    let count = probe.frames;
    let expected = match selection {
        None => return summary.indices.is_empty() && summary.pts.is_empty(),
        Some((sampling, frames, views)) => {
            let expected = select_by_count(sampling, count, frames.get(), views);
            expected.ok_or(usize::from(frames.get()) * usize::from(views))
        }
    };
    match expected {
        // The indices follow from the number of frames, so that they are known.
        Ok(Ok(indices)) => summary.indices == indices && summary.pts.len() == indices.len(),
        Ok(Err(_)) => false,
        // They follow from times that only the worker has seen.
        Err(selected) => {
            summary.indices.len() == selected
                && summary.pts.len() == selected
                && summary.indices.iter().all(|&index| index < count)
        }
    }
}

/// Whether these are frames that may come next: full parts follow one another, and the last may be smaller.
fn is_part((summary, probe): (&Summary, &Probe), spec: &FramesSpec, goes_on: bool) -> bool {
    let (indices, most) = (&summary.indices, spec.frames_per_part());
    let has_size = match goes_on {
        true => indices.len() == most,
        false => indices.len() <= most,
    };
    has_size
        && summary.pts.len() == indices.len()
        && indices.is_sorted_by(|one, next| one < next)
        && indices.first().is_none_or(|&first| first >= spec.from)
        && indices.last().is_none_or(|&last| last < probe.frames)
}

fn is_plausible(probe: &Probe, limits: &Limits) -> bool {
    let pixels = u64::from(probe.width) * u64::from(probe.height);
    limits.containers.contains(probe.container)
        && (1..=limits.frames).contains(&probe.frames)
        && (1..=limits.frames).contains(&probe.reference_frames)
        && (1..=u64::from(limits.pixels)).contains(&pixels)
        && (1..=limits.streams).contains(&probe.streams)
        && probe.duration <= limits.duration
        && probe.time_base.numerator > 0
        && probe.time_base.denominator > 0
}

/// Whether later frames have later time stamps, or in the order of display the same ones, and none is before the first.
fn is_ordered((summary, probe): (&Summary, &Probe), order: FrameOrder) -> bool {
    let mut frames: Vec<(u32, i64)> =
        std::iter::zip(summary.indices.iter().copied(), summary.pts.iter().copied()).collect();
    frames.sort_unstable();
    frames.dedup();
    let is_later = |one: i64, next: i64| match order {
        FrameOrder::Display => one <= next,
        FrameOrder::Reference => one < next,
    };
    let mut times = frames.iter().filter_map(|&(_, pts)| time_stamp(pts));
    let first = probe.first_pts;
    times.all(|time| time >= first)
        && frames
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && is_later(pair[0].1, pair[1].1))
}

/// The largest value of a plane, of any picture: a bicubic resize overshoots by less than half of a picture's range.
fn largest_value(normalization: &Normalization) -> f32 {
    let channels = std::iter::zip(&normalization.mean, &normalization.std);
    channels
        .map(|(mean, std)| (1.5 - mean).abs().max((-0.5 - mean).abs()) / std)
        .fold(0.0, f32::max)
}

/// Copies planes out of the worker's memory, then looks at them: the worker may still write there.
fn planes(
    output: &OwnedFd,
    (views, values): (usize, usize),
    normalization: &Normalization,
) -> Option<Vec<Arc<[f32]>>> {
    let output = File::from(output.try_clone().ok()?);
    let largest = largest_value(normalization);
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
    summary: &Summary,
    room: u32,
    limits: &Limits,
) -> Option<Vec<Picture>> {
    if summary.sizes.len() != summary.indices.len() {
        return None;
    }
    let output = File::from(output.try_clone().ok()?);
    let mut at = 0_u64;
    (summary.sizes.iter())
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
