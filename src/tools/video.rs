//! `frameshift video`: what the server sees of a video file, through the same confined worker.
//!
//! Invariant: no container or codec code runs in this process either.

mod sheet;
mod timing;

use std::fs::{self, File};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::ids::TenantId;
use crate::spec::RotationPolicy;
use crate::tools::show;
use crate::video::sampling::time_stamp;
use crate::video::{
    self, ColorPolicy, Decoder, Input, Lane, Picture, PictureSpec, Probe, Ratio, Sampling, Windows,
};

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
    Probe {
        /// The video
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Draws the sampled frames side by side in a PNG file and lists them as JSON
    Frames(Frames),
    /// Reads lines `frames|clip|dense|views|pair|single FILE` and prints each one's milliseconds, for benchmarks
    #[command(hide = true)]
    Time {
        /// Without Landlock and seccomp, to see what they cost
        #[arg(long)]
        unconfined: bool,
    },
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
    /// These frames
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', group = "sampling")]
    pub indices: Option<Vec<u32>>,
    /// As stored, without the container's rotation
    #[arg(long)]
    pub stored: bool,
    /// Colours as the video's tags say, instead of as the reference takes them
    #[arg(long)]
    pub tagged: bool,
    /// Longest side of a frame in the sheet, in pixels
    #[arg(long, value_name = "PIXELS", default_value = "256", value_parser = clap::value_parser!(u16).range(16..=2048))]
    pub side: u16,
    /// Frames in a row; by default as many as in a column
    #[arg(long, value_name = "N")]
    pub columns: Option<NonZeroU16>,
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

/// Why there is nothing to show. A message names its cause, so that a cause is no source as well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The video cannot be opened.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The video.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// The video is refused, or the request does not fit it.
    #[error("{}: {reason}", path.display())]
    Video {
        /// The video.
        path: PathBuf,
        /// Why.
        reason: video::Error,
    },
    /// No decoding process can be had.
    #[error("cannot decode: {0}")]
    Start(video::Error),
    /// The sheet cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The sheet.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// The sheet cannot be made.
    #[error(transparent)]
    Png(#[from] png::EncodingError),
    /// The answer cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Standard input or output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line of `time` is none.
    #[error("expected `frames|clip|dense|views|pair|single FILE`, got {0:?}")]
    Line(String),
}

impl Error {
    /// What the process ends with: sysexits.h's numbers, as the other commands use them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Video { reason, .. } => match reason {
                video::Error::Rejected(_)
                | video::Error::IndexOutOfRange { .. }
                | video::Error::WindowOutOfRange { .. }
                | video::Error::PicturesTooLarge { .. } => 65,
                video::Error::InvalidRequest { .. } => 64,
                video::Error::QueueFull
                | video::Error::Interrupted
                | video::Error::Spawn { .. }
                | video::Error::System { .. }
                | video::Error::Unconfined { .. }
                | video::Error::NoContainer
                | video::Error::Stopped => 70,
            },
            Self::Read { .. } => 66,
            Self::Line(_) => 64,
            Self::Write { .. } | Self::Png(_) | Self::Json(_) | Self::Io(_) => 1,
            Self::Start(_) => 70,
        }
    }
}

/// A video as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Facts {
    container: &'static str,
    codec: &'static str,
    /// Of the stored pictures.
    width: u32,
    height: u32,
    /// As players show it.
    display_width: u32,
    display_height: u32,
    rotation: u32,
    frames: u32,
    duration_seconds: f64,
    frames_per_second: f64,
    time_base: String,
    first_pts: i64,
    sample_aspect_ratio: String,
    streams: u16,
    warnings: Vec<&'static str>,
}

impl From<&Probe> for Facts {
    fn from(probe: &Probe) -> Self {
        let ratio = |ratio: Ratio| format!("{}/{}", ratio.numerator, ratio.denominator);
        let (display_width, display_height) = probe.picture_size(RotationPolicy::Display);
        Self {
            container: probe.container.name(),
            codec: probe.codec.name(),
            width: probe.width,
            height: probe.height,
            display_width,
            display_height,
            rotation: probe.rotation.degrees(),
            frames: probe.frames,
            duration_seconds: probe.duration.as_secs_f64(),
            frames_per_second: probe.rate.value(),
            time_base: ratio(probe.time_base),
            first_pts: probe.first_pts,
            sample_aspect_ratio: ratio(probe.sar),
            streams: probe.streams,
            warnings: probe
                .warnings
                .iter()
                .map(|warning| warning.name())
                .collect(),
        }
    }
}

