//! Decodes a video as the reference's Python does: first video stream, one thread, the first error ends it. Frames come in the order of the policy.
//!
//! Invariant: what comes out is what decoding everything gives; only wanted frames are converted and held. Where the packets' own headers say which packet
//! is which picture, only the groups of pictures that hold wanted frames are decoded; at the first sign that they lied, everything is.

pub(super) mod convert;
mod full;
pub(super) mod headers;
mod packets;
pub(super) mod parts;
mod sink;
mod sparse;
pub(super) mod still;
#[cfg(test)]
mod tests;
mod times;
pub(super) mod wide;

use std::collections::BTreeMap;
use std::fs::File;

use self::convert::Converter;
use self::packets::Packets;
use self::sink::{ClipSink, Nothing, PictureSink, Sink};
use super::answer::{Orientation, Probe};
use super::ffmpeg::codec::Decoder;
use super::ffmpeg::owned::{Code, Frame, Packet};
use super::frames::FramesSpec;
use super::probe::{self, Budget, Frames, Index, Opened};
use super::reject::{Reject, Rejection};
use super::request::{ClipSpec, Limits, PictureSpec, Sampling};
use super::sampling::{OutOfRange, Timeline, select};
use crate::spec::{FrameOrder, RotationPolicy};

/// Where what is taken from a video goes.
pub(super) enum Target<'a> {
    /// Nowhere: only the facts are wanted.
    Probe,
    /// A clip; the planes have exactly its size.
    Clip(&'a ClipSpec, &'a mut [f32]),
    /// Whole pictures, one after the other.
    Pictures(&'a PictureSpec, &'a mut [u8]),
}

/// Why nothing was taken from a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The video is refused.
    Rejected(Rejection),
    /// An explicit index, or a window, that the video lacks.
    OutOfRange(OutOfRange),
    /// The pictures do not fit.
    PicturesTooLarge,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject.into())
    }
}

/// Facts, selection and sizes of what was taken from a video, without the pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// Facts of the video; none of a picture that came by itself.
    pub(super) probe: Option<Probe>,
    /// Indices of the selection, temporal views one after the other.
    pub(super) indices: Vec<u32>,
    /// Time stamps of the selection.
    pub(super) pts: Vec<i64>,
    /// Width and height of each picture; empty for clips of a video.
    pub(super) sizes: Vec<(u32, u32)>,
}

/// The frames that are wanted: sampling, frames of a clip, temporal views.
type Selection<'a> = (&'a Sampling, u16, u8);

/// How much is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// What the wanted frames need, as far as that is known.
    Needed,
    /// Every packet.
    Everything,
}

/// How a video is decoded; whichever way, the same comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) effort: Effort,
    /// Most bytes of payloads that are kept in memory; the packets of longer videos are read again.
    pub(super) kept_bytes: usize,
}

/// Bytes of packets that are kept, so that long videos need no more memory than short ones.
const KEPT_BYTES: usize = 64 << 20;

impl Default for Method {
    fn default() -> Self {
        Self {
            effort: Effort::Needed,
            kept_bytes: KEPT_BYTES,
        }
    }
}

/// Pixels up to which facts alone are checked by decoding everything: half a minute of 720p, a second or two of work.
const CHECKED_PIXELS: u64 = 1 << 30;
/// Frames that are decoded of longer videos to check them.
const CHECKED_FRAMES: u16 = 8;

