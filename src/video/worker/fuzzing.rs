//! A reply of a worker that lies, as fuzzers and tests make it.

use std::time::Duration;

use super::exchange::read;
use super::memory::room;
use super::wire::{Reply, Wanted};
use crate::spec::{Normalization, RotationPolicy};
use crate::video::answer::{Codec, Container, Probe, Ratio, Rotation, Warnings};
use crate::video::decode::Outcome;
use crate::video::fuzzing::selection;
use crate::video::request::{ClipSpec, ColorPolicy, Limits, PictureSpec, Sampling, Views};
use crate::video::sampling::select_by_count;

const ID: u64 = 4;
const SIDE: u16 = 8;

/// Has an honest reply changed, and reads it as the server does. What is taken keeps the rules.
///
/// # Panics
/// When what was taken does not.
pub(in crate::video) fn read_reply(kind: u8, change: impl FnOnce(&mut Vec<u8>)) {
    let wanted = wanted(kind);
    let mut message = Reply {
        id: ID,
        result: Ok(honest(&wanted)),
    }
    .encode();
    change(&mut message);
    let limits = Limits::default();
    let Ok(output) = room(1 << 16) else {
        return;
    };
    if let Some(Ok(answer)) = read(&message, (ID, &wanted), &limits, Some(&output)) {
        assert!(answer.probe.frames <= limits.frames);
        assert!(answer.indices.len() == answer.pts.len());
        assert!(
            (answer.indices.iter()).all(|&index| index < answer.probe.frames),
            "an index outside the video"
        );
    }
}

fn wanted(kind: u8) -> Wanted {
    let (frames, temporal_views) = selection();
    match kind {
        0 => Wanted::Probe,
        1 => Wanted::Pictures(PictureSpec {
            frames,
            sampling: Sampling::Uniform,
            rotation: RotationPolicy::Stored,
            color: ColorPolicy::Reference,
            bytes: 1 << 16,
        }),
        kind => Wanted::Clip(ClipSpec {
            frames,
            sampling: if kind == 2 {
                Sampling::Uniform
            } else {
                Sampling::Indices(vec![0, 2, 5, 9])
            },
            temporal_views,
            views: Views::Center,
            size: SIDE,
            rotation: RotationPolicy::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
        }),
    }
}

/// What an honest worker answers for a video of ten frames.
fn honest(wanted: &Wanted) -> Outcome {
    const FRAMES: u32 = 10;
    let ratio = Ratio {
        numerator: 1,
        denominator: 25,
    };
    let sampling = match wanted {
        Wanted::Probe => None,
        Wanted::Clip(spec) => Some(&spec.sampling),
        Wanted::Pictures(spec) => Some(&spec.sampling),
    };
    let (frames, views) = selection();
    let indices = sampling
        .and_then(|sampling| select_by_count(sampling, FRAMES, frames.get(), views.get())?.ok())
        .unwrap_or_default();
    Outcome {
        probe: Probe {
            container: Container::Mov,
            codec: Codec::H264,
            width: 64,
            height: 48,
            frames: FRAMES,
            time_base: ratio,
            first_pts: 0,
            duration: Duration::from_secs(1),
            rate: ratio,
            rotation: Rotation::None,
            sar: ratio,
            streams: 1,
            warnings: Warnings::default(),
        },
        pts: indices.iter().map(|&index| i64::from(index)).collect(),
        sizes: match wanted {
            Wanted::Pictures(_) => vec![(16, 12); indices.len()],
            Wanted::Probe | Wanted::Clip(_) => Vec::new(),
        },
        indices,
    }
}
