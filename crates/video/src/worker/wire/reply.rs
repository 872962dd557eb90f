//! What a worker answers. A refusal is as long as an answer.

use super::{Kind, Reader, Writer};
use crate::answer::{Codec, Container, Probe, Refused, Rotation, Warnings};
use crate::decode::{Refusal, Summary};
use crate::reject::{Evidence, Reject, Rejection};
use crate::request::MAX_SELECTED;
use crate::sampling::OutOfRange;

/// What a worker answers.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) struct Reply {
    pub(in crate::worker) id: u64,
    pub(in crate::worker) result: Result<Summary, Refusal>,
    /// Whether more frames follow when they are asked for.
    pub(in crate::worker) goes_on: bool,
}

impl Reply {
    /// An answer after which nothing follows.
    pub(in crate::worker) fn last(id: u64, result: Result<Summary, Refusal>) -> Self {
        Self {
            id,
            result,
            goes_on: false,
        }
    }

    /// The input is refused.
    pub(in crate::worker) fn refusal(id: u64, reject: Reject) -> Self {
        Self::last(id, Err(reject.into()))
    }

    pub(in crate::worker) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(Kind::Reply, self.id);
        let (status, reject, evidence) = match &self.result {
            Ok(_) if self.goes_on => (5, 0, Evidence::Nothing),
            Ok(summary) if summary.probe.is_none() => (4, 0, Evidence::Nothing),
            Ok(_) => (0, 0, Evidence::Nothing),
            Err(Refusal::Rejected(rejection)) => (1, rejection.reject as u16, rejection.evidence),
            Err(Refusal::OutOfRange(missing)) => {
                (2, 0, Evidence::Size(missing.index, missing.count))
            }
            Err(Refusal::PicturesTooLarge) => (3, 0, Evidence::Nothing),
        };
        writer.u8(status);
        writer.u16(reject);
        writer.evidence(evidence);
        let summary = self.result.as_ref().ok();
        writer.probe(summary.and_then(|summary| summary.probe.as_ref()));
        let (indices, pts, sizes): (&[u32], &[i64], &[(u32, u32)]) = summary
            .map_or((&[], &[], &[]), |summary| {
                (&summary.indices, &summary.pts, &summary.sizes)
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

    pub(in crate::worker) fn decode(message: &[u8]) -> Option<Self> {
        let (id, mut reader) = Reader::new(message, Kind::Reply)?;
        let (status, reject) = (reader.u8()?, reader.u16()?);
        let evidence = reader.evidence()?;
        // A refusal and a picture that came by itself have no facts, but their bytes.
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
            0 | 5 => Ok(Summary {
                probe: Some(probe?),
                indices,
                pts,
                sizes,
            }),
            4 => Ok(Summary {
                probe: None,
                indices,
                pts,
                sizes,
            }),
            1 => {
                let rejection = Rejection::of(Reject::from_code(reject)?, evidence);
                Err(Refusal::Rejected(rejection))
            }
            2 => {
                let Evidence::Size(index, count) = evidence else {
                    return None;
                };
                Err(Refusal::OutOfRange(OutOfRange { index, count }))
            }
            3 => Err(Refusal::PicturesTooLarge),
            _ => return None,
        };
        Some(Self {
            id,
            result,
            goes_on: status == 5,
        })
    }
}

impl Writer {
    /// What was found: its kind and two numbers.
    fn evidence(&mut self, evidence: Evidence) {
        let (tag, one, other) = match evidence {
            Evidence::Nothing => (0, 0, 0),
            Evidence::Count(count) => (1, count, 0),
            Evidence::Size(width, height) => (2, width.into(), height.into()),
            Evidence::Codec(id) => (3, id.into(), 0),
            Evidence::Container(container) => (4, u64::from(container as u8), 0),
            Evidence::Unreadable(container) => (5, u64::from(container as u8), 0),
        };
        self.u8(tag);
        self.u64(one);
        self.u64(other);
    }

    fn probe(&mut self, probe: Option<&Probe>) {
        let start = self.0.len();
        if let Some(probe) = probe {
            self.u8(probe.container as u8);
            self.u8(probe.codec as u8);
            self.u8(probe.rotation as u8);
            self.u8(probe.mirrored.into());
            self.u8(probe.warnings.bits());
            self.u16(probe.streams);
            self.u32(probe.width);
            self.u32(probe.height);
            self.u32(probe.frames);
            self.u32(probe.reference_frames);
            self.ratio(probe.time_base);
            self.ratio(probe.rate);
            self.ratio(probe.sar);
            self.i64(probe.first_pts);
            self.duration(probe.duration);
        }
        self.0.resize(start + PROBE_BYTES, 0);
    }
}

const PROBE_BYTES: usize = 5 + 2 + 4 * 4 + 3 * 8 + 8 + 8;

impl<'a> Reader<'a> {
    fn evidence(&mut self) -> Option<Evidence> {
        let (tag, one, other) = (self.u8()?, self.u64()?, self.u64()?);
        let small = |number: u64| u32::try_from(number).ok();
        Some(match tag {
            0 => Evidence::Nothing,
            1 => Evidence::Count(one),
            2 => Evidence::Size(small(one)?, small(other)?),
            3 => Evidence::Codec(small(one)?),
            4 => Evidence::Container(Refused::from_code(u8::try_from(one).ok()?)?),
            5 => Evidence::Unreadable(Container::from_code(u8::try_from(one).ok()?)?),
            _ => return None,
        })
    }

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
            mirrored: match self.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            warnings: Warnings::from_bits(self.u8()?)?,
            streams: self.u16()?,
            width: self.u32()?,
            height: self.u32()?,
            frames: self.u32()?,
            reference_frames: self.u32()?,
            time_base: self.ratio()?,
            rate: self.ratio()?,
            sar: self.ratio()?,
            first_pts: self.i64()?,
            duration: self.duration()?,
        })
    }
}
