//! Opens a video within the white lists and limits, and says what it is.
//!
//! Invariant: what is opened here is one of the accepted containers and codecs, and no larger than the limits allow.

mod index;

use std::fs::File;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::answer::{Container, Probe, Ratio, Warning, Warnings};
use super::decode::codec::Decoder;
use super::decode::io::{Demuxer, Stream};
use super::decode::owned::Code;
use super::reject::Reject;
use super::request::Limits;
use super::sampling::known;

pub(super) use index::{Entry, Index, index};

/// Processor time that may be used.
pub(super) struct Budget {
    end: Duration,
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
            end: processor_time() + time,
        }
    }

    /// Whether some is left.
    pub(super) fn check(&self) -> Result<(), Reject> {
        if processor_time() < self.end {
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

fn pixels(facts: &Stream) -> i64 {
    i64::from(facts.width) * i64::from(facts.height)
}

/// Opens a video file of this length and its first video stream's decoder.
pub(super) fn open<'a>(file: &'a File, length: u64, limits: &Limits) -> Result<Opened<'a>, Reject> {
    if length == 0 {
        return Err(Reject::Empty);
    }
    if length > limits.bytes {
        return Err(Reject::TooLarge);
    }
    let mut demuxer = Demuxer::new(file, length).map_err(|_| Reject::Memory)?;
    let format = demuxer.recognise().map_err(refused(Reject::Unrecognised))?;
    let container = Container::ALL
        .iter()
        .copied()
        .find(|&container| {
            container.name() == format.name() && limits.containers.contains(container)
        })
        .ok_or(Reject::ContainerNotAllowed)?;
    demuxer
        .open(&format)
        .map_err(refused(Reject::Undecodable))?;
    if demuxer.streams() > usize::from(limits.streams) {
        return Err(Reject::TooManyStreams);
    }
    // Flash video has no list of its streams: they are found on the way.
    let is_listed = demuxer.streams() > 0;
    let listed = demuxer.select_video();
    if listed.is_none() && is_listed {
        return Err(Reject::NoVideoStream);
    }
    let declared = listed.map_or(0, |stream| pixels(&demuxer.stream(stream)));
    demuxer
        .look_inside(limits.pixels)
        .map_err(refused(Reject::Undecodable))?;
    // Looking inside may add streams, and it repairs lying headers.
    let stream = demuxer.select_video().ok_or(Reject::NoVideoStream)?;
    if demuxer.streams() > usize::from(limits.streams) {
        return Err(Reject::TooManyStreams);
    }
    let facts = demuxer.stream(stream);
    // A decoder that knows the size from the header alone forgets one that is too large.
    let found = pixels(&facts);
    if (if found == 0 { declared } else { found }) > i64::from(limits.pixels) {
        return Err(Reject::TooManyPixels);
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
pub(super) fn check_duration(pts: &[i64], time_base: Ratio, limits: &Limits) -> Result<(), Reject> {
    if duration(pts, time_base) > limits.duration {
        return Err(Reject::TooLong);
    }
    Ok(())
}

/// Whether the container promises more than came.
fn is_truncated(facts: &Stream, index: &Index, last_pts: i64) -> bool {
    if facts.promised_frames > 0 {
        return (index.entries.len() as i64) < facts.promised_frames;
    }
    facts.promised_duration.is_some_and(|promised| {
        let (promised, last) = (
            seconds(promised, facts.time_base),
            seconds(last_pts, facts.time_base),
        );
        promised > last * 1.1 && promised > last + 0.5
    })
}

/// What the decoded frames say: ascending time stamps, the first picture's size, and whether something was damaged.
pub(super) struct Seen {
    pub(super) pts: Vec<i64>,
    pub(super) size: (u32, u32),
    pub(super) is_damaged: bool,
}

/// Puts the facts together.
pub(super) fn probe(opened: &Opened<'_>, index: &Index, seen: &Seen) -> Probe {
    let facts = &opened.facts;
    let pts = known(&seen.pts);
    let (first, last) = (
        pts.first().copied().unwrap_or(0),
        pts.last().copied().unwrap_or(0),
    );
    let mut warnings = Warnings::default();
    if seen.is_damaged {
        warnings.insert(Warning::Damaged);
    }
    if is_truncated(facts, index, last) {
        warnings.insert(Warning::Truncated);
    }
    Probe {
        container: opened.container,
        codec: opened.decoder.codec,
        width: seen.size.0,
        height: seen.size.1,
        frames: seen.pts.len() as u32,
        time_base: facts.time_base,
        first_pts: first,
        duration: duration(&seen.pts, facts.time_base),
        rate: facts.rate,
        rotation: facts.rotation,
        sar: facts.sar,
        streams: u16::try_from(opened.demuxer.streams()).unwrap_or(u16::MAX),
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::decode::codec::NO_TIME;

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
            Err(Reject::TooLong)
        );
    }
}
