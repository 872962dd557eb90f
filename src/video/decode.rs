//! Decodes a video as the reference's Python does: first video stream, one thread, frames keyed and sorted by time stamp, the first error ends it.
//!
//! Invariant: only wanted frames are converted and held. The time stamps of the packets say which those are; when the decoded frames say otherwise, a
//! second pass takes the right ones.

pub(super) mod codec;
pub(super) mod convert;
pub(super) mod io;
pub(super) mod owned;
mod sink;

use std::collections::BTreeMap;
use std::fs::File;

use self::owned::{Code, Frame, Packet};
use self::sink::{ClipSink, Nothing, PictureSink, Sink};
use super::answer::{Probe, Rotation};
use super::probe::{self, Budget, Opened, Seen};
use super::reject::Reject;
use super::request::{ClipSpec, Limits, PictureSpec, Sampling};
use super::sampling::select;
use crate::spec::RotationPolicy;

/// What is wanted of a video.
pub(super) enum Order<'a> {
    /// Only the facts.
    Probe,
    /// A clip; the planes have exactly its size.
    Clip(&'a ClipSpec, &'a mut [f32]),
    /// Whole pictures, one after the other.
    Pictures(&'a PictureSpec, &'a mut [u8]),
}

/// Why there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The video is refused.
    Rejected(Reject),
    /// An explicit index that the video lacks.
    IndexOutOfRange { index: u32, frames: u32 },
    /// The pictures do not fit.
    PicturesTooLarge,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

/// What came out, besides the pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) probe: Probe,
    /// Indices of the selection, temporal views one after the other.
    pub(super) indices: Vec<u32>,
    /// Their time stamps.
    pub(super) pts: Vec<i64>,
    /// Width and height of each picture; empty for clips.
    pub(super) sizes: Vec<(u32, u32)>,
}

/// Which frames: sampling, frames of a clip, temporal views.
type Selection<'a> = (&'a Sampling, u16, u8);

/// Decodes a file of this length.
pub(super) fn decode(
    file: &File,
    length: u64,
    limits: &Limits,
    order: Order<'_>,
) -> Result<Outcome, Refusal> {
    let budget = Budget::new(limits.cpu);
    let mut opened = probe::open(file, length, limits)?;
    let index = probe::index(&mut opened, limits, &budget)?;
    let turned = |policy| match policy {
        RotationPolicy::Display => opened.facts.rotation,
        RotationPolicy::Stored => Rotation::None,
    };
    let (mut sink, selection): (Box<dyn Sink + '_>, Option<Selection<'_>>) = match order {
        Order::Probe => (Box::new(Nothing), None),
        Order::Clip(spec, planes) => (
            Box::new(ClipSink::new(spec, planes, turned(spec.rotation))),
            Some((&spec.sampling, spec.frames.get(), spec.temporal_views.get())),
        ),
        Order::Pictures(spec, room) => (
            Box::new(PictureSink::new(room, turned(spec.rotation))),
            Some((&spec.sampling, spec.frames.get(), 1)),
        ),
    };
    let mut source = Source {
        file,
        length,
        limits,
        budget,
        opened,
        packets: index.packets.as_deref(),
    };
    let guess = selected(selection, &index.pts);
    let (mut seen, mut missing) = pass(&mut source, &guess, &mut *sink)?;
    let mut chosen = selected(selection, &seen.pts);
    // The guess holds when it wanted the same pictures, even if others were never shown.
    if chosen.pts != guess.pts {
        source.opened.decoder.flush();
        sink.begin();
        (seen, missing) = pass(&mut source, &chosen, &mut *sink)?;
        chosen = selected(selection, &seen.pts);
    }
    if let Some(index) = chosen.out_of_range {
        let frames = seen.pts.len() as u32;
        return Err(Refusal::IndexOutOfRange { index, frames });
    }
    if missing {
        return Err(Reject::Undecodable.into());
    }
    let sizes = sink.finish(&chosen.pts)?;
    let probe = probe::probe(&source.opened, &index, &seen);
    Ok(Outcome {
        probe,
        indices: chosen.indices,
        pts: chosen.pts,
        sizes,
    })
}

/// Chosen indices and their time stamps.
#[derive(Default)]
struct Chosen {
    indices: Vec<u32>,
    pts: Vec<i64>,
    /// An explicit index that is not there; then nothing is chosen.
    out_of_range: Option<u32>,
}

