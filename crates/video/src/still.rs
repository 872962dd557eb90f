//! One picture at a time, for live streams: a JPEG or raw pixels become the planes of a clip with one frame.
//!
//! Invariant: a picture becomes, to the bit, what it becomes as a frame of a video with the same pixels; JPEG is decoded by a confined worker only.

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;

use super::decode::wide;
use super::reject::Reject;
use super::request::{ClipSpec, ColorPolicy, Sampling, Views};
use super::transform::{Planes, Rgb, plan};
use super::worker::{Pixels, Work};
use super::{Decoder, Error, Input, Lane};
use crate::ids::TenantId;
use crate::spec::{FrameOrder, Normalization, RotationPolicy};

/// How the values of raw pictures are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Black is 16 and white 235, as in most videos.
    Limited,
    /// Black is 0 and white 255, as in JPEG.
    Full,
}

/// How a picture is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// A baseline or progressive JPEG; its size is its own. An orientation in its EXIF data is not applied.
    Jpeg,
    /// Rows of red, green and blue bytes without gaps.
    Rgb24 {
        /// Width in pixels.
        width: u16,
        /// Height in pixels.
        height: u16,
    },
    /// A plane of luma, then one of interleaved blue and red differences of half the width and height (BT.601), without gaps.
    Nv12 {
        /// Width in pixels, even.
        width: u16,
        /// Height in pixels, even.
        height: u16,
        /// How the values are to be read.
        range: Range,
    },
}

impl Coding {
    /// Width and height of every picture; `None` when each says its own.
    pub fn size(self) -> Option<(u32, u32)> {
        match self {
            Self::Jpeg => None,
            Self::Rgb24 { width, height } | Self::Nv12 { width, height, .. } => {
                Some((width.into(), height.into()))
            }
        }
    }

    /// Bytes of one picture; `None` when they vary.
    pub fn bytes(self) -> Option<usize> {
        let pixels = |width: u16, height: u16| usize::from(width) * usize::from(height);
        match self {
            Self::Jpeg => None,
            Self::Rgb24 { width, height } => Some(3 * pixels(width, height)),
            Self::Nv12 { width, height, .. } => Some(pixels(width, height) / 2 * 3),
        }
    }
}

/// What one picture is made into.
#[derive(Debug, Clone, PartialEq)]
pub struct StillSpec {
    /// How the picture is coded.
    pub coding: Coding,
    /// Views that are taken.
    pub views: Views,
    /// Side of a view in pixels (S).
    pub size: u16,
    /// Mean and deviation of the channels.
    pub normalization: Normalization,
}

impl StillSpec {
    /// The request for a clip of one frame with the same views.
    pub(super) fn clip(&self) -> ClipSpec {
        ClipSpec {
            frames: NonZeroU16::MIN,
            sampling: Sampling::Uniform,
            temporal_views: NonZeroU8::MIN,
            views: self.views.clone(),
            size: self.size,
            rotation: RotationPolicy::Stored,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: self.normalization,
            alters: Vec::new(),
        }
    }

    /// Values of one view of one picture: 3 × S × S.
    pub fn values_per_view(&self) -> usize {
        3 * usize::from(self.size) * usize::from(self.size)
    }

    /// Checks that the request is in range.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] names the first field that is not.
    pub fn validate(&self, pixels: u32) -> Result<(), Error> {
        let refused = |field, problem| Err(Error::InvalidRequest { field, problem });
        let (width, height, step) = match self.coding {
            Coding::Jpeg => return self.clip().validate(),
            Coding::Rgb24 { width, height } => (width, height, 1),
            Coding::Nv12 { width, height, .. } => (width, height, 2),
        };
        for (field, side) in [("width", width), ("height", height)] {
            if side == 0 || !side.is_multiple_of(step) {
                let even = if step == 2 { "an even number, " } else { "" };
                return refused(field, format!("expected {even}at least {step}, got {side}"));
            }
        }
        if u32::from(width) * u32::from(height) > pixels {
            let problem =
                format!("{width} × {height} pixels, the limit is {pixels} (video_pixels)");
            return refused("width", problem);
        }
        self.clip().validate()
    }
}

/// The views of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Still {
    /// Normalised planes of each view, f32 [3, S, S].
    pub views: Vec<Arc<[f32]>>,
    /// Width and height of the picture in pixels.
    pub size: (u32, u32),
}

impl Decoder {
    /// Makes the views of one picture. Dropping the future gives the work up.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the picture is refused, [`Error::InvalidRequest`] when raw bytes are not as many as the size says; the others when this
    /// server cannot decode now.
    pub async fn still(
        &self,
        tenant: &TenantId,
        lane: Lane,
        bytes: bytes::Bytes,
        spec: &StillSpec,
    ) -> Result<Still, Error> {
        if let Some(expected) = spec.coding.bytes().filter(|&own| own != bytes.len()) {
            let problem = format!("expected {expected} bytes, got {}", bytes.len());
            let field = "data";
            return Err(Error::InvalidRequest { field, problem });
        }
        if let Coding::Rgb24 { width, height } = spec.coding {
            let spec = spec.clone();
            // No codec and no colour conversion: only the transform, which is Rust and pure.
            let made = tokio::task::spawn_blocking(move || {
                let picture = Rgb {
                    bytes: &bytes,
                    stride: usize::from(width) * 3,
                    width: width.into(),
                    height: height.into(),
                };
                Still {
                    views: views(picture, &spec),
                    size: (width.into(), height.into()),
                }
            });
            return made.await.map_err(|_| Error::Stopped);
        }
        let input = Input::Bytes(bytes);
        let work = Work::Still(spec.clone());
        let answer = self.decode((tenant, lane), input, work).await?;
        let (Pixels::Planes(views), Some(&size)) = (answer.pixels, answer.sizes.first()) else {
            return Err(Error::Interrupted);
        };
        Ok(Still { views, size })
    }
}

