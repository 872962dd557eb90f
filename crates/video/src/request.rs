//! What can be asked of a video: clips, pictures, and within which limits. Plain values that say whether they are in range.

mod views;

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::Error;
use super::alter::Alter;
use super::answer::{Containers, Ratio};
use crate::spec::{self, ClipSampling, FrameOrder, Normalization, RotationPolicy};

pub use views::{Rect, Views};

/// Frames that one request may select, over all its temporal views.
pub const MAX_SELECTED: usize = 640;
/// Spatial views of one request.
pub const MAX_VIEWS: usize = 16;
/// Changes of the pictures of one request.
pub(super) const MAX_ALTERS: usize = 16;

/// Values of one answer: the worker's planes share its address space with the codec.
const MAX_VALUES: usize = spec::MAX_CLIP_VALUES;
/// Room for pictures, for the same reason.
const MAX_PICTURE_BYTES: u32 = 256 << 20;

/// Most frames a second that can be asked for.
const MAX_FPS: f64 = 1000.0;
/// Shortest window, and shortest step to the next one.
const MIN_WINDOW: Duration = Duration::from_millis(1);
const MAX_WINDOW: Duration = Duration::from_secs(3600);

/// Who waits for the answer: interactive requests go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A caller waits.
    Interactive,
    /// Training and evaluation.
    Batch,
}

/// The frames that are taken from a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sampling {
    /// Frames spread over the whole video.
    Uniform,
    /// One frame in every this many, around the middle of the video.
    Strided(NonZeroU32),
    /// Some of the temporal views that [`Sampling::Strided`] takes: what is too large for one answer is asked for in groups.
    StridedPart(StridedPart),
    /// This many frames a second, around the middle: what [`Sampling::Strided`] does for videos of one rate, for videos of any. Each moment shows the frame that a
    /// player would show then.
    Fps(Ratio),
    /// A temporal view for each window of a long video, with frames spread over the window.
    Windows(Windows),
    /// The frames with these indices, in this order: temporal views one after the other.
    Indices(Vec<u32>),
}

/// Neighbours among the temporal views of a strided selection; the request's temporal views say how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StridedPart {
    /// Frames from one chosen frame to the next.
    pub rate: NonZeroU32,
    /// Temporal views of the whole selection.
    pub of: NonZeroU8,
    /// Number of the first wanted one, from 0.
    pub first: u8,
}

/// Windows that slide over a video; they are numbered from 0, and number k begins k strides after the first frame.
///
/// A window in which no frame begins shows the one that a player shows at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Length of a window.
    pub length: Duration,
    /// Time from the start of a window to the start of the next.
    pub stride: Duration,
    /// Number of the first window that is wanted; the request's temporal views say how many follow.
    pub first: u32,
}

impl From<spec::Sampling> for Sampling {
    fn from(sampling: spec::Sampling) -> Self {
        match sampling {
            spec::Sampling::Uniform => Self::Uniform,
            spec::Sampling::Strided(rate) => Self::Strided(rate),
        }
    }
}

/// How colours become red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorPolicy {
    /// As the reference does, and as published checkpoints saw them: BT.601 with limited range whatever the video says of itself.
    #[default]
    Reference,
    /// As the video says: its matrix and its range; as the reference where it says nothing.
    Tagged,
}

/// A clip to take from a video.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipSpec {
    /// Frames per clip (T).
    pub frames: NonZeroU16,
    /// The frames that are taken from a video.
    pub sampling: Sampling,
    /// Temporal views; one only with uniform sampling.
    pub temporal_views: NonZeroU8,
    /// Spatial views.
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
    /// Changes of each whole picture before views are taken of it, in this order.
    pub alters: Vec<Alter>,
}

impl ClipSpec {
    /// What a task's classification takes, for a backbone of this image size and normalisation.
    pub fn of_task(sampling: &ClipSampling, size: u16, normalization: Normalization) -> Self {
        Self {
            frames: sampling.num_frames,
            sampling: sampling.sampling.into(),
            temporal_views: sampling.temporal_views,
            views: sampling.spatial_views.into(),
            size,
            rotation: sampling.rotation,
            order: sampling.order,
            color: ColorPolicy::default(),
            normalization,
            alters: Vec::new(),
        }
    }

    /// Frames that are selected, over all temporal views.
    pub fn selected(&self) -> usize {
        usize::from(self.frames.get()) * usize::from(self.temporal_views.get())
    }

    /// Views that come back: spatial × temporal.
    pub fn view_count(&self) -> usize {
        self.views.count() * usize::from(self.temporal_views.get())
    }