/// Decodes a file of this length.
pub(super) fn decode(
    file: (&File, u64),
    limits: &Limits,
    target: Target<'_>,
    method: Method,
) -> Result<Summary, Refusal> {
    let budget = Budget::new(limits.cpu);
    let mut opened = probe::open(file.0, file.1, limits)?;
    let index = probe::index(&mut opened, limits, &budget, method.kept_bytes)?;
    let turned = |policy| match policy {
        RotationPolicy::Display => opened.facts.orientation,
        RotationPolicy::Stored => Orientation::STORED,
    };
    let is_probe = matches!(target, Target::Probe);
    let order = match &target {
        Target::Probe => FrameOrder::Display,
        Target::Clip(spec, _) => spec.order,
        Target::Pictures(spec, _) => spec.order,
    };
    let (mut sink, selection): (Box<dyn Sink + '_>, Selection<'_>) = match target {
        Target::Probe => (Box::new(Nothing), (&Sampling::Uniform, CHECKED_FRAMES, 1)),
        Target::Clip(spec, planes) => (
            Box::new(ClipSink::new(
                spec,
                planes,
                Converter::new(turned(spec.rotation), spec.color),
            )),
            (&spec.sampling, spec.frames.get(), spec.temporal_views.get()),
        ),
        Target::Pictures(spec, room) => (
            Box::new(PictureSink::new(
                room,
                Converter::new(turned(spec.rotation), spec.color),
            )),
            (&spec.sampling, spec.frames.get(), 1),
        ),
    };
    let mut source = Source {
        limits,
        order,
        budget,
        packets: Packets::new(file, limits, &index),
        opened,
        index: &index,
    };
    let effort = if is_probe && source.pixels() <= CHECKED_PIXELS {
        Effort::Everything
    } else {
        method.effort
    };
    let (choice, frames) = source.frames(selection, effort, &mut *sink)?;
    if let Some(missing) = choice.out_of_range {
        return Err(Refusal::OutOfRange(missing));
    }
    let probe = probe::probe(&source.opened, &index, &frames);
    let (indices, pts) = if is_probe {
        (Vec::new(), Vec::new())
    } else {
        (choice.indices, choice.pts)
    };
    Ok(Summary {
        sizes: sink.finish(pts.len())?,
        probe: Some(probe),
        indices,
        pts,
    })
}

/// Decodes the wanted frames of a file of this length in order, into planes that have exactly the size of a part; `give` gets every part but the last.
pub(super) fn frames(
    file: (&File, u64),
    limits: &Limits,
    target: (&FramesSpec, &mut [f32]),
    give: parts::Give<'_>,
    method: Method,
) -> Result<Summary, Refusal> {
    let budget = Budget::new(limits.cpu);
    let mut opened = probe::open(file.0, file.1, limits)?;
    let index = probe::index(&mut opened, limits, &budget, method.kept_bytes)?;
    let mut source = Source {
        limits,
        order: target.0.order,
        budget,
        packets: Packets::new(file, limits, &index),
        opened,
        index: &index,
    };
    parts::decode(&mut source, target, give, method)
}

/// Chosen frames: their indices and time stamps.
#[derive(Clone, Default)]
struct Choice {
    indices: Vec<u32>,
    pts: Vec<i64>,
    /// An index or window that the video lacks; then nothing is chosen.
    out_of_range: Option<OutOfRange>,
}

/// Chooses among frames.
fn selected((sampling, frames, temporal_views): Selection<'_>, timeline: &Timeline<'_>) -> Choice {
    let pts = timeline.pts;
    if pts.is_empty() {
        return Choice::default();
    }
    match select(sampling, timeline, frames, temporal_views) {
        Ok(indices) => Choice {
            pts: indices.iter().map(|&index| pts[index as usize]).collect(),
            indices,
            out_of_range: None,
        },
        Err(missing) => Choice {
            out_of_range: Some(missing),
            ..Choice::default()
        },
    }
}

impl Choice {
    /// The places of the selection that each time stamp fills.
    fn places_by_time(&self) -> Places {
        let mut places = Places::new();
        for (slot, &pts) in self.pts.iter().enumerate() {
            places.entry(pts).or_default().push(slot);
        }
        places
    }