/// Chooses among ascending time stamps.
fn selected(selection: Option<Selection<'_>>, pts: &[i64]) -> Chosen {
    let Some((sampling, frames, temporal_views)) = selection else {
        return Chosen::default();
    };
    if pts.is_empty() {
        return Chosen::default();
    }
    match select(sampling, pts.len() as u32, frames, temporal_views) {
        Ok(indices) => Chosen {
            pts: indices.iter().map(|&index| pts[index as usize]).collect(),
            indices,
            out_of_range: None,
        },
        Err(index) => Chosen {
            out_of_range: Some(index),
            ..Chosen::default()
        },
    }
}

/// An open video whose packets can be had again.
struct Source<'a> {
    file: &'a File,
    length: u64,
    limits: &'a Limits,
    budget: Budget,
    opened: Opened<'a>,
    /// `None` when they are too many bytes: then they are read again.
    packets: Option<&'a [Packet]>,
}

impl Source<'_> {
    /// Passes every packet on, and the end, until `step` says to stop.
    fn feed(
        &mut self,
        mut step: impl FnMut(&mut Opened<'_>, Option<&Packet>) -> Result<bool, Refusal>,
    ) -> Result<(), Refusal> {
        if let Some(packets) = self.packets {
            for packet in packets {
                self.budget.check()?;
                if !step(&mut self.opened, Some(packet))? {
                    return Ok(());
                }
            }
        } else {
            self.opened = probe::open(self.file, self.length, self.limits)?;
            let mut packet = Packet::new().map_err(|_| Reject::Memory)?;
            while (self.opened.demuxer.read(&mut packet)).map_err(|_| Reject::Memory)? {
                self.budget.check()?;
                let is_ours = packet.header().stream == self.opened.stream;
                if is_ours && !step(&mut self.opened, Some(&packet))? {
                    return Ok(());
                }
            }
        }
        step(&mut self.opened, None)?;
        Ok(())
    }
}

/// Decodes everything once and hands the chosen frames to the sink; says what was seen, and whether a chosen frame never came.
fn pass(
    source: &mut Source<'_>,
    chosen: &Chosen,
    sink: &mut dyn Sink,
) -> Result<(Seen, bool), Refusal> {
    let mut wanted: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (slot, &pts) in chosen.pts.iter().enumerate() {
        wanted.entry(pts).or_default().push(slot);
    }
    let mut came = std::collections::BTreeSet::new();
    let mut seen = Seen {
        pts: Vec::new(),
        size: (0, 0),
        is_damaged: false,
    };
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    let limit = source.limits.frames as usize;
    source.feed(|opened, packet| {
        let mut go_on = goes_on(opened.decoder.send(packet))?;
        while go_on {
            match opened.decoder.receive(&mut frame) {
                Ok(true) => {}
                Ok(false) => break,
                error @ Err(_) => {
                    go_on = goes_on(error.map(drop))?;
                    continue;
                }
            }
            if seen.pts.is_empty() {
                seen.size = frame.size();
            }
            seen.is_damaged |= frame.is_damaged();
            seen.pts.push(frame.pts());
            if seen.pts.len() > limit {
                return Err(Reject::TooManyFrames.into());
            }
            if let Some(slots) = wanted.get(&frame.pts()) {
                sink.put(&frame, slots)?;
                came.insert(frame.pts());
            }
        }
        // PyAV raises the first error: frames that are still inside the decoder are lost.
        seen.is_damaged |= !go_on;
        Ok(go_on)
    })?;
    seen.pts.sort_unstable();
    seen.pts.dedup();
    if seen.pts.is_empty() {
        return Err(Reject::NoFrames.into());
    }
    probe::check_duration(&seen.pts, source.opened.facts.time_base, source.limits)?;
    Ok((seen, came.len() < wanted.len()))
}

/// Whether decoding goes on after this result.
fn goes_on(result: Result<(), Code>) -> Result<bool, Refusal> {
    match result {
        Ok(()) | Err(Code::AGAIN | Code::END) => Ok(true),
        Err(Code::NO_MEMORY) => Err(Reject::Memory.into()),
        Err(_) => Ok(false),
    }
}
