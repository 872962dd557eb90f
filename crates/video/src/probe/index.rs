//! The packet index: every packet of the video stream, read once, with what its own headers say.
//!
//! Invariant: without a doubt in it, every shown packet is exactly one picture with the packet's time stamp, and decoding that begins at an entry gives
//! the same pictures from the entry's time stamp on as decoding from the first packet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Budget, Opened, check_duration};
use crate::decode::headers::{Doubt, Facts, Walk};
use crate::ffmpeg::codec::{Header, NO_TIME};
use crate::ffmpeg::owned::Packet;
use crate::reject::{Reject, Rejection};
use crate::request::Limits;

/// A packet of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pts: i64,
    dts: i64,
    position: i64,
    size: u32,
    /// Whether the packet's picture is shown.
    pub(crate) is_shown: bool,
    /// Whether decoding may begin with the packet.
    pub(crate) is_entry: bool,
    /// Whether the packet need not be decoded when its picture is not wanted.
    pub(crate) is_spare: bool,
}

impl Entry {
    fn new(header: &Header, packet: &Packet, facts: Facts) -> Self {
        Self {
            pts: header.pts,
            dts: header.dts,
            position: header.position,
            // A packet's size is a `c_int`.
            size: packet.size() as u32,
            is_shown: facts.is_shown && !header.is_discarded,
            is_entry: facts.is_entry && header.is_key,
            is_spare: facts.is_spare,
        }
    }

    /// A shown packet for tests of what is made of an index.
    #[cfg(test)]
    pub(crate) fn of(pts: i64, is_entry: bool) -> Self {
        Self {
            pts,
            dts: 0,
            position: 0,
            size: 1,
            is_shown: true,
            is_entry,
            is_spare: false,
        }
    }

    /// A shown packet with a time of decoding, for tests of what is made of an index.
    #[cfg(test)]
    pub(crate) fn decoded_at(dts: i64) -> Self {
        Self {
            dts,
            ..Self::of(dts, false)
        }
    }

    /// Whether this is the packet that was indexed.
    pub(crate) fn is(&self, packet: &Packet) -> bool {
        let header = packet.header();
        (self.pts, self.dts, self.position) == (header.pts, header.dts, header.position)
            && self.size as usize == packet.size()
    }

    /// The time at which the packet is decoded, if the container says so.
    pub(crate) fn decoding_time(&self) -> Option<i64> {
        (self.dts != NO_TIME).then_some(self.dts)
    }
}

/// The packet index of a video stream.
pub(crate) struct Index {
    /// The packets, unless they are too many bytes to keep.
    pub(crate) packets: Option<Vec<Packet>>,
    /// All packets of the video stream, in their order.
    pub(crate) entries: Vec<Entry>,
    /// Time stamps of the packets that are shown, ascending: what the frames' are, and distinct, if there is no doubt.
    pub(crate) pts: Vec<i64>,
    /// The reason why packets and pictures may differ, if there is one.
    pub(crate) doubt: Option<Doubt>,
    /// Whether the decoder may skip pictures that no other refers to.
    pub(crate) skips_unreferenced: bool,
}

/// Reads every packet once, and keeps the payloads when they are at most `kept_bytes`.
pub(crate) fn index(
    opened: &mut Opened<'_>,
    limits: &Limits,
    budget: &Budget,
    kept_bytes: usize,
) -> Result<Index, Rejection> {
    let stream = opened.stream;
    let mut reading = Reading {
        walk: Walk::new(opened.decoder.codec, opened.demuxer.extradata(stream)),
        packets: Some(Vec::new()),
        entries: Vec::new(),
        room: kept_bytes,
    };
    let memory = |_| Reject::Memory;
    let mut packet = Packet::new().map_err(memory)?;
    let mut others = 0_u32;
    while opened.demuxer.read(&mut packet).map_err(memory)? {
        if packet.header().stream != stream {
            // Switched-off streams give no packets, but a stream that appears late may.
            others += 1;
            if others > limits.packets {
                return Err(Reject::TooManyPackets.into());
            }
            continue;
        }
        if reading.entries.len() >= limits.packets as usize {
            return Err(Reject::TooManyPackets.into());
        }
        if reading.entries.len().is_multiple_of(256) {
            budget.check()?;
        }
        packet = reading.take(packet)?;
    }
    let is_timed = opened.container.has_presentation_times();
    let index = reading.end(opened.demuxer.delay(stream), is_timed)?;
    if index.pts.len() > limits.frames as usize {
        return Err(Reject::TooManyFrames.into());
    }
    check_duration(&index.pts, opened.facts.time_base, limits)?;
    Ok(index)
}

/// What FFmpeg keeps for a packet besides its payload: its own structure, side data, the buffer's owners, padding.
const PACKET_BYTES: usize = 384;

/// An index that grows.
struct Reading {
    walk: Result<Walk, Doubt>,
    packets: Option<Vec<Packet>>,
    entries: Vec<Entry>,
    /// Bytes that may still be kept.
    room: usize,
}

impl Reading {
    /// Takes a packet and gives one to read the next into.
    fn take(&mut self, packet: Packet) -> Result<Packet, Reject> {
        let header = packet.header();
        let is_first = self.entries.is_empty();
        let facts = match &mut self.walk {
            Ok(_) if !is_first && packet.changes_parameters() => Err(Doubt::Parameters),
            Ok(_) if header.is_damaged => Err(Doubt::Damage),
            Ok(walk) => walk.packet(packet.bytes(), header.is_key),
            Err(doubt) => Err(*doubt),
        };
        let facts = facts.unwrap_or_else(|doubt| {
            self.walk = Err(doubt);
            Facts {
                is_shown: true,
                is_entry: false,
                is_spare: false,
            }
        });
        let no_room = |_| Reject::Memory;
        self.entries.try_reserve(1).map_err(no_room)?;
        self.entries.push(Entry::new(&header, &packet, facts));
        match self.room.checked_sub(packet.size() + PACKET_BYTES) {
            Some(room) => self.room = room,
            None => self.packets = None,
        }
        let Some(packets) = &mut self.packets else {
            return Ok(packet);
        };
        packets.try_reserve(1).map_err(no_room)?;
        packets.push(packet);
        Packet::new().map_err(|_| Reject::Memory)
    }

