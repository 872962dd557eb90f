//! Frames of a video of any length, in order and part by part: what windows that slide over it are made of.
//!
//! Invariant: the video is decoded from front to back once, and no further than its reader asks for; what is held at a time does not depend on its length.

mod steps;

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;
use std::time::Duration;

use self::steps::invalid;
pub use self::steps::{Steps, Stride};
use super::answer::{Probe, Ratio};
use super::request::{ClipSpec, ColorPolicy, Lane, MAX_SELECTED, Sampling, Views};
use super::sampling::{known, time_since};
use super::worker::{Pixels, Pool, Work};
use super::{Error, Input};
use crate::ids::TenantId;
use crate::spec::{FrameOrder, Normalization, RotationPolicy};

/// Bytes of the planes of one part: enough frames that passing them on costs little, and few beside what a window holds.
const PART_BYTES: usize = 8 << 20;
/// Most frames of one part, so that the first windows of small frames come early.
const PART_FRAMES: usize = 32;

/// The frames that windows need: window after window, `stride` apart, each with the frames at `offsets` from its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slide {
    /// Distance from the first frame of a window to that of the next.
    pub stride: Stride,
    /// Numbers of frames from the first frame of a window to each that is wanted: ascending from 0.
    pub offsets: Vec<u32>,
    /// The first window begins with the first frame at or after this time; times count from the first frame of the video.
    pub start: Duration,
    /// Windows that begin at or before this time are left out.
    pub after: Option<Duration>,
    /// Frames at and after this time count as missing.
    pub end: Option<Duration>,
}

impl Slide {
    /// Returns the wanted ones of frames with these ascending time stamps, ascending. When the first window does not fit, the last frame is among them.
    pub(super) fn wanted(&self, pts: &[i64], time_base: Ratio) -> Vec<u32> {
        let first = known(pts).first().copied().unwrap_or(0);
        let time = |pts: i64| time_since(pts, first, time_base);
        let count = match self.end {
            Some(end) => pts.partition_point(|&pts| time(pts) < end),
            None => pts.len(),
        };
        let mut is_wanted = vec![false; count];
        let mut steps = Steps::new(self.stride, self.start);
        let mut begin = None;
        for (index, &pts) in pts[..count].iter().enumerate() {
            let time = time(pts);
            // A video has fewer frames than 32 bits count.
            if !steps.begins(index as u32, time) || self.after.is_some_and(|after| time <= after) {
                continue;
            }
            begin.get_or_insert(index);
            for &offset in &self.offsets {
                if let Some(is_wanted) = is_wanted.get_mut(index + offset as usize) {
                    *is_wanted = true;
                }
            }
        }
        let reach = self.offsets.last().map_or(0, |&last| last as usize);
        if let (Some(begin), Some(last)) = (begin, is_wanted.last_mut()) {
            *last |= begin + reach >= count;
        }
        let numbered = is_wanted.into_iter().enumerate();
        let wanted = numbered.filter_map(|(index, is_wanted)| is_wanted.then_some(index as u32));
        wanted.collect()
    }

    fn validate(&self) -> Result<(), Error> {
        let offsets = &self.offsets;
        if offsets.first() != Some(&0) || !offsets.is_sorted_by(|one, next| one < next) {
            return Err(invalid("offsets", "expected numbers that ascend from 0"));
        }
        if offsets.len() > MAX_SELECTED {
            let problem = format!("expected at most {MAX_SELECTED}, got {}", offsets.len());
            return Err(invalid("offsets", problem));
        }
        self.stride.validate()
    }
}

/// Frames to take from a video, each as normalised planes of every view.
#[derive(Debug, Clone, PartialEq)]
pub struct FramesSpec {
    /// The frames that are wanted.
    pub slide: Slide,
    /// Views of a frame: those along its sides, not rectangles.
    pub views: Views,
    /// Side of a view in pixels (S).
    pub size: u16,
    /// Whether the container's rotation is applied.
    pub rotation: RotationPolicy,
    /// The order in which frames are counted.
    pub order: FrameOrder,
    /// Whether the video's colour tags are followed.
    pub color: ColorPolicy,
    /// Mean and deviation of the channels.
    pub normalization: Normalization,
    /// Frames before this number are not wanted any more.
    pub from: u32,
}

