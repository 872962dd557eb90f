//! A reply of a worker that lies, as fuzzers and tests make it.

use std::time::Duration;

use super::exchange::read;
use super::memory::room;
use super::wire::{Reply, Work};
use crate::answer::{Codec, Container, Probe, Ratio, Rotation, Warnings};
use crate::decode::Summary;
use crate::fuzzing::selection;
use crate::request::{ClipSpec, ColorPolicy, Limits, PictureSpec, Sampling, Views};
use crate::sampling::select_by_count;
use crate::spec::{FrameOrder, Normalization, RotationPolicy};
use crate::still::{Coding, StillSpec};

const ID: u64 = 4;
const SIDE: u16 = 8;

/// Has an honest reply changed, and reads it as the server does. What is taken keeps the rules.
///
/// # Panics
/// When what was taken does not.
pub(crate) fn read_reply(kind: u8, change: impl FnOnce(&mut Vec<u8>)) {
    let work = work(kind);
    let mut message = Reply::last(ID, Ok(honest(&work))).encode();
    change(&mut message);
    let limits = Limits::default();
    let Ok(output) = room(1 << 16) else {
        return;
    };
    if let Some(Ok(answer)) = read(&message, (ID, &work), &limits, Some(&output)) {
        assert!(answer.indices.len() == answer.pts.len());
        let Some(probe) = answer.probe else {
            assert!(matches!(work, Work::Still(_)) && answer.indices.is_empty());
            return;
        };
        assert!(probe.frames <= limits.frames);
        assert!(probe.reference_frames <= limits.frames);
        assert!(
            (answer.indices.iter()).all(|&index| index < probe.frames),
            "an index outside the video"
        );
    }
}

fn work(kind: u8) -> Work {
    let (frames, temporal_views) = selection();
    match kind {
        0 => Work::Probe,
        1 => Work::Pictures(PictureSpec {
            frames,
            sampling: Sampling::Uniform,
            rotation: RotationPolicy::Stored,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            bytes: 1 << 16,
        }),
        4 => Work::Still(StillSpec {
            coding: Coding::Jpeg,
            views: Views::Center,
            size: SIDE,
            normalization: Normalization::CLIP,
        }),
        kind => Work::Clip(ClipSpec {
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
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
            alters: Vec::new(),
        }),
    }
}

/// What an honest worker answers for a video of ten frames.
fn honest(work: &Work) -> Summary {
    const FRAMES: u32 = 10;
    let ratio = Ratio {
        numerator: 1,
        denominator: 25,
    };
    let sampling = match work {
        Work::Still(_) => {
            return Summary {
                probe: None,
                indices: Vec::new(),
                pts: Vec::new(),
                sizes: vec![(16, 12)],
            };
        }
        Work::Probe => None,
        Work::Clip(spec) => Some(&spec.sampling),
        Work::Pictures(spec) => Some(&spec.sampling),
        Work::Frames(_) => None,
    };
    let (frames, views) = selection();
    let indices = sampling
        .and_then(|sampling| select_by_count(sampling, FRAMES, frames.get(), views.get())?.ok())
        .unwrap_or_default();
    Summary {
        probe: Some(Probe {
            container: Container::Mov,
            codec: Codec::H264,
            width: 64,
            height: 48,
            frames: FRAMES,
            reference_frames: FRAMES,
            time_base: ratio,
            first_pts: 0,
            duration: Duration::from_secs(1),
            rate: ratio,
            rotation: Rotation::None,
            mirrored: false,
            sar: ratio,
            streams: 1,
            warnings: Warnings::default(),
        }),
        pts: indices.iter().map(|&index| i64::from(index)).collect(),
        sizes: match work {
            Work::Pictures(_) => vec![(16, 12); indices.len()],
            Work::Probe | Work::Clip(_) | Work::Still(_) | Work::Frames(_) => Vec::new(),
        },
        indices,
    }
}
