//! The arguments of `frameshift video`.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use crate::spec::{FrameOrder, RotationPolicy};
use crate::video::{ColorPolicy, Limits, PictureSpec, Ratio, Sampling, Windows};

/// Room for the pictures of a contact sheet.
const ROOM: u32 = 256 << 20;
/// Decimal places of a frame rate given on the command line.
const RATE_UNIT: i32 = 1000;

/// Arguments of `frameshift video`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with a video.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Shows as JSON what a server sees in a video, or why it refuses it
    Probe(ProbeArgs),
    /// Draws the sampled frames side by side in a PNG file and lists them as JSON
    Frames(Frames),
    /// Starts a decoding process as a server does, and lists as JSON the layers that confine it here
    Sandbox,
    /// Reads lines `frames|clip|dense|views|pair|single FILE` and prints each one's milliseconds, for benchmarks
    #[command(hide = true)]
    Time {
        /// Without Landlock and seccomp, to see what they cost
        #[arg(long)]
        unconfined: bool,
    },
}

/// The order in which frames are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As players show them; no frame is left out
    Display,
    /// As the reference counts them: sorted by time stamps, one frame for each
    Reference,
}

impl From<Order> for FrameOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Display => Self::Display,
            Order::Reference => Self::Reference,
        }
    }
}

/// Arguments of `frameshift video probe`.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// The video
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The order in which frames are counted
    #[arg(long, value_enum, default_value = "display")]
    pub order: Order,
    /// Limits that differ from the server's defaults
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Arguments of `frameshift video frames`.
#[derive(Debug, Clone, clap::Args)]
pub struct Frames {
    /// The video
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The PNG file to write
    #[arg(long, short, value_name = "PNG", default_value = "frames.png")]
    pub out: PathBuf,
    /// Frames of the clip
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=640))]
    pub num_frames: u16,
    /// Every so many frames, around the middle, instead of spread over the video
    #[arg(long, value_name = "N", group = "sampling")]
    pub sampling_rate: Option<NonZeroU32>,
    /// So many frames a second, around the middle
    #[arg(long, value_name = "RATE", group = "sampling", value_parser = rate)]
    pub fps: Option<Ratio>,
    /// Spread over one of the windows of so many seconds into which the video is cut
    #[arg(long, value_name = "SECONDS", group = "sampling", value_parser = seconds)]
    pub window: Option<Duration>,
    /// Which of them, from 0
    #[arg(long, value_name = "N", default_value = "0", requires = "window")]
    pub window_index: u32,
    /// Numbers of the frames
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', group = "sampling")]
    pub indices: Option<Vec<u32>>,
    /// As stored, without the container's rotation
    #[arg(long)]
    pub stored: bool,
    /// The order in which frames are counted
    #[arg(long, value_enum, default_value = "display")]
    pub order: Order,
    /// Colours as the video's tags say, instead of as the reference takes them
    #[arg(long)]
    pub tagged: bool,
    /// Longest side of a frame in the sheet, in pixels
    #[arg(long, value_name = "PIXELS", default_value = "256", value_parser = clap::value_parser!(u16).range(16..=2048))]
    pub side: u16,
    /// Frames in a row; by default as many as in a column
    #[arg(long, value_name = "N")]
    pub columns: Option<NonZeroU16>,
    /// Limits that differ from the server's defaults
    #[command(flatten)]
    pub limits: LimitArgs,
}

fn rate(text: &str) -> Result<Ratio, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if !(0.001..=1000.0).contains(&rate) {
        return Err("expected 0.001 to 1000".to_owned());
    }
    Ok(Ratio {
        numerator: (rate * f64::from(RATE_UNIT)).round() as i32,
        denominator: RATE_UNIT,
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Limits that differ from the server's defaults, under the names of its configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LimitArgs {
    /// Largest number of frames
    #[arg(long, value_name = "N")]
    pub video_frames: Option<NonZeroU32>,
    /// Largest number of packets of the video stream
    #[arg(long, value_name = "N")]
    pub video_packets: Option<NonZeroU32>,
    /// Largest number of pixels of a picture
    #[arg(long, value_name = "N")]
    pub video_pixels: Option<NonZeroU32>,
    /// Largest number of streams of all kinds
    #[arg(long, value_name = "N")]
    pub video_streams: Option<NonZeroU16>,
    /// Longest time from the first to the last frame, for example 3h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub video_duration: Option<Duration>,
}

impl LimitArgs {
    /// Puts the given limits in the place of others.
    pub(super) fn apply(&self, limits: &mut Limits) {
        let or = |given: Option<NonZeroU32>, limit: u32| given.map_or(limit, NonZeroU32::get);
        limits.frames = or(self.video_frames, limits.frames);
        limits.packets = or(self.video_packets, limits.packets);
        limits.pixels = or(self.video_pixels, limits.pixels);
        limits.streams = (self.video_streams).map_or(limits.streams, NonZeroU16::get);
        limits.duration = self.video_duration.unwrap_or(limits.duration);
    }
}

impl Frames {
    /// The frames that are asked for.
    pub(super) fn spec(&self) -> PictureSpec {
        let frames = match &self.indices {
            Some(indices) => u16::try_from(indices.len()).unwrap_or(u16::MAX),
            None => self.num_frames,
        };
        let sampling = if let Some(indices) = &self.indices {
            Sampling::Indices(indices.clone())
        } else if let Some(rate) = self.sampling_rate {
            Sampling::Strided(rate)
        } else if let Some(fps) = self.fps {
            Sampling::Fps(fps)
        } else if let Some(length) = self.window {
            Sampling::Windows(Windows {
                length,
                stride: length,
                first: self.window_index,
            })
        } else {
            Sampling::Uniform
        };
        PictureSpec {
            frames: NonZeroU16::new(frames).unwrap_or(NonZeroU16::MIN),
            sampling,
            rotation: if self.stored {
                RotationPolicy::Stored
            } else {
                RotationPolicy::Display
            },
            order: self.order.into(),
            color: if self.tagged {
                ColorPolicy::Tagged
            } else {
                ColorPolicy::Reference
            },
            bytes: ROOM,
        }
    }
}
