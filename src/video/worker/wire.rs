//! The messages between the server, the zygote and the workers: little-endian structs of fixed length with a magic number, a version, a kind and an id.
//!
//! Invariant: a message that is not exactly what its kind says is no message. Texts never cross.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::spec::{Normalization, RotationPolicy};
use crate::video::answer::{Codec, Container, Probe, Ratio, Rotation, Warnings};
use crate::video::decode::{Outcome, Refusal};
use crate::video::reject::Reject;
use crate::video::request::{
    ClipSpec, Limits, MAX_SELECTED, MAX_VIEWS, PictureSpec, Rect, Sampling, Views,
};

/// Longer than any message.
pub(super) const LONGEST: usize = 16 * 1024;

const MAGIC: u32 = 0x5646_5346;
const VERSION: u16 = 1;

/// What a message is.
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
        /// Address space in bytes.
        memory: u64,
        /// Processor time of its whole life in seconds.
        cpu: u64,
    },
    /// Kill a worker.
    Kill { id: u64 },
}

impl Command {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Fork { id, memory, cpu } => {
                let mut writer = Writer::new(Kind::Fork, id);
                writer.u64(memory);
                writer.u64(cpu);
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
        reader.end()?;
        Some(Self::Fork { id, memory, cpu })
    }
}

/// What the zygote tells the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// A worker runs as this process; 0 when it could not be forked.
    Forked { id: u64, pid: u32 },
    /// A worker ended with this wait status.
    Exited { id: u64, status: i32 },
}

impl Report {
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

/// A worker's first message: it is confined by these layers, one bit each.
pub(super) fn encode_ready(id: u64, layers: u8) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Ready, id);
    writer.u8(layers);
    writer.0
}

/// Id and layers.
pub(super) fn decode_ready(message: &[u8]) -> Option<(u64, u8)> {
    let (id, mut reader) = Reader::new(message, Kind::Ready)?;
    let layers = reader.u8()?;
    reader.end()?;
    Some((id, layers))
}

/// What is wanted of a video.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::video) enum Wanted {
    /// The facts.
    Probe,
    /// A clip.
    Clip(ClipSpec),
    /// Pictures.
    Pictures(PictureSpec),
}

/// What the server asks of a worker. The input comes along, and after it the output when `is_new_output`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) input_bytes: u64,
    pub(super) is_new_output: bool,
    pub(super) limits: Limits,
    pub(super) wanted: Wanted,
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(Kind::Request, self.id);
        writer.u64(self.input_bytes);
        writer.u8(self.is_new_output.into());
        writer.limits(&self.limits);
        // Facts and pictures have no views, and are sent as a clip of one.
        let (tag, spec, room) = match &self.wanted {
            Wanted::Probe => (0, None, 0),
            Wanted::Clip(spec) => (1, Some(spec.clone()), 0),
            Wanted::Pictures(spec) => (2, Some(as_clip(spec)), spec.bytes),
        };
        writer.u8(tag);
        writer.u32(room);
        writer.spec(&spec.unwrap_or_else(|| {
            as_clip(&PictureSpec {
                frames: NonZeroU16::MIN,
                sampling: Sampling::Uniform,
                rotation: RotationPolicy::Stored,
                bytes: 0,
            })
        }));
        writer.0
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (id, mut reader) = Reader::new(message, Kind::Request)?;
        let input_bytes = reader.u64()?;
        let is_new_output = flag(reader.u8()?)?;
        let limits = reader.limits()?;
        let tag = reader.u8()?;
        let room = reader.u32()?;
        let spec = reader.spec()?;
        reader.end()?;
        let wanted = match tag {
            0 => Wanted::Probe,
            1 => Wanted::Clip(spec),
            2 => Wanted::Pictures(PictureSpec {
                frames: spec.frames,
                sampling: spec.sampling,
                rotation: spec.rotation,
                bytes: room,
            }),
            _ => return None,
        };
        Some(Self {
            id,
            input_bytes,
            is_new_output,
            limits,
            wanted,
        })
    }
}

fn as_clip(spec: &PictureSpec) -> ClipSpec {
    ClipSpec {
        frames: spec.frames,
        sampling: spec.sampling.clone(),
        temporal_views: NonZeroU8::MIN,
        views: Views::Center,
        size: 8,
        rotation: spec.rotation,
        normalization: Normalization::CLIP,
    }
}

