//! Opens a video within the white lists and limits, and says what it is.
//!
//! Invariant: what is opened here is one of the accepted containers and codecs, and no larger than the limits allow.

mod index;
mod truncation;

use std::cell::Cell;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::answer::{Container, Probe, Ratio, Refused, Warning, Warnings};
use super::ffmpeg::codec::Decoder;
use super::ffmpeg::io::{Demuxer, Stream};
use super::ffmpeg::owned::Code;
use super::reject::{Evidence, Reject, Rejection};
use super::request::Limits;
use super::sampling::known;

pub(super) use index::{Entry, Index, index};

/// Processor time that may be used.
#[derive(Clone)]
pub(super) struct Budget {
    time: Duration,
    /// Shared by the clones.
    end: Rc<Cell<Duration>>,
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

impl Budget {
    /// This much from now on.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time,
            end: Rc::new(Cell::new(processor_time() + time)),
        }
    }

    /// As much again, from now on.
    pub(super) fn renew(&self) {
        self.end.set(processor_time() + self.time);
    }

    /// Whether some is left.
    pub(super) fn check(&self) -> Result<(), Reject> {
        if processor_time() < self.end.get() {
            Ok(())
        } else {
            Err(Reject::CpuTime)
        }
    }
}

/// An open video.
pub(super) struct Opened<'a> {
    pub(super) demuxer: Demuxer<'a>,
    pub(super) decoder: Decoder,
    pub(super) container: Container,
    /// Index of the video stream.
    pub(super) stream: usize,
    pub(super) facts: Stream,
}

fn refused(otherwise: Reject) -> impl Fn(Code) -> Reject {
    move |code| {
        if code == Code::NO_MEMORY {
            Reject::Memory
        } else {
            otherwise
        }
    }
}

/// The refusal of a file of an accepted container that cannot be opened.
fn unreadable(container: Container) -> impl Fn(Code) -> Rejection {
    move |code| {
        if code == Code::NO_MEMORY {
            Reject::Memory.into()
        } else {
            Rejection::of(Reject::Undecodable, Evidence::Unreadable(container))
        }
    }
}

/// Width and height by the container.
fn size(facts: &Stream) -> (u32, u32) {
    let side = |side: i32| u32::try_from(side).unwrap_or(0);
    (side(facts.width), side(facts.height))
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

fn check_streams(demuxer: &Demuxer<'_>, limits: &Limits) -> Result<(), Rejection> {
    let streams = demuxer.streams();
    if streams > usize::from(limits.streams) {
        let found = Evidence::Count(streams as u64);
        return Err(Rejection::of(Reject::TooManyStreams, found));
    }
    Ok(())
}

/// Opens a video file of this length and its first video stream's decoder.
pub(super) fn open<'a>(
    file: &'a File,
    length: u64,
    limits: &Limits,
) -> Result<Opened<'a>, Rejection> {
    if length == 0 {
        return Err(Reject::Empty.into());
    }
    if length > limits.bytes {
        return Err(Rejection::of(Reject::TooLarge, Evidence::Count(length)));
    }
    let mut demuxer = Demuxer::new(file, length).map_err(|_| Reject::Memory)?;
    let format = demuxer.recognise().map_err(refused(Reject::Unrecognised))?;
    let container = Container::ALL
        .iter()
        .copied()
        .find(|&container| {
            container.name() == format.name() && limits.containers.contains(container)
        })
        .ok_or_else(|| {
            let found = Evidence::Container(Refused::of_demuxer(format.name()));
            Rejection::of(Reject::ContainerNotAllowed, found)
        })?;
    demuxer.open(&format).map_err(unreadable(container))?;
    check_streams(&demuxer, limits)?;
    // Flash video has no list of its streams: they are found on the way.
    let is_listed = demuxer.streams() > 0;
    let listed = demuxer.select_video();
    if listed.is_none() && is_listed {
        return Err(Reject::NoVideoStream.into());
    }
    let declared = listed.map_or((0, 0), |stream| size(&demuxer.stream(stream)));
    demuxer
        .look_inside(limits.pixels)
        .map_err(unreadable(container))?;
    // Looking inside may add streams, and it repairs lying headers.
    let stream = demuxer.select_video().ok_or(Reject::NoVideoStream)?;
    check_streams(&demuxer, limits)?;
    let facts = demuxer.stream(stream);
    // A decoder that knows the size from the header alone forgets one that is too large.
    let found = size(&facts);
    let (width, height) = if pixels(found) == 0 { declared } else { found };
    if pixels((width, height)) > u64::from(limits.pixels) {
        let found = Evidence::Size(width, height);
        return Err(Rejection::of(Reject::TooManyPixels, found));
    }
    let decoder = Decoder::open(&demuxer, stream, (facts.time_base, limits.pixels))?;
    Ok(Opened {
        demuxer,
        decoder,
        container,
        stream,
        facts,
    })
}

