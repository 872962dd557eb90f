//! Hands an indexed packet out again: from memory or, when the payloads are too many bytes to keep, from the container.
//!
//! Invariant: what is handed out is the packet that was indexed: time stamps, place and size agree, or there is none.

use std::fs::File;

use crate::ffmpeg::owned::Packet;
use crate::probe::{self, Entry, Index, Opened};
use crate::reject::{Reject, Rejection};
use crate::request::Limits;

/// Packets that are read rather than jumped over.
const NEAR: usize = 64;
/// Packets that are read after a jump, to find the one that is wanted: a jump ends at a key packet before it.
const FAR: usize = 4096;

/// The packets of an index.
pub(super) struct Packets<'a> {
    file: (&'a File, u64),
    limits: &'a Limits,
    index: &'a Index,
    /// The container, when packets are read again.
    again: Option<Again<'a>>,
}

/// A container that is read again.
struct Again<'a> {
    opened: Opened<'a>,
    packet: Packet,
    /// Place of the packet that is read next.
    next: usize,
}

impl<'a> Packets<'a> {
    /// The packets of a file of this length.
    pub(super) fn new(file: (&'a File, u64), limits: &'a Limits, index: &'a Index) -> Self {
        Self {
            file,
            limits,
            index,
            again: None,
        }
    }

    /// The packet at a place of the index; `None` when it is not there any more.
    pub(super) fn get(&mut self, place: usize) -> Result<Option<&Packet>, Rejection> {
        let index = self.index;
        if let Some(packets) = &index.packets {
            return Ok(packets.get(place));
        }
        let Some(wanted) = index.entries.get(place) else {
            return Ok(None);
        };
        let is_here = match &mut self.again {
            Some(again) => again.reach(&index.entries, place, wanted)?,
            None => false,
        };
        if !is_here {
            // From the beginning: slow, and always right.
            self.again = None;
            let (file, length) = self.file;
            let mut again = Again {
                opened: probe::open(file, length, self.limits)?,
                packet: Packet::new().map_err(|_| Reject::Memory)?,
                next: 0,
            };
            let is_far = place > NEAR && again.jump(place, wanted)?;
            if !is_far {
                if again.next > 0 {
                    again.opened = probe::open(file, length, self.limits)?;
                    again.next = 0;
                }
                if !again.read_on(&index.entries, place)? {
                    return Ok(None);
                }
            }
            self.again = Some(again);
        }
        Ok(self.again.as_ref().map(|again| &again.packet))
    }
}

impl Again<'_> {
    /// Reads the packet at a place from where it is, or jumps to it; `false` when it is not found this way.
    fn reach(&mut self, entries: &[Entry], place: usize, wanted: &Entry) -> Result<bool, Reject> {
        if (self.next..self.next + NEAR).contains(&place) {
            return self.read_on(entries, place);
        }
        self.jump(place, wanted)
    }

    /// Reads up to a place; every packet must be the one that was indexed there.
    fn read_on(&mut self, entries: &[Entry], place: usize) -> Result<bool, Reject> {
        while self.next <= place {
            let entry = entries.get(self.next);
            if !self.read()? || !entry.is_some_and(|entry| entry.is(&self.packet)) {
                return Ok(false);
            }
            self.next += 1;
        }
        Ok(true)
    }

    /// Goes to a packet by its decoding time.
    fn jump(&mut self, place: usize, wanted: &Entry) -> Result<bool, Reject> {
        // Whatever comes of it, the next packet is unknown.
        self.next = usize::MAX - NEAR;
        let Some(dts) = wanted.decoding_time() else {
            return Ok(false);
        };
        if self.opened.demuxer.seek(self.opened.stream, dts).is_err() {
            return Ok(false);
        }
        for _ in 0..FAR {
            if !self.read()? {
                return Ok(false);
            }
            if wanted.is(&self.packet) {
                self.next = place + 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the next packet of the video stream; `false` at the end.
    fn read(&mut self) -> Result<bool, Reject> {
        loop {
            let is_there = self.opened.demuxer.read(&mut self.packet);
            if !is_there.map_err(|_| Reject::Memory)? {
                return Ok(false);
            }
            if self.packet.header().stream == self.opened.stream {
                return Ok(true);
            }
        }
    }
}
