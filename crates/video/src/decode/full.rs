//! Decodes everything, as the reference does.

use std::collections::BTreeSet;

use super::sink::Sink;
use super::times::{Stamp, parts, timetable};
use super::{Choice, Places, Refusal, Source, step};
use crate::answer::Ratio;
use crate::ffmpeg::codec::NO_TIME;
use crate::ffmpeg::owned::Frame;
use crate::probe::{self, Frames, Index};
use crate::reject::Reject;
use crate::spec::FrameOrder;

/// Decodes everything once and hands the chosen frames to the sink; says what was seen, and whether a chosen frame never came.
pub(super) fn decode(
    source: &mut Source<'_>,
    choice: &Choice,
    sink: &mut dyn Sink,
) -> Result<(Frames, bool), Refusal> {
    source.renew_decoder()?;
    let index = source.index;
    let mut taking = Taking {
        index,
        order: source.order,
        parts: parts(&index.entries),
        wanted: choice.places(source.order),
        came: BTreeSet::new(),
        limit: source.limits.frames as usize,
        sink,
        shown: Vec::new(),
        size: (0, 0),
        is_damaged: false,
    };
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    let count = index.entries.len();
    let decoder = &mut source.opened.decoder;
    // The end comes after the last packet.
    for place in 0..=count {
        source.budget.check()?;
        let packet = if place == count {
            None
        } else {
            // It was there a moment ago.
            let packet = source.packets.get(place)?.ok_or(Reject::Undecodable)?;
            packet.number(place);
            Some(packet)
        };
        if !step(decoder, packet, &mut frame, |frame| taking.take(frame))? {
            // PyAV raises the first error: frames that are still inside the decoder are lost.
            taking.is_damaged = true;
            break;
        }
    }
    let facts = &source.opened.facts;
    let is_missing = taking.came.len() < taking.wanted.len();
    let frames = taking.end(ticks(facts.rate, facts.time_base))?;
    probe::check_duration(&frames.pts, facts.time_base, source.limits)?;
    Ok((frames, is_missing))
}

/// What has come out of the decoder so far.
struct Taking<'a> {
    index: &'a Index,
    order: FrameOrder,
    /// The recording of each packet, when there are several.
    parts: Vec<u32>,
    wanted: Places,
    came: BTreeSet<i64>,
    /// Frames that a video may have.
    limit: usize,
    sink: &'a mut dyn Sink,
    /// What the packets of the frames say, in the decoder's order.
    shown: Vec<Stamp>,
    /// Size of the first frame.
    size: (u32, u32),
    is_damaged: bool,
}

impl Taking<'_> {
    /// Takes a frame that was decoded.
    fn take(&mut self, frame: &Frame) -> Result<(), Refusal> {
        if self.shown.is_empty() {
            self.size = frame.size();
        }
        self.is_damaged |= frame.is_damaged();
        if self.shown.len() >= self.limit {
            return Err(Reject::TooManyFrames.into());
        }
        let stamp = stamp(self.index, &self.parts, frame);
        let key = match self.order {
            FrameOrder::Display => i64::try_from(self.shown.len()).unwrap_or(i64::MAX),
            FrameOrder::Reference => stamp.pts,
        };
        self.shown.try_reserve(1).map_err(|_| Reject::Memory)?;
        self.shown.push(stamp);
        if let Some(slots) = self.wanted.get(&key) {
            self.sink.put(frame, slots)?;
            self.came.insert(key);
        }
        Ok(())
    }

    /// Puts the frames into their order; `step` is the time from one to the next where nothing else says it.
    fn end(self, step: i64) -> Result<Frames, Reject> {
        if self.shown.is_empty() {
            return Err(Reject::NoFrames);
        }
        let table = timetable(self.order, &self.shown, step);
        Ok(Frames {
            pts: table.pts,
            reference_frames: table.reference_frames,
            size: self.size,
            is_damaged: self.is_damaged,
            warnings: table.warnings,
        })
    }
}

/// What the packet of a frame says; the frame has the packet's number.
fn stamp(index: &Index, parts: &[u32], frame: &Frame) -> Stamp {
    let place = usize::try_from(frame.pts()).ok();
    let Some((place, entry)) = place.and_then(|place| Some((place, index.entries.get(place)?)))
    else {
        return Stamp::UNKNOWN;
    };
    Stamp {
        pts: entry.pts,
        dts: entry.decoding_time().unwrap_or(NO_TIME),
        part: parts.get(place).copied().unwrap_or(0),
    }
}

/// Units of time from one frame to the next.
fn ticks(rate: Ratio, time_base: Ratio) -> i64 {
    let seconds = 1.0 / rate.value();
    let ticks = seconds / time_base.value();
    // Without a rate this is no number, and a single unit stands for it.
    if ticks.is_finite() { ticks as i64 } else { 1 }
}