fn seconds(pts: i64, time_base: Ratio) -> f64 {
    pts as f64 * time_base.value()
}

/// From the first to the last of ascending time stamps.
fn duration(pts: &[i64], time_base: Ratio) -> Duration {
    let pts = known(pts);
    match (pts.first(), pts.last()) {
        (Some(&first), Some(&last)) => {
            let length = seconds(last.saturating_sub(first), time_base);
            Duration::try_from_secs_f64(length).unwrap_or(Duration::MAX)
        }
        _ => Duration::ZERO,
    }
}

/// Refuses a video that is too long by its ascending time stamps.
pub(super) fn check_duration(
    pts: &[i64],
    time_base: Ratio,
    limits: &Limits,
) -> Result<(), Rejection> {
    let found = duration(pts, time_base);
    if found > limits.duration {
        // Rounded up, so that it is more than the limit.
        let found = Evidence::Count(found.as_secs().saturating_add(1));
        return Err(Rejection::of(Reject::TooLong, found));
    }
    Ok(())
}

/// What the decoded frames say.
pub(super) struct Frames {
    /// Time stamps in the order of the frames, ascending.
    pub(super) pts: Vec<i64>,
    /// Frames in the order of the reference.
    pub(super) reference_frames: u32,
    /// Width and height of the first picture.
    pub(super) size: (u32, u32),
    /// Whether something was damaged.
    pub(super) is_damaged: bool,
    /// What is odd about the time stamps.
    pub(super) warnings: Warnings,
}

/// Puts the facts together.
pub(super) fn probe(opened: &Opened<'_>, index: &Index, frames: &Frames) -> Probe {
    let facts = &opened.facts;
    let first = known(&frames.pts).first().copied().unwrap_or(0);
    let mut warnings = frames.warnings;
    if frames.is_damaged {
        warnings.insert(Warning::Damaged);
    }
    if truncation::is_truncated(opened, index) {
        warnings.insert(Warning::Truncated);
    }
    Probe {
        container: opened.container,
        codec: opened.decoder.codec,
        width: frames.size.0,
        height: frames.size.1,
        frames: frames.pts.len() as u32,
        reference_frames: frames.reference_frames,
        time_base: facts.time_base,
        first_pts: first,
        duration: duration(&frames.pts, facts.time_base),
        rate: facts.rate,
        rotation: facts.orientation.rotation,
        mirrored: facts.orientation.is_mirrored,
        sar: facts.sar,
        streams: u16::try_from(opened.demuxer.streams()).unwrap_or(u16::MAX),
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffmpeg::codec::NO_TIME;

    #[test]
    fn a_picture_without_a_time_has_no_part_in_the_duration() {
        let time_base = Ratio {
            numerator: 1,
            denominator: 1000,
        };
        let limits = Limits {
            duration: Duration::from_secs(3),
            ..Limits::default()
        };
        for (pts, milliseconds) in [
            (&[] as &[i64], 0),
            (&[NO_TIME], 0),
            (&[NO_TIME, 500, 2500], 2000),
            (&[500, 2500], 2000),
        ] {
            assert_eq!(
                duration(pts, time_base),
                Duration::from_millis(milliseconds)
            );
            assert_eq!(check_duration(pts, time_base, &limits), Ok(()));
        }
        let long = [NO_TIME, 0, 3001];
        assert_eq!(
            check_duration(&long, time_base, &limits),
            Err(Rejection::of(Reject::TooLong, Evidence::Count(4)))
        );
    }
}