fn flag(value: u8) -> Option<bool> {
    match value {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl Writer {
    fn limits(&mut self, limits: &Limits) {
        self.u64(limits.bytes);
        self.u32(limits.pixels);
        self.u32(limits.packets);
        self.u32(limits.frames);
        self.u16(limits.streams);
        self.duration(limits.duration);
        self.duration(limits.wall);
        self.duration(limits.cpu);
        self.u64(limits.memory);
    }

    fn spec(&mut self, spec: &ClipSpec) {
        self.u16(spec.frames.get());
        self.u8(spec.temporal_views.get());
        let (tag, rate, indices): (u8, u32, &[u32]) = match &spec.sampling {
            Sampling::Uniform => (0, 0, &[]),
            Sampling::Strided(rate) => (1, rate.get(), &[]),
            Sampling::Indices(indices) => (2, 0, indices),
        };
        self.u8(tag);
        self.u32(rate);
        for i in 0..MAX_SELECTED {
            self.u32(indices.get(i).copied().unwrap_or(0));
        }
        let (tag, rects): (u8, &[Rect]) = match &spec.views {
            Views::Center => (0, &[]),
            Views::Three => (1, &[]),
            Views::Rects(rects) => (2, rects),
        };
        self.u8(tag);
        self.u8(rects.len() as u8);
        for i in 0..MAX_VIEWS {
            let rect = rects.get(i).copied().unwrap_or(Rect {
                x: 0,
                y: 0,
                width: 1,
                height: 1,
                flip: false,
            });
            for value in [rect.x, rect.y, rect.width, rect.height] {
                self.u32(value);
            }
            self.u8(rect.flip.into());
        }
        self.u16(spec.size);
        self.u8(match spec.rotation {
            RotationPolicy::Display => 0,
            RotationPolicy::Stored => 1,
        });
        for value in [spec.normalization.mean, spec.normalization.std].concat() {
            self.f32(value);
        }
    }
}

impl Reader<'_> {
    fn limits(&mut self) -> Option<Limits> {
        Some(Limits {
            bytes: self.u64()?,
            pixels: self.u32()?,
            packets: self.u32()?,
            frames: self.u32()?,
            streams: self.u16()?,
            duration: self.duration()?,
            wall: self.duration()?,
            cpu: self.duration()?,
            memory: self.u64()?,
        })
    }

    /// Reads a clip's request, in range.
    fn spec(&mut self) -> Option<ClipSpec> {
        let frames = NonZeroU16::new(self.u16()?)?;
        let temporal_views = NonZeroU8::new(self.u8()?)?;
        let (tag, rate) = (self.u8()?, self.u32()?);
        let selected = usize::from(frames.get()) * usize::from(temporal_views.get());
        let mut indices = Vec::with_capacity(MAX_SELECTED);
        for _ in 0..MAX_SELECTED {
            indices.push(self.u32()?);
        }
        let sampling = match tag {
            0 => Sampling::Uniform,
            1 => Sampling::Strided(NonZeroU32::new(rate)?),
            2 => {
                indices.truncate(selected);
                Sampling::Indices(indices)
            }
            _ => return None,
        };
        let (tag, count) = (self.u8()?, self.u8()?);
        let mut rects = Vec::with_capacity(MAX_VIEWS);
        for _ in 0..MAX_VIEWS {
            rects.push(Rect {
                x: self.u32()?,
                y: self.u32()?,
                width: self.u32()?,
                height: self.u32()?,
                flip: flag(self.u8()?)?,
            });
        }
        rects.truncate(usize::from(count));
        let views = match tag {
            0 => Views::Center,
            1 => Views::Three,
            2 => Views::Rects(rects),
            _ => return None,
        };
        let size = self.u16()?;
        let rotation = match self.u8()? {
            0 => RotationPolicy::Display,
            1 => RotationPolicy::Stored,
            _ => return None,
        };
        let mean = [self.f32()?, self.f32()?, self.f32()?];
        let std = [self.f32()?, self.f32()?, self.f32()?];
        let spec = ClipSpec {
            frames,
            sampling,
            temporal_views,
            views,
            size,
            rotation,
            normalization: Normalization { mean, std },
        };
        spec.validate().ok().map(|()| spec)
    }
}

/// What a worker answers.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) result: Result<Outcome, Refusal>,
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(Kind::Reply, self.id);
        let (status, reject, index, frames) = match &self.result {
            Ok(_) => (0, 0, 0, 0),
            Err(Refusal::Rejected(reject)) => (1, *reject as u16, 0, 0),
            Err(Refusal::IndexOutOfRange { index, frames }) => (2, 0, *index, *frames),
            Err(Refusal::PicturesTooLarge) => (3, 0, 0, 0),
        };
        writer.u8(status);
        writer.u16(reject);
        writer.u32(index);
        writer.u32(frames);
        let outcome = self.result.as_ref().ok();
        writer.probe(outcome.map(|outcome| &outcome.probe));
        let (indices, pts, sizes): (&[u32], &[i64], &[(u32, u32)]) = outcome
            .map_or((&[], &[], &[]), |outcome| {
                (&outcome.indices, &outcome.pts, &outcome.sizes)
            });
        writer.u16(indices.len() as u16);
        writer.u16(sizes.len() as u16);
        for i in 0..MAX_SELECTED {
            writer.u32(indices.get(i).copied().unwrap_or(0));
            writer.i64(pts.get(i).copied().unwrap_or(0));
            let (width, height) = sizes.get(i).copied().unwrap_or((0, 0));
            writer.u32(width);
            writer.u32(height);
        }
        writer.0
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (id, mut reader) = Reader::new(message, Kind::Reply)?;
        let (status, reject) = (reader.u8()?, reader.u16()?);
        let (index, frames) = (reader.u32()?, reader.u32()?);
        // A refusal has no facts, but their bytes.
        let (probe, mut reader) = reader.probe()?;
        let (selected, sized) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
        let (mut indices, mut pts, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..MAX_SELECTED {
            indices.push(reader.u32()?);
            pts.push(reader.i64()?);
            sizes.push((reader.u32()?, reader.u32()?));
        }
        reader.end()?;
        if selected > MAX_SELECTED || sized > MAX_SELECTED {
            return None;
        }
        indices.truncate(selected);
        pts.truncate(selected);
        sizes.truncate(sized);
        let result = match status {
            0 => Ok(Outcome {
                probe: probe?,
                indices,
                pts,
                sizes,
            }),
            1 => Err(Refusal::Rejected(Reject::from_code(reject)?)),
            2 => Err(Refusal::IndexOutOfRange { index, frames }),
            3 => Err(Refusal::PicturesTooLarge),
            _ => return None,
        };
        Some(Self { id, result })
    }
}

