//! The messages between the server, the zygote and the workers: little-endian structs of fixed length with a magic number, a version, a kind and an id.
//!
//! Invariant: a message that is not exactly what its kind says is no message. Texts never cross.

mod frames;
mod reply;
mod request;

use std::time::Duration;

use super::sandbox::Allowance;
use crate::Layers;
use crate::answer::Ratio;

pub(super) use reply::Reply;
pub(super) use request::Request;
pub(crate) use request::Work;

/// Longer than any message.
pub(super) const LONGEST: usize = 16 * 1024;

const MAGIC: u32 = 0x5646_5346;
const VERSION: u16 = 5;

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Fork = 1,
    Kill = 2,
    Forked = 3,
    Exited = 4,
    Ready = 5,
    Request = 6,
    Reply = 7,
    More = 8,
}

/// Appends values.
struct Writer(Vec<u8>);

/// Takes values; `None` when there are no more.
struct Reader<'a>(&'a [u8]);

macro_rules! numbers {
    ($($type:ident),*) => {
        impl Writer {
            $(fn $type(&mut self, value: $type) { self.0.extend_from_slice(&value.to_le_bytes()); })*
        }
        impl Reader<'_> {
            $(fn $type(&mut self) -> Option<$type> {
                let (head, tail) = self.0.split_first_chunk()?;
                self.0 = tail;
                Some($type::from_le_bytes(*head))
            })*
        }
    };
}

numbers!(u8, u16, u32, u64, i32, i64, f32);

impl Writer {
    fn new(kind: Kind, id: u64) -> Self {
        let mut writer = Self(Vec::with_capacity(LONGEST));
        writer.u32(MAGIC);
        writer.u16(VERSION);
        writer.u16(kind as u16);
        writer.u64(id);
        writer
    }

    fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    fn ratio(&mut self, value: Ratio) {
        self.i32(value.numerator);
        self.i32(value.denominator);
    }
}

impl<'a> Reader<'a> {
    /// The id and the rest, when the message is of this kind.
    fn new(message: &'a [u8], kind: Kind) -> Option<(u64, Self)> {
        let mut reader = Self(message);
        let is_ours =
            reader.u32()? == MAGIC && reader.u16()? == VERSION && reader.u16()? == kind as u16;
        let id = reader.u64()?;
        is_ours.then_some((id, reader))
    }

    fn duration(&mut self) -> Option<Duration> {
        Some(Duration::from_nanos(self.u64()?))
    }

    fn ratio(&mut self) -> Option<Ratio> {
        Some(Ratio {
            numerator: self.i32()?,
            denominator: self.i32()?,
        })
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// What the server tells the zygote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Fork a worker that gets the descriptor which comes along.
    Fork {
        id: u64,
        /// Memory and processor time that the worker may use.
        allowance: Allowance,
        /// The layers that confine the worker.
        layers: Layers,
    },
    /// Kill a worker.
    Kill { id: u64 },
}

impl Command {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Fork {
                id,
                allowance,
                layers,
            } => {
                let mut writer = Writer::new(Kind::Fork, id);
                writer.u64(allowance.memory);
                writer.u64(allowance.cpu);
                writer.u8(layers.bits());
                writer.0
            }
            Self::Kill { id } => Writer::new(Kind::Kill, id).0,
        }
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        if let Some((id, reader)) = Reader::new(message, Kind::Kill) {
            reader.end()?;
            return Some(Self::Kill { id });
        }
        let (id, mut reader) = Reader::new(message, Kind::Fork)?;
        let (memory, cpu) = (reader.u64()?, reader.u64()?);
        let layers = Layers::from_bits(reader.u8()?)?;
        reader.end()?;
        Some(Self::Fork {
            id,
            allowance: Allowance { memory, cpu },
            layers,
        })
    }
}

/// What the zygote tells the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A worker runs as this process; 0 when it could not be forked.
    Forked { id: u64, pid: u32 },
    /// A worker ended with this wait status.
    Exited { id: u64, status: i32 },
}

impl Notice {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Forked { id, pid } => {
                let mut writer = Writer::new(Kind::Forked, id);
                writer.u32(pid);
                writer.0
            }
            Self::Exited { id, status } => {
                let mut writer = Writer::new(Kind::Exited, id);
                writer.i32(status);
                writer.0
            }
        }
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        if let Some((id, mut reader)) = Reader::new(message, Kind::Forked) {
            let pid = reader.u32()?;
            reader.end()?;
            return Some(Self::Forked { id, pid });
        }
        let (id, mut reader) = Reader::new(message, Kind::Exited)?;
        let status = reader.i32()?;
        reader.end()?;
        Some(Self::Exited { id, status })
    }
}

/// Asks a worker for the next part of the frames of the request with this id.
pub(super) fn encode_more(id: u64) -> Vec<u8> {
    Writer::new(Kind::More, id).0
}

/// The id of the request.
pub(super) fn decode_more(message: &[u8]) -> Option<u64> {
    let (id, reader) = Reader::new(message, Kind::More)?;
    reader.end()?;
    Some(id)
}

/// A worker's first message: it is confined by these layers.
pub(super) fn encode_ready(id: u64, layers: Layers) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Ready, id);
    writer.u8(layers.bits());
    writer.0
}

/// Id and layers.
pub(super) fn decode_ready(message: &[u8]) -> Option<(u64, Layers)> {
    let (id, mut reader) = Reader::new(message, Kind::Ready)?;
    let layers = Layers::from_bits(reader.u8()?)?;
    reader.end()?;
    Some((id, layers))
}

#[cfg(test)]
mod tests;
