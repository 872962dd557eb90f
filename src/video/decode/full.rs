//! Decodes everything, as the reference does.

use std::collections::BTreeSet;

use super::codec::NO_TIME;
use super::owned::Frame;
use super::sink::Sink;
use super::times::{Stamp, parts, timetable};
use super::{Choice, Refusal, Source, step};
use crate::spec::FrameOrder;
use crate::video::answer::Ratio;
use crate::video::probe::{self, Frames, Index};
use crate::video::reject::Reject;

/// Decodes everything once and hands the chosen frames to the sink; says what was seen, and whether a chosen frame never came.
pub(super) fn decode(
    source: &mut Source<'_>,
    choice: &Choice,
    sink: &mut dyn Sink,
) -> Result<(Frames, bool), Refusal> {
    source.renew_decoder()?;
    let order = source.order;
    let wanted = choice.places(order);
    let mut came = BTreeSet::new();
    let parts = parts(&source.index.entries);
    let (mut shown, mut size, mut is_damaged) = (Vec::new(), (0, 0), false);
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    let limit = source.limits.frames as usize;
    let index = source.index;
    let mut take = |frame: &Frame| {
        if shown.is_empty() {
            size = frame.size();
        }
        is_damaged |= frame.is_damaged();
        if shown.len() >= limit {
            return Err(Reject::TooManyFrames.into());
        }
        let stamp = stamp(index, &parts, frame);
        let key = match order {
            FrameOrder::Display => i64::try_from(shown.len()).unwrap_or(i64::MAX),
            FrameOrder::Reference => stamp.pts,
        };
        shown.try_reserve(1).map_err(|_| Reject::Memory)?;
        shown.push(stamp);
        if let Some(slots) = wanted.get(&key) {
            sink.put(frame, slots)?;
            came.insert(key);
        }
        Ok(())
    };
    let count = source.index.entries.len();
    let decoder = &mut source.opened.decoder;
    let mut is_whole = true;
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
        is_whole = step(decoder, packet, &mut frame, &mut take)?;
        if !is_whole {
            // PyAV raises the first error: frames that are still inside the decoder are lost.
            break;
        }
    }
    if shown.is_empty() {
        return Err(Reject::NoFrames.into());
    }
    let facts = &source.opened.facts;
    let table = timetable(order, &shown, ticks(facts.rate, facts.time_base));
    probe::check_duration(&table.pts, facts.time_base, source.limits)?;
    let frames = Frames {
        pts: table.pts,
        reference_frames: table.reference_frames,
        size,
        is_damaged: is_damaged || !is_whole,
        warnings: table.warnings,
    };
    Ok((frames, came.len() < wanted.len()))
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
