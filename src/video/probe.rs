//! Opens a video within the white lists and limits, and reads its packets once.
//!
//! Invariant: what is opened here is one of the accepted containers and codecs, and no larger than the limits allow.

use std::fs::File;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::answer::{Container, Probe, Ratio, Warning, Warnings};
use super::decode::codec::Decoder;
use super::decode::io::{Demuxer, Stream};
use super::decode::owned::{Code, Packet};
use super::reject::Reject;
use super::request::Limits;

/// Payloads of so many bytes are kept in memory; of longer videos the packets are read again.
const KEPT_BYTES: usize = 64 << 20;

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
        .find(|container| container.name() == format.name())
        .ok_or(Reject::ContainerNotAllowed)?;
    demuxer
        .open(&format)
        .map_err(refused(Reject::Undecodable))?;
    if demuxer.streams() > usize::from(limits.streams) {
        return Err(Reject::TooManyStreams);
    }
    let stream = demuxer.select_video().ok_or(Reject::NoVideoStream)?;
    demuxer
        .look_inside(limits.pixels)
        .map_err(refused(Reject::Undecodable))?;
    // Looking inside may add streams, and it repairs lying headers.
    if demuxer.streams() > usize::from(limits.streams) {
        return Err(Reject::TooManyStreams);
    }
    let facts = demuxer.stream(stream);
    let pixels = i64::from(facts.width) * i64::from(facts.height);
    if pixels > i64::from(limits.pixels) {
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

/// What one walk over the packets found.
pub(super) struct Index {
    /// The packets, unless they are too many bytes to keep.
    pub(super) packets: Option<Vec<Packet>>,
    /// Packets of the video stream.
    pub(super) count: u32,
    /// Distinct time stamps of the packets that are shown, ascending: what the frames' will be, if one packet is one shown picture.
    pub(super) pts: Vec<i64>,
}

/// Reads every packet once.
pub(super) fn index(
    opened: &mut Opened<'_>,
    limits: &Limits,
    budget: &Budget,
) -> Result<Index, Reject> {
    let mut index = Index {
        packets: Some(Vec::new()),
        count: 0,
        pts: Vec::new(),
    };
    let mut bytes = 0_usize;
    let mut packet = Packet::new().map_err(|_| Reject::Memory)?;
    let mut others = 0_u32;
    while opened
        .demuxer
        .read(&mut packet)
        .map_err(|_| Reject::Memory)?
    {
        let header = packet.header();
        if header.stream != opened.stream {
            // Switched-off streams give no packets, but a stream that appears late may.
            others += 1;
            if others > limits.packets {
                return Err(Reject::TooManyPackets);
            }
            continue;
        }
        index.count += 1;
        if index.count > limits.packets {
            return Err(Reject::TooManyPackets);
        }
        if index.count.is_multiple_of(256) {
            budget.check()?;
        }
        if !header.is_discarded {
            index.pts.push(header.pts);
        }
        bytes += packet.size();
        if bytes > KEPT_BYTES {
            index.packets = None;
        }
        if let Some(packets) = &mut index.packets {
            packets.push(packet);
            packet = Packet::new().map_err(|_| Reject::Memory)?;
        }
    }
    index.pts.sort_unstable();
    index.pts.dedup();
    if index.pts.len() > limits.frames as usize {
        return Err(Reject::TooManyFrames);
    }
    check_duration(&index.pts, opened.facts.time_base, limits)?;
    Ok(index)
}

fn seconds(pts: i64, time_base: Ratio) -> f64 {
    pts as f64 * time_base.value()
}

/// From the first to the last of ascending time stamps.
fn duration(pts: &[i64], time_base: Ratio) -> Duration {
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
    // FFmpeg's "no value" is the smallest number; it is no time.
    let known = &pts[pts.partition_point(|&pts| pts == i64::MIN)..];
    if duration(known, time_base) > limits.duration {
        return Err(Reject::TooLong);
    }
    Ok(())
}

/// Whether the container promises more than came.
fn is_truncated(facts: &Stream, index: &Index, last_pts: i64) -> bool {
    if facts.promised_frames > 0 {
        return i64::from(index.count) < facts.promised_frames;
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
    let (first, last) = (
        seen.pts.first().copied().unwrap_or(0),
        seen.pts.last().copied().unwrap_or(0),
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