    /// Values of one view: 3 × T × S × S.
    pub fn values_per_view(&self) -> usize {
        3 * usize::from(self.frames.get()) * usize::from(self.size) * usize::from(self.size)
    }

    /// Values of all views.
    pub(super) fn values(&self) -> usize {
        self.view_count() * self.values_per_view()
    }

    /// The same views in as few requests as answers allow; their temporal views follow one another.
    pub fn groups(&self) -> Vec<Self> {
        self.divided(MAX_VALUES)
    }

    /// The same views in as few requests as possible, each with at most `values` values; their temporal views follow one another. A request that cannot be
    /// divided (one temporal view, or a sampling other than strided) stays whole.
    fn divided(&self, values: usize) -> Vec<Self> {
        let per_temporal = self.views.count() * self.values_per_view();
        let all = self.temporal_views.get();
        let Sampling::Strided(rate) = self.sampling else {
            return vec![self.clone()];
        };
        let most = (values / per_temporal.max(1)).clamp(1, all.into());
        if most >= usize::from(all) {
            return vec![self.clone()];
        }
        (0..all)
            .step_by(most)
            .filter_map(|first| {
                let rest = usize::from(all - first).min(most);
                let temporal_views = u8::try_from(rest).ok().and_then(NonZeroU8::new)?;
                let part = StridedPart {
                    rate,
                    of: self.temporal_views,
                    first,
                };
                Some(Self {
                    sampling: Sampling::StridedPart(part),
                    temporal_views,
                    ..self.clone()
                })
            })
            .collect()
    }

    /// Checks that the request is in range.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] names the first field that is not.
    pub fn validate(&self) -> Result<(), Error> {
        check_selection(&self.sampling, self.frames, self.temporal_views)?;
        if !(1..=MAX_VIEWS).contains(&self.views.count()) {
            return Err(invalid(
                "views",
                format!("expected 1 to {MAX_VIEWS}, got {}", self.views.count()),
            ));
        }
        if let Views::Rects(rects) = &self.views
            && let Some(rect) = rects
                .iter()
                .find(|rect| rect.width == 0 || rect.height == 0)
        {
            return Err(invalid("views", format!("{rect:?} is empty")));
        }
        if !(8..=1024).contains(&self.size) {
            return Err(invalid(
                "spatial_size",
                format!("expected 8 to 1024, got {}", self.size),
            ));
        }
        if self.values() > MAX_VALUES {
            return Err(invalid(
                "views",
                format!(
                    "expected at most {MAX_VALUES} values, got {}",
                    self.values()
                ),
            ));
        }
        let are_valid = self.alters.iter().all(Alter::is_valid);
        if self.alters.len() > MAX_ALTERS || !are_valid {
            return Err(invalid(
                "alters",
                format!(
                    "expected at most {MAX_ALTERS} in range, got {:?}",
                    self.alters
                ),
            ));
        }
        let Normalization { mean, std } = self.normalization;
        if mean.iter().any(|mean| !(-1.0..=2.0).contains(mean))
            || std.iter().any(|std| !(0.05..=8.0).contains(std))
        {
            return Err(invalid(
                "normalization",
                format!(
                    "expected means of -1 to 2 and deviations of 0.05 to 8, got {mean:?} and {std:?}"
                ),
            ));
        }
        Ok(())
    }
}

/// Whole pictures to take from a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureSpec {
    /// Number of pictures.
    pub frames: NonZeroU16,
    /// The choice of pictures.
    pub sampling: Sampling,
    /// Whether the container's rotation is applied.
    pub rotation: RotationPolicy,
    /// The order in which frames are counted.
    pub order: FrameOrder,
    /// Whether the video's colour tags are followed.
    pub color: ColorPolicy,
    /// Room for all pictures together, in bytes.
    pub bytes: u32,
}

impl PictureSpec {
    /// Checks that the request is in range.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] names the first field that is not.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=MAX_PICTURE_BYTES).contains(&self.bytes) {
            return Err(invalid(
                "bytes",
                format!("expected 1 to {MAX_PICTURE_BYTES}, got {}", self.bytes),
            ));
        }
        check_selection(&self.sampling, self.frames, NonZeroU8::MIN)
    }
}

