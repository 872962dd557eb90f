//! What the server asks of a worker about the frames of a long video, beside what it asks about any pictures.

use std::num::NonZeroU32;
use std::time::Duration;

use super::request::flag;
use super::{Reader, Writer};
use crate::frames::{FramesSpec, Slide, Stride};
use crate::request::{ClipSpec, MAX_SELECTED};

impl Writer {
    /// Writes what the frames are; nothing but zeros for requests about something else.
    pub(super) fn frames(&mut self, spec: Option<&FramesSpec>) {
        const NONE: Duration = Duration::ZERO;
        let slide = spec.map(|spec| &spec.slide);
        let (tag, frames, time) = match slide.map(|slide| slide.stride) {
            Some(Stride::Frames(frames)) => (0, frames.get(), NONE),
            Some(Stride::Time(time)) => (1, 0, time),
            None => (0, 0, NONE),
        };
        self.u8(tag);
        self.u32(frames);
        self.duration(time);
        self.duration(slide.map_or(NONE, |slide| slide.start));
        for bound in [
            slide.and_then(|slide| slide.after),
            slide.and_then(|slide| slide.end),
        ] {
            self.u8(bound.is_some().into());
            self.duration(bound.unwrap_or(NONE));
        }
        self.u32(spec.map_or(0, |spec| spec.from));
        let offsets: &[u32] = slide.map_or(&[], |slide| &slide.offsets);
        self.u16(offsets.len() as u16);
        for i in 0..MAX_SELECTED {
            self.u32(offsets.get(i).copied().unwrap_or(0));
        }
    }
}

impl Reader<'_> {
    /// Reads what the frames are; `None` inside when they are out of range, as in requests about something else.
    pub(super) fn frames(&mut self, pictures: &ClipSpec) -> Option<Option<FramesSpec>> {
        let (tag, frames, time) = (self.u8()?, self.u32()?, self.duration()?);
        let start = self.duration()?;
        let mut bound = || {
            let (is_there, bound) = (flag(self.u8()?)?, self.duration()?);
            Some(is_there.then_some(bound))
        };
        let (after, end) = (bound()?, bound()?);
        let from = self.u32()?;
        let count = usize::from(self.u16()?);
        let mut offsets = Vec::with_capacity(MAX_SELECTED);
        for _ in 0..MAX_SELECTED {
            offsets.push(self.u32()?);
        }
        offsets.truncate(count);
        let stride = match (tag, NonZeroU32::new(frames)) {
            (0, Some(frames)) => Stride::Frames(frames),
            (1, None) => Stride::Time(time),
            _ => return Some(None),
        };
        let spec = FramesSpec {
            slide: Slide {
                stride,
                offsets,
                start,
                after,
                end,
            },
            views: pictures.views.clone(),
            size: pictures.size,
            rotation: pictures.rotation,
            order: pictures.order,
            color: pictures.color,
            normalization: pictures.normalization,
            from,
        };
        Some(spec.validate().is_ok().then_some(spec))
    }
}
