//! Plans which windows the tasks of a request have, and which frames of the video they need: pure.
//!
//! Invariant: the bytes that a plan states are the most that its stream holds.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::score::Readers;
use super::stream::RUNNING;
use super::{STREAM_BYTES, SegmentOptions, WindowOptions, WindowStride};
use crate::serving::Asked;
use crate::spec::{
    ClipSampling, FrameOrder, Normalization, RotationPolicy, Sampling, SpatialViews,
};
use crate::video::{self, ColorPolicy, FramesSpec, Slide, Stride, Views};

/// Most different distances between the first frame of a window and its others, over all tasks.
const OFFSETS: usize = 640;

/// Reason why windows cannot be taken as a request wants them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WindowsInvalid {
    /// Field of the request.
    pub field: &'static str,
    /// Problem with the field.
    pub problem: String,
}

fn invalid(field: &'static str, problem: impl Into<String>) -> WindowsInvalid {
    WindowsInvalid {
        field,
        problem: problem.into(),
    }
}

/// Tasks with windows of the same frames.
pub(super) struct Group {
    /// Frames from one frame of a window to the next.
    pub(super) step: u32,
    /// Frames from the first of a window to its last.
    pub(super) reach: u32,
    /// The versions that read the windows.
    pub(super) readers: Readers,
    /// The choice of each reader.
    pub(super) choices: Vec<usize>,
}

/// The windows of all tasks of a request.
pub(super) struct Plan {
    pub(super) groups: Vec<Group>,
    /// What the decoder is asked for.
    pub(super) spec: FramesSpec,
    /// Choices whose videos would have to be decoded in another way.
    pub(super) failed: Vec<usize>,
    /// Bytes that the stream may hold, without tokens.
    pub(super) bytes: u64,
    /// Bytes of the tokens that the engine may keep of frames for later windows; 0 when there are none to keep.
    pub(super) token_bytes: u64,
    /// How the segments of the summary are found.
    pub(super) segments: SegmentOptions,
}

/// Frames of a window, and from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    frames: u32,
    step: NonZeroU32,
    spatial: SpatialViews,
}

impl Shape {
    fn of(sampling: &ClipSampling, options: &WindowOptions) -> Result<Self, WindowsInvalid> {
        let own = match sampling.sampling {
            Sampling::Strided(rate) => Some(rate),
            Sampling::Uniform => None,
        };
        let missing = "required for tasks that spread their frames over the whole video";
        let step =
            (options.frame_step.or(own)).ok_or_else(|| invalid("windows.frame_step", missing))?;
        Ok(Self {
            frames: sampling.num_frames.get().into(),
            step,
            spatial: sampling.spatial_views,
        })
    }

    fn reach(self) -> u32 {
        (self.frames - 1).saturating_mul(self.step.get())
    }
}

/// The tasks whose windows are of one shape.
type Grouped = (Shape, Vec<(usize, Arc<Asked>)>);

impl Plan {
    pub(super) fn of(
        asked: Vec<(usize, Arc<Asked>)>,
        options: &WindowOptions,
        (size, kept): (u16, u64),
    ) -> Result<Self, WindowsInvalid> {
        let mut shapes: Vec<Grouped> = Vec::new();
        let mut failed = Vec::new();
        // The first task decides how the video is read.
        let first = asked.first().map(|(_, first)| first.essentials.sampling);
        for (choice, asked) in asked {
            let sampling = asked.essentials.sampling;
            let is_read_so = first.is_some_and(|first| {
                (first.rotation, first.order) == (sampling.rotation, sampling.order)
            });
            if !is_read_so {
                failed.push(choice);
                continue;
            }
            let shape = Shape::of(&sampling, options)?;
            match shapes.iter_mut().find(|(own, _)| *own == shape) {
                Some((_, readers)) => readers.push((choice, asked)),
                None => shapes.push((shape, vec![(choice, asked)])),
            }
        }
        let is_wide = (shapes.iter()).any(|(shape, _)| shape.spatial == SpatialViews::Three);
        let groups = shapes.iter().map(|(shape, readers)| Group {
            step: shape.step.get(),
            reach: shape.reach(),
            readers: Readers {
                asked: readers.iter().map(|(_, asked)| asked.clone()).collect(),
                // The middle one of three views is the centre.
                views: match (is_wide, shape.spatial) {
                    (true, SpatialViews::Center) => 1..2,
                    (_, spatial) => 0..spatial.count(),
                },
                frames: shape.frames as usize,
            },
            choices: readers.iter().map(|(choice, _)| *choice).collect(),
        });
        let groups = groups.collect();
        let shapes: Vec<Shape> = shapes.into_iter().map(|(shape, _)| shape).collect();
        let slide = slide(&shapes, options)?;
        let spec = FramesSpec {
            slide,
            views: match is_wide {
                true => Views::Three,
                false => Views::Center,
            },
            size,
            rotation: first.map_or(RotationPolicy::Display, |first| first.rotation),
            order: first.map_or(FrameOrder::Display, |first| first.order),
            color: ColorPolicy::default(),
            normalization: Normalization::CLIP,
            from: 0,
        };
        spec.validate().map_err(|error| match error {
            video::Error::InvalidRequest { problem, .. } => invalid("windows.stride_time", problem),
            other @ (video::Error::Rejected(_)
            | video::Error::QueueFull
            | video::Error::IndexOutOfRange { .. }
            | video::Error::WindowOutOfRange { .. }
            | video::Error::PicturesTooLarge { .. }
            | video::Error::Interrupted
            | video::Error::Spawn { .. }
            | video::Error::System { .. }
            | video::Error::Unconfined { .. }
            | video::Error::NoContainer
            | video::Error::Stopped) => invalid("windows", other.to_string()),
        })?;
        let bytes = bytes(&spec)?;
        let views = spec.values_per_frame() / (3 * usize::from(size) * usize::from(size)).max(1);
        let token_bytes = tokens(&spec, kept.saturating_mul(views as u64)).unwrap_or(0);
        Ok(Self {
            bytes,
            token_bytes,
            segments: options.segments,
            groups,
            spec,
            failed,
        })
    }
}