fn check_selection(
    sampling: &Sampling,
    frames: NonZeroU16,
    temporal_views: NonZeroU8,
) -> Result<(), Error> {
    let selected = usize::from(frames.get()) * usize::from(temporal_views.get());
    if selected > MAX_SELECTED {
        return Err(invalid(
            "num_frames",
            format!("expected at most {MAX_SELECTED} over all temporal views, got {selected}"),
        ));
    }
    match sampling {
        Sampling::Uniform if temporal_views.get() > 1 => Err(invalid(
            "num_temporal_views",
            "uniform sampling has one temporal view".to_owned(),
        )),
        Sampling::Indices(indices) if indices.len() != selected => Err(invalid(
            "indices",
            format!("expected {selected}, got {}", indices.len()),
        )),
        Sampling::Fps(rate) if !(f64::MIN_POSITIVE..=MAX_FPS).contains(&rate.value()) => {
            Err(invalid(
                "fps",
                format!(
                    "expected more than 0 and at most {MAX_FPS}, got {}",
                    rate.value()
                ),
            ))
        }
        Sampling::Windows(windows) => check_windows(windows),
        Sampling::StridedPart(part)
            if u16::from(part.first) + u16::from(temporal_views.get())
                > u16::from(part.of.get()) =>
        {
            Err(invalid(
                "num_temporal_views",
                format!(
                    "expected {temporal_views} from {} on among {}",
                    part.first, part.of
                ),
            ))
        }
        Sampling::Uniform
        | Sampling::Strided(_)
        | Sampling::StridedPart(_)
        | Sampling::Fps(_)
        | Sampling::Indices(_) => Ok(()),
    }
}

fn check_windows(windows: &Windows) -> Result<(), Error> {
    let range = MIN_WINDOW..=MAX_WINDOW;
    let fields = [
        ("window_length", windows.length),
        ("window_stride", windows.stride),
    ];
    match fields.iter().find(|(_, value)| !range.contains(value)) {
        Some((field, value)) => Err(invalid(
            field,
            format!("expected {MIN_WINDOW:?} to {MAX_WINDOW:?}, got {value:?}"),
        )),
        None => Ok(()),
    }
}

fn invalid(field: &'static str, problem: String) -> Error {
    Error::InvalidRequest { field, problem }
}

/// What a video may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the container file.
    pub bytes: u64,
    /// Pixels of a picture.
    pub pixels: u32,
    /// Packets of the video stream.
    pub packets: u32,
    /// Shown frames.
    pub frames: u32,
    /// Streams of all kinds.
    pub streams: u16,
    /// From the first to the last frame, by time stamps.
    pub duration: Duration,
    /// Time for one request.
    pub wall: Duration,
    /// Processor time for one request.
    pub cpu: Duration,
    /// Address space of a worker in bytes.
    pub memory: u64,
    /// Containers that are accepted.
    pub containers: Containers,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            pixels: 4096 * 2304,
            packets: 400_000,
            frames: 216_000,
            streams: 16,
            duration: Duration::from_secs(3 * 3600),
            wall: Duration::from_secs(30),
            cpu: Duration::from_secs(20),
            memory: 1 << 30,
            containers: Containers::ALL,
        }
    }
}

impl Limits {
    /// What a long video may cost: several times the packets and frames of a short one.
    pub(super) fn of_long(mut self) -> Self {
        self.packets = self.packets.saturating_mul(5);
        self.frames = self.frames.saturating_mul(4);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(frames: u16, temporal: u8, size: u16) -> ClipSpec {
        ClipSpec {
            frames: NonZeroU16::new(frames).unwrap(),
            sampling: Sampling::Strided(NonZeroU32::MIN),
            temporal_views: NonZeroU8::new(temporal).unwrap(),
            views: Views::Three,
            size,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
            alters: Vec::new(),
        }
    }

    #[test]
    fn what_is_too_large_for_one_answer_comes_in_groups_that_fit() {
        for (frames, size, groups) in [(16, 224, 2), (8, 336, 2), (64, 224, 5), (8, 224, 1)] {
            let whole = spec(frames, 10, size);
            assert_eq!(whole.validate().is_err(), groups > 1);
            let parts = whole.groups();
            assert_eq!(parts.len(), groups, "{frames} frames of {size} px");
            let views: usize = parts.iter().map(ClipSpec::view_count).sum();
            assert_eq!(views, whole.view_count());
            assert!(parts.iter().all(|part| part.validate().is_ok()));
        }
    }

    #[test]
    fn what_cannot_be_divided_stays_whole() {
        let whole = spec(64, 1, 1024);
        assert_eq!(whole.divided(1), std::slice::from_ref(&whole));
        let uniform = ClipSpec {
            sampling: Sampling::Uniform,
            ..whole
        };
        assert_eq!(uniform.divided(1), std::slice::from_ref(&uniform));
    }

    #[test]
    fn a_part_beyond_its_whole_is_refused() {
        let mut part = spec(8, 4, 64);
        part.sampling = Sampling::StridedPart(StridedPart {
            rate: NonZeroU32::MIN,
            of: NonZeroU8::new(10).unwrap(),
            first: 7,
        });
        assert!(part.validate().is_err());
    }
}
