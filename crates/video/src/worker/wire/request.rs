//! What the server asks of a worker.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::{Kind, Reader, Writer};
use crate::alter::Alter;
use crate::answer::{Containers, Ratio};
use crate::frames::FramesSpec;
use crate::request::{
    ClipSpec, ColorPolicy, Limits, MAX_ALTERS, MAX_SELECTED, MAX_VIEWS, PictureSpec, Rect,
    Sampling, StridedPart, Views, Windows,
};
use crate::spec::{FrameOrder, Normalization, RotationPolicy};
use crate::still::{Coding, Range, StillSpec};

/// What a worker is asked to take from a video.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    /// The facts of the video.
    Probe,
    /// The planes of a clip.
    Clip(ClipSpec),
    /// Whole pictures.
    Pictures(PictureSpec),
    /// The planes of a picture that came by itself.
    Still(StillSpec),
    /// The next part of the frames of a long video.
    Frames(Box<FramesSpec>),
}

impl Work {
    /// The order in which frames are counted.
    pub(crate) fn order(&self) -> FrameOrder {
        match self {
            Self::Probe | Self::Still(_) => FrameOrder::Display,
            Self::Clip(spec) => spec.order,
            Self::Pictures(spec) => spec.order,
            Self::Frames(spec) => spec.order,
        }
    }
}

/// What the server asks of a worker. The input comes along, and after it the output when `is_new_output`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::worker) struct Request {
    pub(in crate::worker) id: u64,
    pub(in crate::worker) input_bytes: u64,
    pub(in crate::worker) is_new_output: bool,
    /// Size of the output in bytes.
    pub(in crate::worker) output_bytes: u64,
    pub(in crate::worker) limits: Limits,
    pub(in crate::worker) work: Work,
}

