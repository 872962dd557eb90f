//! Decodes everything, as the reference does.

use std::collections::BTreeSet;

use super::owned::Frame;
use super::sink::Sink;
use super::{Chosen, Refusal, Source, step};
use crate::video::probe::{self, Seen};
use crate::video::reject::Reject;

/// Decodes everything once and hands the chosen frames to the sink; says what was seen, and whether a chosen frame never came.
pub(super) fn decode(
    source: &mut Source<'_>,
    chosen: &Chosen,
    sink: &mut dyn Sink,
) -> Result<(Seen, bool), Refusal> {
    source.renew_decoder()?;
    let wanted = chosen.wanted();
    let mut came = BTreeSet::new();
    let mut seen = Seen {
        pts: Vec::new(),
        size: (0, 0),
        is_damaged: false,
    };
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    let limit = source.limits.frames as usize;
    let mut take = |frame: &Frame| {
        if seen.pts.is_empty() {
            seen.size = frame.size();
        }
        seen.is_damaged |= frame.is_damaged();
        if seen.pts.len() >= limit {
            return Err(Reject::TooManyFrames.into());
        }
        seen.pts.push(frame.pts());
        if let Some(slots) = wanted.get(&frame.pts()) {
            sink.put(frame, slots)?;
            came.insert(frame.pts());
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
            Some(source.packets.get(place)?.ok_or(Reject::Undecodable)?)
        };
        is_whole = step(decoder, packet, &mut frame, &mut take)?;
        if !is_whole {
            // PyAV raises the first error: frames that are still inside the decoder are lost.
            break;
        }
    }
    seen.is_damaged |= !is_whole;
    seen.pts.sort_unstable();
    seen.pts.dedup();
    if seen.pts.is_empty() {
        return Err(Reject::NoFrames.into());
    }
    probe::check_duration(&seen.pts, source.opened.facts.time_base, source.limits)?;
    Ok((seen, came.len() < wanted.len()))
}
