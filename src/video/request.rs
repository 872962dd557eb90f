//! What can be asked of a video: clips, pictures, and within which limits. Plain values that say whether they are in range.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::Error;
use super::answer::{Containers, Ratio};
use crate::spec::{self, ClipSampling, Normalization, RotationPolicy, SpatialViews};

/// Frames that one request may select, over all its temporal views.
pub const MAX_SELECTED: usize = 640;
/// Spatial views of one request.
pub const MAX_VIEWS: usize = 16;

/// Values of one answer: the worker's planes share its address space with the codec.
const MAX_VALUES: usize = 64 << 20;
/// Room for pictures, for the same reason.
const MAX_PICTURE_BYTES: u32 = 256 << 20;

/// Frames a second.
const MAX_FPS: f64 = 1000.0;
/// A window and the step to the next.
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

/// Which frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sampling {
    /// Spread over the whole video.
    Uniform,
    /// Every so many frames, around the middle.
    Strided(NonZeroU32),
    /// So many a second, around the middle: what [`Sampling::Strided`] does for videos of one rate, for videos of any. Each moment shows the frame that a
    /// player would show then.
    Fps(Ratio),
    /// A temporal view for each window of a long video, with frames spread over the window.
    Windows(Windows),
    /// These, in this order: temporal views one after the other.
    Indices(Vec<u32>),
}

/// Windows that slide over a video; they are numbered from 0, and number k begins k strides after the first frame.
///
/// A window in which no frame begins shows the one that a player shows at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How long each is.
    pub length: Duration,
    /// From the start of one to the start of the next.
    pub stride: Duration,
    /// Number of the first that is wanted; the request's temporal views say how many follow.
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

/// A part of a picture in pixels, after rotation. What lies outside the picture is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
    /// Whether it is mirrored left to right.
    pub flip: bool,
}

/// Which parts of the pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Views {
    /// The shorter side resized to the clip's size, then the centre.
    Center,
    /// Three along the longer side.
    Three,
    /// The four corners and the centre.
    Corners,
    /// These, each resized to the clip's size.
    Rects(Vec<Rect>),
}

impl Views {
    /// How many spatial views.
    pub fn count(&self) -> usize {
        match self {
            Self::Center => 1,
            Self::Three => 3,
            Self::Corners => 5,
            Self::Rects(rects) => rects.len(),
        }
    }
}

impl From<SpatialViews> for Views {
    fn from(views: SpatialViews) -> Self {
        match views {
            SpatialViews::Center => Self::Center,
            SpatialViews::Three => Self::Three,
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
    /// Which frames.
    pub sampling: Sampling,
    /// Temporal views; one only with uniform sampling.
    pub temporal_views: NonZeroU8,
    /// Spatial views.
    pub views: Views,
    /// Side of a view in pixels (S).
    pub size: u16,
    /// What to do with the container's rotation.
    pub rotation: RotationPolicy,
    /// What to do with the video's colour tags.
    pub color: ColorPolicy,
    /// Mean and deviation of the channels.
    pub normalization: Normalization,
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
            color: ColorPolicy::default(),
            normalization,
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
    /// How many.
    pub frames: NonZeroU16,
    /// Which.
    pub sampling: Sampling,
    /// What to do with the container's rotation.
    pub rotation: RotationPolicy,
    /// What to do with the video's colour tags.
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
        Sampling::Uniform | Sampling::Strided(_) | Sampling::Fps(_) | Sampling::Indices(_) => {
            Ok(())
        }
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
    /// Which containers.
    pub containers: Containers,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            pixels: 4096 * 2304,
            packets: 200_000,
            frames: 20_000,
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
    /// What a video may cost from which frames are taken this way: only windows are taken from long ones.
    pub(super) fn with(mut self, sampling: &Sampling) -> Self {
        /// A long video has so many times the packets and frames of a short one.
        const PACKETS: u32 = 10;
        const FRAMES: u32 = 25;
        if matches!(sampling, Sampling::Windows(_)) {
            self.packets = self.packets.saturating_mul(PACKETS);
            self.frames = self.frames.saturating_mul(FRAMES);
        }
        self
    }
}