impl Writer {
    fn probe(&mut self, probe: Option<&Probe>) {
        let start = self.0.len();
        if let Some(probe) = probe {
            self.u8(probe.container as u8);
            self.u8(probe.codec as u8);
            self.u8(probe.rotation as u8);
            self.u8(probe.warnings.bits());
            self.u16(probe.streams);
            self.u32(probe.width);
            self.u32(probe.height);
            self.u32(probe.frames);
            self.ratio(probe.time_base);
            self.ratio(probe.rate);
            self.ratio(probe.sar);
            self.i64(probe.first_pts);
            self.duration(probe.duration);
        }
        self.0.resize(start + PROBE_BYTES, 0);
    }
}

const PROBE_BYTES: usize = 4 + 2 + 3 * 4 + 3 * 8 + 8 + 8;

impl<'a> Reader<'a> {
    /// The probe, or `None` inside when it has an unknown value, and what follows it.
    fn probe(&mut self) -> Option<(Option<Probe>, Reader<'a>)> {
        let (own, rest) = self.0.split_at_checked(PROBE_BYTES)?;
        Some((Reader(own).facts(), Reader(rest)))
    }

    fn facts(&mut self) -> Option<Probe> {
        Some(Probe {
            container: Container::from_code(self.u8()?)?,
            codec: Codec::from_code(self.u8()?)?,
            rotation: Rotation::from_code(self.u8()?)?,
            warnings: Warnings::from_bits(self.u8()?)?,
            streams: self.u16()?,
            width: self.u32()?,
            height: self.u32()?,
            frames: self.u32()?,
            time_base: self.ratio()?,
            rate: self.ratio()?,
            sar: self.ratio()?,
            first_pts: self.i64()?,
            duration: self.duration()?,
        })
    }
}