/// Sampled frames as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Sampled {
    sheet: PathBuf,
    frames: Vec<Sample>,
    video: Facts,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Sample {
    index: u32,
    /// None of a frame without a time stamp.
    pts: Option<i64>,
    /// After the first frame.
    seconds: Option<f64>,
    width: u32,
    height: u32,
}

impl Sample {
    /// Time stamps count from `first_pts` in units of `unit` seconds.
    fn new((index, pts): (u32, i64), (first_pts, unit): (i64, f64), picture: &Picture) -> Self {
        let pts = time_stamp(pts);
        Self {
            index,
            pts,
            seconds: pts.map(|pts| pts.saturating_sub(first_pts) as f64 * unit),
            width: picture.width,
            height: picture.height,
        }
    }
}

/// The tenant of a video that no client brought.
fn local() -> TenantId {
    TenantId::anonymous()
}

fn input(path: &Path) -> Result<Input, Error> {
    let file = File::open(path).map_err(|reason| Error::Read {
        path: path.to_owned(),
        reason,
    })?;
    Ok(Input::File(Arc::new(file)))
}

/// Runs the command; `program` is this program's own file, which decodes.
///
/// # Errors
/// When the file cannot be read, is refused, or the answer cannot be written.
pub async fn run(args: &Args, program: PathBuf) -> Result<(), Error> {
    let mut config = video::Config::new(program);
    if matches!(args.command, Command::Time { unconfined: true }) {
        config.layers = video::Layers::PLAIN;
    }
    let decoder = Decoder::start(config).await.map_err(Error::Start)?;
    match &args.command {
        Command::Probe { file } => probe(&decoder, file).await,
        Command::Frames(frames) => draw(&decoder, frames).await,
        Command::Time { .. } => timing::run(&decoder).await,
    }
}

fn refused(path: &Path) -> impl FnOnce(video::Error) -> Error {
    move |reason| Error::Video {
        path: path.to_owned(),
        reason,
    }
}

async fn probe(decoder: &Decoder, path: &Path) -> Result<(), Error> {
    let tenant = local();
    let probe = decoder.probe(&tenant, Lane::Interactive, input(path)?);
    let probe = probe.await.map_err(refused(path))?;
    show(serde_json::to_string_pretty(&Facts::from(&probe))?);
    Ok(())
}

impl Frames {
    fn spec(&self) -> PictureSpec {
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
            color: if self.tagged {
                ColorPolicy::Tagged
            } else {
                ColorPolicy::Reference
            },
            bytes: ROOM,
        }
    }
}

async fn draw(decoder: &Decoder, args: &Frames) -> Result<(), Error> {
    let path = &args.file;
    let came = decoder
        .pictures(&local(), Lane::Interactive, input(path)?, args.spec())
        .await
        .map_err(refused(path))?;
    let png = sheet::png(&came.pictures, args.side.into(), args.columns)?;
    fs::write(&args.out, png).map_err(|reason| Error::Write {
        path: args.out.clone(),
        reason,
    })?;
    let places = came.indices.iter().zip(&came.pts).zip(&came.pictures);
    let clock = (came.probe.first_pts, came.probe.time_base.value());
    let frames = places.map(|((&index, &pts), picture)| Sample::new((index, pts), clock, picture));
    let sampled = Sampled {
        sheet: args.out.clone(),
        frames: frames.collect(),
        video: Facts::from(&came.probe),
    };
    show(serde_json::to_string_pretty(&sampled)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_without_a_time_stamp_has_no_time() {
        let picture = Picture {
            width: 4,
            height: 3,
            rgb: vec![0; 36],
        };
        let sample = |pts| Sample::new((7, pts), (100, 0.5), &picture);
        assert_eq!(sample(104).seconds, Some(2.0));
        let lost = serde_json::to_value(sample(i64::MIN)).unwrap();
        assert!(lost["pts"].is_null() && lost["seconds"].is_null(), "{lost}");
        assert_eq!(lost["index"], 7);
    }
}