/// The views of a picture of RGB triples.
fn views(picture: Rgb<'_>, spec: &StillSpec) -> Vec<Arc<[f32]>> {
    let size = (picture.width, picture.height);
    let mut row = Vec::new();
    let planned = plan(&spec.views, size, spec.size.into());
    let made = planned.iter().map(|view| {
        let mut values = vec![0.0; spec.values_per_view()];
        let planes = Planes {
            values: &mut values,
            frames: 1,
            frame: 0,
        };
        wide::write(view, picture, &spec.normalization, planes, &mut row);
        values.into()
    });
    made.collect()
}

/// Width and height in the first frame header of a JPEG.
///
/// # Errors
/// [`Reject::Undecodable`] for bytes that are not the beginning of a JPEG up to its frame header.
pub(super) fn jpeg_size(bytes: &[u8]) -> Result<(u32, u32), Reject> {
    const START: [u8; 2] = [0xff, 0xd8];
    let mut rest = bytes.strip_prefix(&START).ok_or(Reject::Undecodable)?;
    loop {
        let (&[mark, kind], after) = rest.split_first_chunk().ok_or(Reject::Undecodable)?;
        if mark != 0xff {
            return Err(Reject::Undecodable);
        }
        match kind {
            // A fill byte, which may stand before any marker.
            0xff => {
                rest = &rest[1..];
                continue;
            }
            // Restarts, a second start and the one marker for private use stand alone.
            0x01 | 0xd0..=0xd8 => {
                rest = after;
                continue;
            }
            // The end, or a scan before any frame header.
            0xd9 | 0xda => return Err(Reject::Undecodable),
            _ => {}
        }
        let (&length, _) = after.split_first_chunk().ok_or(Reject::Undecodable)?;
        let segment = after
            .get(2..usize::from(u16::from_be_bytes(length)))
            .ok_or(Reject::Undecodable)?;
        let is_frame = matches!(kind, 0xc0..=0xcf) && !matches!(kind, 0xc4 | 0xc8 | 0xcc);
        if is_frame {
            // Precision, height, width.
            let &[_, high, low, left, right, ..] = segment else {
                return Err(Reject::Undecodable);
            };
            let side = |bytes: [u8; 2]| u32::from(u16::from_be_bytes(bytes));
            return Ok((side([left, right]), side([high, low])));
        }
        rest = &after[2 + segment.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn the_size_of_a_jpeg_is_in_its_first_frame_header() {
        // Start, a comment, a fill byte, a progressive frame header of 640 × 480.
        let bytes = [
            0xff, 0xd8, 0xff, 0xfe, 0, 4, b'h', b'i', 0xff, 0xff, 0xc2, 0, 11, 8, 1, 0xe0, 2, 0x80,
            1, 1, 0x11, 0,
        ];
        assert_eq!(jpeg_size(&bytes), Ok((640, 480)));
        for cut in 2..18 {
            assert_eq!(jpeg_size(&bytes[..cut]), Err(Reject::Undecodable), "{cut}");
        }
        assert_eq!(jpeg_size(b"GIF89a"), Err(Reject::Undecodable));
        assert_eq!(jpeg_size(&[]), Err(Reject::Undecodable));
        let scan_first = [0xff, 0xd8, 0xff, 0xda, 0, 2];
        assert_eq!(jpeg_size(&scan_first), Err(Reject::Undecodable));
    }

    #[test]
    fn nothing_makes_the_reader_of_headers_panic_or_turn_for_ever() {
        let mut random = Stream::new(8, "jpeg");
        for _ in 0..20_000 {
            let mut bytes = vec![0xff, 0xd8];
            for _ in 0..random.below(40) {
                // Markers and short lengths are likely.
                let byte = match random.below(3) {
                    0 => 0xff,
                    1 => random.below(6) as u8,
                    _ => random.bits() as u8,
                };
                bytes.push(byte);
            }
            let _ = jpeg_size(&bytes);
        }
    }

    #[test]
    fn raw_pictures_have_sides_that_fit() {
        let spec = |coding| StillSpec {
            coding,
            views: Views::Center,
            size: 16,
            normalization: Normalization::CLIP,
        };
        let nv12 = |width, height| {
            let range = Range::Limited;
            spec(Coding::Nv12 {
                width,
                height,
                range,
            })
        };
        assert_eq!(nv12(4, 2).coding.bytes(), Some(12));
        assert!(nv12(4, 2).validate(8).is_ok());
        assert!(
            spec(Coding::Rgb24 {
                width: 3,
                height: 1
            })
            .validate(8)
            .is_ok()
        );
        for (spec, field) in [
            (nv12(3, 2), "width"),
            (nv12(2, 1), "height"),
            (nv12(0, 2), "width"),
            (nv12(4, 4), "width"),
            (
                spec(Coding::Rgb24 {
                    width: 1,
                    height: 0,
                }),
                "height",
            ),
        ] {
            let refused = spec.validate(8);
            assert!(
                matches!(refused, Err(Error::InvalidRequest { field: own, .. }) if own == field),
                "{refused:?}"
            );
        }
    }
}