impl FramesSpec {
    /// Values of one view of a frame: 3 × S × S.
    pub fn values_per_view(&self) -> usize {
        3 * usize::from(self.size) * usize::from(self.size)
    }

    /// Values of one frame in all views.
    pub fn values_per_frame(&self) -> usize {
        self.views.count() * self.values_per_view()
    }

    /// Most frames of a part; all parts but the last have exactly this many.
    pub fn frames_per_part(&self) -> usize {
        (PART_BYTES / (4 * self.values_per_frame()).max(1)).clamp(1, PART_FRAMES)
    }

    /// Values of a part.
    pub(super) fn values(&self) -> usize {
        self.frames_per_part() * self.values_per_frame()
    }

    /// The same pictures as a clip of one frame.
    pub(super) fn as_clip(&self) -> ClipSpec {
        ClipSpec {
            frames: NonZeroU16::MIN,
            sampling: Sampling::Uniform,
            temporal_views: NonZeroU8::MIN,
            views: self.views.clone(),
            size: self.size,
            rotation: self.rotation,
            order: self.order,
            color: self.color,
            normalization: self.normalization,
            alters: Vec::new(),
        }
    }

    /// Checks that the request is in range.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] names the first field that is not.
    pub fn validate(&self) -> Result<(), Error> {
        if matches!(self.views, Views::Rects(_)) {
            return Err(invalid("views", "rectangles are for clips"));
        }
        self.as_clip().validate()?;
        self.slide.validate()
    }
}

/// A frame of a video.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Index of the frame among the shown frames.
    pub index: u32,
    /// Time of the frame since the first frame of the video.
    pub time: Duration,
    /// Normalised planes `[3, S, S]` of each view.
    pub views: Vec<Arc<[f32]>>,
}

/// Neighbours among the wanted frames of a video.
#[derive(Debug, Clone)]
pub struct Part {
    /// The frames, ascending.
    pub frames: Vec<Frame>,
    /// What the video is.
    pub probe: Probe,
}

/// The wanted frames of a video, to be read part by part. Between two parts nothing is decoded. Dropping it ends the decoding.
pub struct Frames {
    pool: Arc<Pool>,
    tenant: TenantId,
    lane: Lane,
    input: Input,
    spec: FramesSpec,
    /// What the worker that is in the middle of the video is kept under.
    ticket: u64,
    has_ended: bool,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames")
            .field("tenant", &self.tenant)
            .field("from", &self.spec.from)
            .finish_non_exhaustive()
    }
}

impl Frames {
    pub(super) fn new(
        pool: Arc<Pool>,
        (tenant, lane): (&TenantId, Lane),
        input: Input,
        spec: FramesSpec,
    ) -> Self {
        Self {
            ticket: pool.ticket(),
            pool,
            tenant: tenant.clone(),
            lane,
            input,
            spec,
            has_ended: false,
        }
    }