/// The frames that windows of these shapes need.
fn slide(shapes: &[Shape], options: &WindowOptions) -> Result<Slide, WindowsInvalid> {
    let step = shapes.iter().map(|shape| shape.step).min();
    let step = step.unwrap_or(NonZeroU32::MIN);
    let stride = match options.stride {
        Some(WindowStride::Time(time)) => Stride::Time(time),
        Some(WindowStride::Steps(steps)) => Stride::Frames(step.saturating_mul(steps)),
        None => {
            let length = shapes
                .iter()
                .map(|shape| shape.frames * shape.step.get())
                .min();
            let half = length.unwrap_or(1) / 2;
            Stride::Frames(NonZeroU32::new(half).unwrap_or(NonZeroU32::MIN).max(step))
        }
    };
    if options.end.is_some_and(|end| end <= options.start) {
        return Err(invalid(
            "windows.end_time",
            "expected a time after start_time",
        ));
    }
    let offsets = shapes.iter().flat_map(|shape| {
        let step = shape.step.get();
        (0..shape.frames).map(move |frame| frame.saturating_mul(step))
    });
    let mut offsets: Vec<u32> = offsets.chain([0]).collect();
    offsets.sort_unstable();
    offsets.dedup();
    if offsets.len() > OFFSETS {
        let problem = format!(
            "their windows have frames at {} different places, at most {OFFSETS} are possible",
            offsets.len()
        );
        return Err(invalid("tasks", problem));
    }
    Ok(Slide {
        stride,
        offsets,
        start: options.start,
        after: options.after,
        end: options.end,
    })
}

/// Returns the most frames between the begin of a window and its end that windows need, and the most that a window needs beside those of the ones before.
fn frames(slide: &Slide) -> (u64, u64) {
    let reach = u64::from(slide.offsets.last().copied().unwrap_or(0));
    let count = slide.offsets.len() as u64;
    match slide.stride {
        Stride::Frames(stride) => {
            let stride = u64::from(stride.get());
            // Wanted frames are multiples of this apart; and no more windows reach into a span than begin in two of its length.
            let apart = slide.offsets.iter().map(|&offset| u64::from(offset));
            let apart = apart.fold(stride, gcd);
            let of_windows = count.saturating_mul(2 * (reach / stride) + 2);
            let most = of_windows.min(reach / apart + 1);
            (most, count.min(stride / apart))
        }
        Stride::Time(_) => (reach + 1, count),
    }
}

/// Returns the most bytes of the tokens that are kept of a stream's frames, of which each has `each`: those that it holds, and those of windows on their way.
/// None when no two windows have a frame in common, or nothing is kept.
fn tokens(spec: &FramesSpec, each: u64) -> Option<u64> {
    let slide = &spec.slide;
    let reach = slide.offsets.last().copied().unwrap_or(0);
    let is_shared = match slide.stride {
        Stride::Frames(stride) => stride.get() <= reach,
        Stride::Time(_) => reach > 0,
    };
    let (most, new) = frames(slide);
    let frames = most.saturating_add(new.saturating_mul(RUNNING as u64));
    (is_shared && each > 0).then(|| frames.saturating_mul(each))
}