    /// Ends the index; `delay` is how many pictures the decoder waits for, and the container says when pictures are shown if it `is_timed`.
    fn end(self, delay: usize, is_timed: bool) -> Result<Index, Reject> {
        let mut pts: Vec<i64> = Vec::new();
        pts.try_reserve_exact(self.entries.len())
            .map_err(|_| Reject::Memory)?;
        pts.extend((self.entries.iter().filter(|entry| entry.is_shown)).map(|entry| entry.pts));
        pts.sort_unstable();
        let is_distinct = pts.is_sorted_by(|one, next| one < next);
        let (doubt, skips_unreferenced) = match &self.walk {
            Ok(walk) if walk.is_reordered() && !has_order(&self.entries, delay, is_timed) => {
                (Some(Doubt::Presentation), false)
            }
            Ok(walk) => {
                let delay = if walk.is_reordered() { delay } else { 0 };
                let doubt = check_order(&self.entries, is_distinct, delay);
                (doubt.err(), walk.skips_unreferenced())
            }
            Err(doubt) => (Some(*doubt), false),
        };
        Ok(Index {
            packets: self.packets,
            entries: self.entries,
            pts,
            doubt,
            skips_unreferenced,
        })
    }
}

/// Whether the time stamps of a codec that reorders pictures say when they are shown: if a decoder waits for pictures, but they come in the order of their
/// time stamps, these are the times of decoding.
fn has_order(entries: &[Entry], delay: usize, is_timed: bool) -> bool {
    let is_ascending = entries.is_sorted_by(|one, next| one.pts <= next.pts);
    is_timed && (delay == 0 || !is_ascending || entries.len() < 2)
}

/// Whether the time stamps are what decoding needs them to be, for a decoder that waits for `delay` pictures.
fn check_order(entries: &[Entry], is_distinct: bool, delay: usize) -> Result<(), Doubt> {
    let Some(first) = entries.first() else {
        return Ok(());
    };
    let is_timed = entries.iter().all(|entry| entry.pts != NO_TIME);
    let is_lowest = !first.is_shown || entries.iter().all(|entry| entry.pts >= first.pts);
    if !is_distinct || !is_timed || !is_lowest {
        return Err(Doubt::TimeStamps);
    }
    if !first.is_entry {
        return Err(Doubt::Start);
    }
    if !is_shown_in_order(entries, delay) {
        return Err(Doubt::Reordering);
    }
    Ok(())
}

/// Whether a decoder with this delay in pictures shows them in the order of their time stamps; it drops those that come too late.
fn is_shown_in_order(entries: &[Entry], delay: usize) -> bool {
    let mut waiting = BinaryHeap::with_capacity(delay.min(64) + 1);
    let mut last = i64::MIN;
    for entry in entries {
        if entry.pts < last {
            return false;
        }
        waiting.push(Reverse(entry.pts));
        if waiting.len() > delay
            && let Some(Reverse(next)) = waiting.pop()
        {
            last = next;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pts: &[i64]) -> Vec<Entry> {
        (pts.iter().enumerate())
            .map(|(i, &pts)| Entry::of(pts, i == 0))
            .collect()
    }

    #[test]
    fn pictures_that_come_later_than_the_decoder_waits_are_a_doubt() {
        let pyramid = entries(&[0, 4, 2, 1, 3, 8, 6, 5, 7]);
        assert_eq!(check_order(&pyramid, true, 2), Ok(()));
        assert_eq!(check_order(&pyramid, true, 1), Err(Doubt::Reordering));
        // Also time stamps that start again, between those before.
        let restarted = entries(&[0, 4, 8, 2, 6, 10]);
        assert_eq!(check_order(&restarted, true, 0), Err(Doubt::Reordering));
        let plain = entries(&[0, 1, 2]);
        assert_eq!(check_order(&plain, true, 0), Ok(()));
    }

    #[test]
    fn times_of_decoding_are_no_times_of_presentation() {
        let ascending = entries(&[0, 1, 2, 3]);
        let reordered = entries(&[0, 3, 1, 2]);
        assert!(has_order(&ascending, 0, true) && has_order(&reordered, 1, true));
        assert!(!has_order(&ascending, 1, true));
        assert!(!has_order(&ascending, 0, false) && !has_order(&reordered, 1, false));
    }

    #[test]
    fn time_stamps_must_be_there_and_follow_the_first() {
        let doubt = |pts: &[i64]| check_order(&entries(pts), true, 1);
        assert_eq!(doubt(&[0, NO_TIME]), Err(Doubt::TimeStamps));
        assert_eq!(doubt(&[0, -1]), Err(Doubt::TimeStamps));
        assert_eq!(
            check_order(&entries(&[0, 0]), false, 1),
            Err(Doubt::TimeStamps)
        );
        let mut cut = entries(&[5, 4, 6]);
        cut[0].is_shown = false;
        assert_eq!(check_order(&cut, true, 1), Ok(()));
        cut[0].is_entry = false;
        assert_eq!(check_order(&cut, true, 1), Err(Doubt::Start));
    }
}
