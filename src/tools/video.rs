//! `frameshift video`: what the server sees of a video file, through the same confined worker.
//!
//! Invariant: no container or codec code runs in this process either.

mod args;
mod sheet;
mod timing;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use serde::Serialize;

use crate::ids::TenantId;
use crate::spec::RotationPolicy;
use crate::tools::show;
use crate::video::sampling::time_stamp;
use crate::video::{self, Decoder, Input, Lane, Picture, Probe, Ratio};

pub use args::{Args, Command, Frames, LimitArgs, Order, ProbeArgs};

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
    rotation_degrees: u32,
    mirrored: bool,
    frames: u32,
    reference_frames: u32,
    duration_seconds: f64,
    frame_rate: f64,
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
            rotation_degrees: probe.rotation.degrees(),
            mirrored: probe.mirrored,
            frames: probe.frames,
            reference_frames: probe.reference_frames,
            duration_seconds: probe.duration.as_secs_f64(),
            frame_rate: probe.rate.value(),
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
pub fn run(args: &Args, program: PathBuf) -> LocalBoxFuture<'_, Result<(), Error>> {
    // Boxed, so that it is compiled with this crate alone.
    Box::pin(run_one(args, program))
}

async fn run_one(args: &Args, program: PathBuf) -> Result<(), Error> {
    let mut config = video::Config::new(program);
    if matches!(args.command, Command::Time { unconfined: true }) {
        config.layers = video::Layers::PLAIN;
    }
    match &args.command {
        Command::Probe(probe) => probe.limits.apply(&mut config.limits),
        Command::Frames(frames) => frames.limits.apply(&mut config.limits),
        Command::Sandbox | Command::Time { .. } => {}
    }
    let decoder = Decoder::start(config).await.map_err(Error::Start)?;
    match &args.command {
        Command::Probe(args) => probe(&decoder, args).await,
        Command::Frames(frames) => draw(&decoder, frames).await,
        Command::Sandbox => sandbox(&decoder),
        Command::Time { .. } => timing::run(&decoder).await,
    }
}

fn refused(path: &Path) -> impl FnOnce(video::Error) -> Error {
    move |reason| Error::Video {
        path: path.to_owned(),
        reason,
    }
}

/// Layers of the sandbox that hold on this machine, and those that its kernel or its container runtime does not allow.
#[derive(Debug, Serialize)]
struct Sandbox {
    layers: Vec<&'static str>,
    missing: Vec<&'static str>,
}

fn sandbox(decoder: &Decoder) -> Result<(), Error> {
    let held = decoder.isolation();
    let names = |layers: video::Layers| layers.iter().map(video::Layer::name).collect();
    let found = Sandbox {
        layers: names(held),
        missing: names(video::Layers::ALL.without(held)),
    };
    show(serde_json::to_string_pretty(&found)?);
    Ok(())
}

async fn probe(decoder: &Decoder, args: &ProbeArgs) -> Result<(), Error> {
    let (tenant, path) = (local(), &args.file);
    let probe = decoder.probe(&tenant, Lane::Interactive, input(path)?);
    let mut probe = probe.await.map_err(refused(path))?;
    if args.order == Order::Reference {
        probe.frames = probe.reference_frames;
    }
    show(serde_json::to_string_pretty(&Facts::from(&probe))?);
    Ok(())
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