impl Request {
    pub(in crate::worker) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(Kind::Request, self.id);
        writer.u64(self.input_bytes);
        writer.u8(self.is_new_output.into());
        writer.u64(self.output_bytes);
        writer.limits(&self.limits);
        // Facts and pictures have no views, and are sent as a clip of one.
        let (tag, spec, room) = match &self.work {
            Work::Probe => (0, None, 0),
            Work::Clip(spec) => (1, Some(spec.clone()), 0),
            Work::Pictures(spec) => (2, Some(as_clip(spec)), spec.bytes),
            Work::Still(spec) => (3, Some(spec.clip()), 0),
            Work::Frames(spec) => (4, Some(spec.as_clip()), 0),
        };
        writer.u8(tag);
        writer.u32(room);
        writer.coding(match &self.work {
            Work::Still(spec) => spec.coding,
            Work::Probe | Work::Clip(_) | Work::Pictures(_) | Work::Frames(_) => Coding::Jpeg,
        });
        writer.spec(&spec.unwrap_or_else(|| {
            as_clip(&PictureSpec {
                frames: NonZeroU16::MIN,
                sampling: Sampling::Uniform,
                rotation: RotationPolicy::Stored,
                order: FrameOrder::Display,
                color: ColorPolicy::Reference,
                bytes: 0,
            })
        }));
        writer.frames(match &self.work {
            Work::Frames(spec) => Some(spec),
            Work::Probe | Work::Clip(_) | Work::Pictures(_) | Work::Still(_) => None,
        });
        writer.0
    }

    pub(in crate::worker) fn decode(message: &[u8]) -> Option<Self> {
        let (id, mut reader) = Reader::new(message, Kind::Request)?;
        let input_bytes = reader.u64()?;
        let is_new_output = flag(reader.u8()?)?;
        let output_bytes = reader.u64()?;
        let limits = reader.limits()?;
        let tag = reader.u8()?;
        let room = reader.u32()?;
        let coding = reader.coding()?;
        let spec = reader.spec()?;
        let frames = reader.frames(&spec)?;
        reader.end()?;
        let work = match tag {
            0 => Work::Probe,
            1 => Work::Clip(spec),
            2 => Work::Pictures(PictureSpec {
                frames: spec.frames,
                sampling: spec.sampling,
                rotation: spec.rotation,
                order: spec.order,
                color: spec.color,
                bytes: room,
            }),
            3 => Work::Still(StillSpec {
                coding,
                views: spec.views,
                size: spec.size,
                normalization: spec.normalization,
            }),
            4 => Work::Frames(Box::new(frames?)),
            _ => return None,
        };
        Some(Self {
            id,
            input_bytes,
            is_new_output,
            output_bytes,
            limits,
            work,
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
        order: spec.order,
        color: spec.color,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    }
}

/// Number and argument of a change of pictures; whole arguments are small enough to be exact.
fn tagged(alter: Alter) -> (u8, f32) {
    match alter {
        Alter::AutoContrast => (0, 0.0),
        Alter::Equalize => (1, 0.0),
        Alter::Invert => (2, 0.0),
        Alter::Rotate(degrees) => (3, degrees),
        Alter::Posterize(bits) => (4, bits.into()),
        Alter::Solarize(threshold) => (5, threshold.into()),
        Alter::SolarizeAdd(add) => (6, add.into()),
        Alter::Color(factor) => (7, factor),
        Alter::Contrast(factor) => (8, factor),
        Alter::Brightness(factor) => (9, factor),
        Alter::Sharpness(factor) => (10, factor),
        Alter::ShearX(share) => (11, share),
        Alter::ShearY(share) => (12, share),
        Alter::TranslateX(share) => (13, share),
        Alter::TranslateY(share) => (14, share),
    }
}

fn untagged(tag: u8, argument: f32) -> Option<Alter> {
    Some(match tag {
        0 => Alter::AutoContrast,
        1 => Alter::Equalize,
        2 => Alter::Invert,
        3 => Alter::Rotate(argument),
        4 => Alter::Posterize(argument as u8),
        5 => Alter::Solarize(argument as u16),
        6 => Alter::SolarizeAdd(argument as u8),
        7 => Alter::Color(argument),
        8 => Alter::Contrast(argument),
        9 => Alter::Brightness(argument),
        10 => Alter::Sharpness(argument),
        11 => Alter::ShearX(argument),
        12 => Alter::ShearY(argument),
        13 => Alter::TranslateX(argument),
        14 => Alter::TranslateY(argument),
        _ => return None,
    })
}

pub(super) fn flag(value: u8) -> Option<bool> {
    match value {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl Writer {
    /// Tag, width and height; a JPEG has no size of its own here.
    fn coding(&mut self, coding: Coding) {
        let (tag, width, height) = match coding {
            Coding::Jpeg => (0, 0, 0),
            Coding::Rgb24 { width, height } => (1, width, height),
            Coding::Nv12 {
                width,
                height,
                range: Range::Limited,
            } => (2, width, height),
            Coding::Nv12 {
                width,
                height,
                range: Range::Full,
            } => (3, width, height),
        };
        self.u8(tag);
        self.u16(width);
        self.u16(height);
    }

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
        self.u8(limits.containers.bits());
    }

    fn spec(&mut self, spec: &ClipSpec) {
        self.u16(spec.frames.get());
        self.u8(spec.temporal_views.get());
        self.sampling(&spec.sampling);
        let indices: &[u32] = match &spec.sampling {
            Sampling::Indices(indices) => indices,
            Sampling::Uniform
            | Sampling::Strided(_)
            | Sampling::StridedPart(_)
            | Sampling::Fps(_)
            | Sampling::Windows(_) => &[],
        };
        for i in 0..MAX_SELECTED {
            self.u32(indices.get(i).copied().unwrap_or(0));
        }
        let (tag, rects): (u8, &[Rect]) = match &spec.views {
            Views::Center => (0, &[]),
            Views::Three => (1, &[]),
            Views::Rects(rects) => (2, rects),
            Views::Corners => (3, &[]),
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
        self.u8(match spec.order {
            FrameOrder::Display => 0,
            FrameOrder::Reference => 1,
        });
        self.u8(match spec.color {
            ColorPolicy::Reference => 0,
            ColorPolicy::Tagged => 1,
        });
        for value in [spec.normalization.mean, spec.normalization.std].concat() {
            self.f32(value);
        }
        self.u8(spec.alters.len() as u8);
        for i in 0..MAX_ALTERS {
            let alter = spec.alters.get(i).copied();
            let (tag, argument) = alter.map_or((0, 0.0), tagged);
            self.u8(tag);
            self.f32(argument);
        }
    }

    /// Tag, number, two times, a ratio, and the place of a part; explicit indices follow apart.
    fn sampling(&mut self, sampling: &Sampling) {
        const NONE: Duration = Duration::ZERO;
        let (tag, number, first, second) = match sampling {
            Sampling::Uniform => (0, 0, NONE, NONE),
            Sampling::Strided(rate) => (1, rate.get(), NONE, NONE),
            Sampling::Indices(_) => (2, 0, NONE, NONE),
            Sampling::Fps(_) => (3, 0, NONE, NONE),
            Sampling::Windows(windows) => (4, windows.first, windows.length, windows.stride),
            Sampling::StridedPart(part) => (5, part.rate.get(), NONE, NONE),
        };
        self.u8(tag);
        self.u32(number);
        self.duration(first);
        self.duration(second);
        self.ratio(match sampling {
            Sampling::Fps(rate) => *rate,
            Sampling::Uniform
            | Sampling::Strided(_)
            | Sampling::StridedPart(_)
            | Sampling::Indices(_)
            | Sampling::Windows(_) => Ratio {
                numerator: 0,
                denominator: 1,
            },
        });
        let (of, first) = match sampling {
            Sampling::StridedPart(part) => (part.of.get(), part.first),
            Sampling::Uniform
            | Sampling::Strided(_)
            | Sampling::Indices(_)
            | Sampling::Fps(_)
            | Sampling::Windows(_) => (0, 0),
        };
        self.u8(of);
        self.u8(first);
    }
}

impl Reader<'_> {
    fn coding(&mut self) -> Option<Coding> {
        let (tag, width, height) = (self.u8()?, self.u16()?, self.u16()?);
        let nv12 = |range| Coding::Nv12 {
            width,
            height,
            range,
        };
        match tag {
            0 => Some(Coding::Jpeg),
            1 => Some(Coding::Rgb24 { width, height }),
            2 => Some(nv12(Range::Limited)),
            3 => Some(nv12(Range::Full)),
            _ => None,
        }
    }

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
            containers: Containers::from_bits(self.u8()?)?,
        })
    }

    /// Reads a clip's request, in range.
    fn spec(&mut self) -> Option<ClipSpec> {
        let frames = NonZeroU16::new(self.u16()?)?;
        let temporal_views = NonZeroU8::new(self.u8()?)?;
        let (tag, number) = (self.u8()?, self.u32()?);
        let (length, stride, fps) = (self.duration()?, self.duration()?, self.ratio()?);
        let (of, first) = (self.u8()?, self.u8()?);
        let selected = usize::from(frames.get()) * usize::from(temporal_views.get());
        let mut indices = Vec::with_capacity(MAX_SELECTED);
        for _ in 0..MAX_SELECTED {
            indices.push(self.u32()?);
        }
        let sampling = match tag {
            0 => Sampling::Uniform,
            1 => Sampling::Strided(NonZeroU32::new(number)?),
            2 => {
                indices.truncate(selected);
                Sampling::Indices(indices)
            }
            3 => Sampling::Fps(fps),
            4 => Sampling::Windows(Windows {
                length,
                stride,
                first: number,
            }),
            5 => Sampling::StridedPart(StridedPart {
                rate: NonZeroU32::new(number)?,
                of: NonZeroU8::new(of)?,
                first,
            }),
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
            3 => Views::Corners,
            _ => return None,
        };
        let size = self.u16()?;
        let rotation = match self.u8()? {
            0 => RotationPolicy::Display,
            1 => RotationPolicy::Stored,
            _ => return None,
        };
        let order = match self.u8()? {
            0 => FrameOrder::Display,
            1 => FrameOrder::Reference,
            _ => return None,
        };
        let color = match self.u8()? {
            0 => ColorPolicy::Reference,
            1 => ColorPolicy::Tagged,
            _ => return None,
        };
        let normalization = self.normalization()?;
        let alters = self.alters()?;
        let spec = ClipSpec {
            frames,
            sampling,
            temporal_views,
            views,
            size,
            rotation,
            order,
            color,
            normalization,
            alters,
        };
        spec.validate().ok().map(|()| spec)
    }

    fn normalization(&mut self) -> Option<Normalization> {
        Some(Normalization {
            mean: [self.f32()?, self.f32()?, self.f32()?],
            std: [self.f32()?, self.f32()?, self.f32()?],
        })
    }

    /// Reads the operations on pictures.
    fn alters(&mut self) -> Option<Vec<Alter>> {
        let count = usize::from(self.u8()?);
        let mut alters = Vec::with_capacity(MAX_ALTERS);
        for i in 0..MAX_ALTERS {
            let (tag, argument) = (self.u8()?, self.f32()?);
            if i < count {
                alters.push(untagged(tag, argument)?);
            }
        }
        Some(alters)
    }
}