    /// The places of the selection that each frame fills: frames have numbers in the order of display, and time stamps in that of the reference.
    fn places(&self, order: FrameOrder) -> Places {
        match order {
            FrameOrder::Reference => self.places_by_time(),
            FrameOrder::Display => {
                let mut places = Places::new();
                for (slot, &index) in self.indices.iter().enumerate() {
                    places.entry(i64::from(index)).or_default().push(slot);
                }
                places
            }
        }
    }

    /// Whether the same frames were chosen.
    fn is_same(&self, other: &Self, order: FrameOrder) -> bool {
        match order {
            FrameOrder::Display => self.indices == other.indices,
            FrameOrder::Reference => self.pts == other.pts,
        }
    }
}

/// Chosen frames, by number or time stamp, and the places of the selection that each fills.
type Places = BTreeMap<i64, Vec<usize>>;

/// An open video whose packets can be had again.
struct Source<'a> {
    limits: &'a Limits,
    order: FrameOrder,
    budget: Budget,
    opened: Opened<'a>,
    index: &'a Index,
    packets: Packets<'a>,
}

impl Source<'_> {
    /// Pixels of all frames together, by what the container says.
    fn pixels(&self) -> u64 {
        let side = |side: i32| u64::try_from(side).unwrap_or(0);
        let facts = &self.opened.facts;
        side(facts.width) * side(facts.height) * self.index.pts.len() as u64
    }

    /// Chooses frames and hands them to the sink; says what was chosen and what was seen.
    fn frames(
        &mut self,
        selection: Selection<'_>,
        effort: Effort,
        sink: &mut dyn Sink,
    ) -> Result<(Choice, Frames), Refusal> {
        let (order, time_base) = (self.order, self.opened.facts.time_base);
        let select = |pts: &[i64]| selected(selection, &Timeline { pts, time_base });
        let guess = match order {
            FrameOrder::Display => select(&self.index.pts),
            FrameOrder::Reference => {
                let mut distinct = self.index.pts.clone();
                distinct.dedup();
                select(&distinct)
            }
        };
        if effort == Effort::Needed
            && guess.out_of_range.is_none()
            && let Some(frames) = sparse::decode(self, &guess, sink)?
        {
            return Ok((guess, frames));
        }
        sink.begin();
        let (mut frames, mut missing) = full::decode(self, &guess, sink)?;
        let mut choice = select(&frames.pts);
        // The guess holds when it wanted the same pictures, even if others were never shown.
        if !choice.is_same(&guess, order) {
            sink.begin();
            (frames, missing) = full::decode(self, &choice, sink)?;
            choice = select(&frames.pts);
        }
        if missing && choice.out_of_range.is_none() {
            return Err(Reject::Undecodable.into());
        }
        Ok((choice, frames))
    }

    /// A decoder that has seen nothing. A flushed one remembers how many pictures it had to wait for, and may show others.
    fn renew_decoder(&mut self) -> Result<(), Rejection> {
        let Opened {
            demuxer,
            stream,
            facts,
            ..
        } = &self.opened;
        self.opened.decoder =
            Decoder::open(demuxer, *stream, (facts.time_base, self.limits.pixels))?;
        Ok(())
    }
}

/// Sends a packet, or the end, and passes on every picture that comes out; `false` at a decoder error.
fn step(
    decoder: &mut Decoder,
    packet: Option<&Packet>,
    frame: &mut Frame,
    mut take: impl FnMut(&Frame) -> Result<(), Refusal>,
) -> Result<bool, Refusal> {
    let is_error = |code| match code {
        Code::NO_MEMORY => Err(Refusal::from(Reject::Memory)),
        Code::AGAIN | Code::END => Ok(true),
        _ => Ok(false),
    };
    if let Err(code) = decoder.send(packet)
        && !is_error(code)?
    {
        return Ok(false);
    }
    loop {
        match decoder.receive(frame) {
            Ok(true) => take(frame)?,
            Ok(false) => return Ok(true),
            Err(code) => return is_error(code),
        }
    }
}