    /// Decodes the next part; `None` after the last. A worker that was lost is replaced by one that goes on where it was. Dropping the future
    /// ends the frames, as every error but [`Error::QueueFull`] does.
    ///
    /// # Errors
    /// As [`super::Decoder::clip`].
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(None);
        }
        let caller = (&self.tenant, self.lane);
        let work = Work::Frames(Box::new(self.spec.clone()));
        let ticket = Some(self.ticket);
        let answer = (self.pool.decode(caller, self.input.clone(), work, ticket)).await;
        // Nothing was begun.
        self.has_ended = !matches!(answer, Err(Error::QueueFull));
        let answer = answer?;
        let Pixels::Planes(planes) = answer.pixels else {
            return Err(Error::Interrupted);
        };
        let views = self.spec.views.count();
        let probe = answer.probe.ok_or(Error::Interrupted)?;
        let frames = std::iter::zip(answer.indices, answer.pts).zip(planes.chunks(views));
        let frames: Vec<Frame> = frames
            .map(|((index, pts), views)| Frame {
                index,
                time: probe.time_of(pts),
                views: views.to_vec(),
            })
            .collect();
        if let Some(last) = frames.last() {
            self.spec.from = last.index.saturating_add(1);
        }
        self.has_ended = !answer.goes_on;
        Ok(Some(Part { frames, probe }))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.pool.forget(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const MILLISECONDS: Ratio = Ratio {
        numerator: 1,
        denominator: 1000,
    };

    fn slide(stride: Stride, offsets: &[u32]) -> Slide {
        Slide {
            stride,
            offsets: offsets.to_vec(),
            start: Duration::ZERO,
            after: None,
            end: None,
        }
    }

    fn frames(count: u32) -> Stride {
        Stride::Frames(NonZeroU32::new(count).unwrap())
    }

    /// Frames 40 ms apart, the first at 7 ms.
    fn pts(count: i64) -> Vec<i64> {
        (0..count).map(|frame| 7 + frame * 40).collect()
    }

    #[test]
    fn wanted_are_the_frames_of_the_windows_and_no_others() {
        let wanted = |slide: &Slide, count| slide.wanted(&pts(count), MILLISECONDS);
        assert_eq!(wanted(&slide(frames(1), &[0, 2]), 4), [0, 1, 2, 3]);
        assert_eq!(wanted(&slide(frames(4), &[0, 2]), 9), [0, 2, 4, 6, 8]);
        let sparse = slide(frames(10), &[0, 1, 3]);
        assert_eq!(wanted(&sparse, 24), [0, 1, 3, 10, 11, 13, 20, 21, 23]);
        let timed = slide(Stride::Time(Duration::from_millis(100)), &[0]);
        // Windows begin with the first frame at or after 0, 100, 200, 300 ms.
        assert_eq!(wanted(&timed, 10), [0, 3, 5, 8]);
    }

    #[test]
    fn a_video_that_is_shorter_than_a_window_ends_with_its_last_frame() {
        let wanted = |slide: &Slide, count| slide.wanted(&pts(count), MILLISECONDS);
        assert_eq!(wanted(&slide(frames(100), &[0, 4, 8]), 7), [0, 4, 6]);
        assert_eq!(wanted(&slide(frames(100), &[0, 4, 8]), 9), [0, 4, 8]);
        assert!(wanted(&slide(frames(1), &[0]), 0).is_empty());
    }

    #[test]
    fn windows_keep_their_places_when_a_stream_goes_on() {
        let mut slide = slide(frames(3), &[0, 1]);
        slide.start = Duration::from_millis(50);
        let all = slide.wanted(&pts(12), MILLISECONDS);
        assert_eq!(all, [2, 3, 5, 6, 8, 9, 11]);
        // Frame 5 is shown at 200 ms.
        slide.after = Some(Duration::from_millis(200));
        assert_eq!(slide.wanted(&pts(12), MILLISECONDS), [8, 9, 11]);
        slide.end = Some(Duration::from_millis(360));
        assert_eq!(slide.wanted(&pts(12), MILLISECONDS), [8]);
        slide.after = Some(Duration::from_secs(9));
        assert!(slide.wanted(&pts(12), MILLISECONDS).is_empty());
    }

    #[test]
    fn requests_out_of_range_are_refused() {
        let spec = |offsets: &[u32], stride| FramesSpec {
            slide: slide(stride, offsets),
            views: Views::Three,
            size: 224,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
            from: 0,
        };
        assert!(spec(&[0, 4], frames(1)).validate().is_ok());
        assert_eq!(spec(&[0], frames(1)).frames_per_part(), 4);
        let many: Vec<u32> = (0..=MAX_SELECTED as u32).collect();
        for (offsets, stride, field) in [
            (&[1, 2][..], frames(1), "offsets"),
            (&[0, 2, 2], frames(1), "offsets"),
            (&[], frames(1), "offsets"),
            (&many, frames(1), "offsets"),
            (&[0], Stride::Time(Duration::ZERO), "stride"),
        ] {
            let refused = spec(offsets, stride).validate();
            assert!(
                matches!(&refused, Err(Error::InvalidRequest { field: own, .. }) if *own == field),
                "{refused:?}"
            );
        }
    }
}