/// Returns the most bytes that a stream holds: the frames between the begin of a window and its end, a part that has come and one that is on its way.
fn bytes(spec: &FramesSpec) -> Result<u64, WindowsInvalid> {
    let reach = u64::from(spec.slide.offsets.last().copied().unwrap_or(0));
    let (most, _) = frames(&spec.slide);
    let frame = (spec.values_per_frame() * size_of::<f32>()) as u64;
    let frames = most + 2 * spec.frames_per_part() as u64;
    let bytes = frames.saturating_mul(frame);
    if bytes > STREAM_BYTES {
        let problem = format!(
            "windows that reach over {} frames hold up to {bytes} bytes of pictures, at most {STREAM_BYTES} are possible; \
             a stride in frame steps, or a smaller frame_step, holds fewer",
            reach + 1
        );
        return Err(invalid("windows.frame_step", problem));
    }
    Ok(bytes)
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shape(frames: u32, step: u32) -> Shape {
        Shape {
            frames,
            step: NonZeroU32::new(step).unwrap(),
            spatial: SpatialViews::Center,
        }
    }

    fn options(stride: Option<WindowStride>) -> WindowOptions {
        WindowOptions {
            frame_step: None,
            stride,
            start: Duration::ZERO,
            end: None,
            after: None,
            segments: SegmentOptions {
                enter: 0.5,
                leave: 0.4,
                min_duration: Duration::ZERO,
                count: 10,
            },
        }
    }

    fn steps(steps: u32) -> Option<WindowStride> {
        Some(WindowStride::Steps(NonZeroU32::new(steps).unwrap()))
    }

    fn frames(count: u32) -> Stride {
        Stride::Frames(NonZeroU32::new(count).unwrap())
    }

    /// The frames of windows of a video.
    fn spec(shapes: &[Shape], stride: Option<WindowStride>) -> Result<FramesSpec, WindowsInvalid> {
        Ok(FramesSpec {
            slide: slide(shapes, &options(stride))?,
            views: Views::Center,
            size: 224,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::default(),
            normalization: Normalization::CLIP,
            from: 0,
        })
    }

    /// Frames that a stream holds beside two parts.
    fn held(shapes: &[Shape], stride: Option<WindowStride>) -> Result<u64, WindowsInvalid> {
        let spec = spec(shapes, stride)?;
        let frame = spec.values_per_frame() as u64 * 4;
        Ok(bytes(&spec)? / frame - 2 * spec.frames_per_part() as u64)
    }

    #[test]
    fn windows_of_all_tasks_begin_at_the_same_frames() {
        let both = [shape(8, 4), shape(16, 2)];
        let found = slide(&both, &options(steps(3))).unwrap();
        assert_eq!(found.stride, frames(6));
        assert_eq!(found.offsets[..5], [0, 2, 4, 6, 8]);
        assert_eq!(found.offsets.len(), 16);
        // Half of 32 frames.
        assert_eq!(slide(&both, &options(None)).unwrap().stride, frames(16));
        assert_eq!(
            slide(&[shape(1, 1)], &options(None)).unwrap().stride,
            frames(1)
        );
        let time = Duration::from_secs(2);
        let timed = slide(&both, &options(Some(WindowStride::Time(time))));
        assert_eq!(timed.unwrap().stride, Stride::Time(time));
    }

    #[test]
    fn tokens_are_kept_where_windows_have_frames_in_common() {
        let kept = |shapes: &[Shape], stride, each| tokens(&spec(shapes, stride).unwrap(), each);
        // Eight frames, and one more for each window on its way.
        assert_eq!(kept(&[shape(8, 4)], steps(1), 10), Some(10 * (8 + 32)));
        assert_eq!(kept(&[shape(8, 4)], steps(7), 10), Some(10 * (8 + 32 * 7)));
        assert_eq!(kept(&[shape(8, 4)], steps(8), 10), None);
        assert_eq!(kept(&[shape(1, 1)], steps(1), 10), None);
        assert_eq!(kept(&[shape(8, 4)], steps(1), 0), None);
        let second = Some(WindowStride::Time(Duration::from_secs(1)));
        assert_eq!(kept(&[shape(8, 4)], second, 1), Some(29 + 32 * 8));
    }

    #[test]
    fn what_a_stream_holds_is_known_before_and_bounded() {
        assert_eq!(held(&[shape(8, 4)], steps(1)), Ok(8));
        assert_eq!(held(&[shape(8, 30)], steps(1)), Ok(8));
        // Frames of windows that begin everywhere are needed everywhere.
        let second = Some(WindowStride::Time(Duration::from_secs(1)));
        assert_eq!(held(&[shape(8, 4)], second), Ok(29));
        let too_long = held(&[shape(64, 30)], second).unwrap_err();
        assert_eq!(too_long.field, "windows.frame_step");
        let many: Vec<Shape> = (1..=32).map(|step| shape(64, step * 2 + 1)).collect();
        assert_eq!(held(&many, steps(1)).unwrap_err().field, "tasks");
    }
}
