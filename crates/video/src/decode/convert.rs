//! Colour and rotation: a decoded picture becomes RGB triples, as PyAV's `to_rgb` makes them.
//!
//! BT.601 with limited range whatever the tags say (full range only for `yuvj*` formats), unless the request wants the tags; and no scaler flag but
//! bilinear: other flags move the mean by one to three levels.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use ffmpeg_sys_the_third as ff;

use crate::answer::{Orientation, Rotation};
use crate::ffmpeg::owned::{Frame, Scaler};
use crate::reject::Reject;
use crate::request::ColorPolicy;
use crate::transform::Rgb;

/// Pixels to a multiple of which rows are padded, since swscale drops the last columns of others.
const ROW_PIXELS: usize = 64;

/// Converts pictures of one video.
pub(crate) struct Converter {
    scaler: Option<(Key, Scaler)>,
    rows: Vec<u8>,
    turned: Vec<u8>,
    orientation: Orientation,
    color: ColorPolicy,
}

/// What a scaler is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    size: (c_int, c_int),
    format: c_int,
    /// The number of one of swscale's tables of coefficients.
    matrix: c_int,
    is_full_range: bool,
}

impl Key {
    fn new(frame: &Frame, color: ColorPolicy) -> Self {
        // SAFETY: the frame is alive.
        let frame = unsafe { &*frame.as_ptr() };
        let is_jpeg = is_full_range(ff::AVPixelFormat(frame.format as _));
        let (matrix, is_full_range) = match color {
            ColorPolicy::Reference => (ff::SWS_CS_DEFAULT as c_int, is_jpeg),
            ColorPolicy::Tagged => (
                matrix(frame.colorspace),
                is_jpeg || frame.color_range == ff::AVColorRange::JPEG,
            ),
        };
        Self {
            size: (frame.width, frame.height),
            format: frame.format,
            matrix,
            is_full_range,
        }
    }
}

/// The coefficients of a tagged matrix.
fn matrix(tag: ff::AVColorSpace) -> c_int {
    (match tag {
        ff::AVColorSpace::BT709 => ff::SWS_CS_ITU709,
        ff::AVColorSpace::FCC => ff::SWS_CS_FCC,
        ff::AVColorSpace::SMPTE240M => ff::SWS_CS_SMPTE240M,
        ff::AVColorSpace::BT2020_NCL | ff::AVColorSpace::BT2020_CL => ff::SWS_CS_BT2020,
        _ => ff::SWS_CS_DEFAULT,
    }) as c_int
}

fn is_full_range(format: ff::AVPixelFormat) -> bool {
    [
        ff::AVPixelFormat::YUVJ420P,
        ff::AVPixelFormat::YUVJ422P,
        ff::AVPixelFormat::YUVJ444P,
        ff::AVPixelFormat::YUVJ440P,
        ff::AVPixelFormat::YUVJ411P,
    ]
    .contains(&format)
}

/// Makes room for `size` bytes without aborting when there is none.
fn reserve(buffer: &mut Vec<u8>, size: usize) -> Result<(), Reject> {
    if buffer.len() < size {
        buffer
            .try_reserve_exact(size - buffer.len())
            .map_err(|_| Reject::Memory)?;
        buffer.resize(size, 0);
    }
    Ok(())
}

impl Converter {
    /// A converter that brings pictures into this orientation and takes their colours by this policy.
    pub(crate) fn new(orientation: Orientation, color: ColorPolicy) -> Self {
        Self {
            scaler: None,
            rows: Vec::new(),
            turned: Vec::new(),
            orientation,
            color,
        }
    }

    /// Converts a picture; the result is valid until the next call.
    pub(crate) fn rgb(&mut self, frame: &Frame) -> Result<Rgb<'_>, Reject> {
        let key = Key::new(frame, self.color);
        let (width, height) = frame.size();
        let (width, height) = (width as usize, height as usize);
        if width == 0 || height == 0 {
            return Err(Reject::Undecodable);
        }
        let stride = width.next_multiple_of(ROW_PIXELS) * 3;
        // A little more than the rows, since vector code may write past their end.
        reserve(&mut self.rows, stride * height + ROW_PIXELS)?;
        let rows = &mut self.rows;
        let scaler = match &mut self.scaler {
            Some((own, scaler)) if *own == key => scaler,
            slot => &slot.insert((key, scaler(key)?)).1,
        };
        let targets = [
            rows.as_mut_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        ];
        let strides = [stride as c_int, 0, 0, 0];
        // SAFETY: the scaler was made for the frame's size and format; the target has `height` rows of `stride` bytes.
        let written = unsafe {
            ff::sws_scale(
                scaler.as_ptr(),
                (*frame.as_ptr()).data.as_ptr().cast(),
                (*frame.as_ptr()).linesize.as_ptr(),
                0,
                key.size.1,
                targets.as_ptr(),
                strides.as_ptr(),
            )
        };
        if written < 0 {
            return Err(Reject::Undecodable);
        }
        let stored = Rgb {
            bytes: &self.rows,
            stride,
            width,
            height,
        };
        turn(stored, self.orientation, &mut self.turned)
    }
}

fn scaler(key: Key) -> Result<Scaler, Reject> {
    let format = ff::AVPixelFormat(key.format as _);
    let scaler =
        Scaler::new(key.size, format, ff::AVPixelFormat::RGB24).ok_or(Reject::Undecodable)?;
    // SAFETY: the scaler is alive; the coefficients are static tables.
    unsafe {
        ff::sws_setColorspaceDetails(
            scaler.as_ptr(),
            ff::sws_getCoefficients(key.matrix),
            c_int::from(key.is_full_range),
            ff::sws_getCoefficients(ff::SWS_CS_DEFAULT as c_int),
            1,
            0,
            1 << 16,
            1 << 16,
        );
    }
    Ok(scaler)
}

/// Mirrors a picture, then turns it clockwise; one that needs neither stays where it is.
fn turn<'a>(
    stored: Rgb<'a>,
    orientation: Orientation,
    turned: &'a mut Vec<u8>,
) -> Result<Rgb<'a>, Reject> {
    if orientation == Orientation::STORED {
        return Ok(stored);
    }
    let rotation = orientation.rotation;
    let (width, height) = if rotation.is_sideways() {
        (stored.height, stored.width)
    } else {
        (stored.width, stored.height)
    };
    reserve(turned, width * height * 3)?;
    for (y, row) in turned.chunks_exact_mut(width * 3).take(height).enumerate() {
        for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (from_x, from_y) = match rotation {
                Rotation::None => (x, y),
                Rotation::Quarter => (y, stored.height - 1 - x),
                Rotation::Half => (stored.width - 1 - x, stored.height - 1 - y),
                Rotation::ThreeQuarters => (stored.width - 1 - y, x),
            };
            let from_x = if orientation.is_mirrored {
                stored.width - 1 - from_x
            } else {
                from_x
            };
            let start = from_y * stored.stride + from_x * 3;
            pixel.copy_from_slice(&stored.bytes[start..start + 3]);
        }
    }
    Ok(Rgb {
        bytes: turned,
        stride: width * 3,
        width,
        height,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_mirrored_and_then_turned_clockwise() {
        // 2 wide, 3 high: a b / c d / e f.
        let bytes: Vec<u8> = b"abcdef".iter().flat_map(|&letter| [letter; 3]).collect();
        let stored = Rgb {
            bytes: &bytes,
            stride: 6,
            width: 2,
            height: 3,
        };
        for (is_mirrored, rotation, expected, width) in [
            (false, Rotation::None, b"abcdef", 2),
            (false, Rotation::Quarter, b"ecafdb", 3),
            (false, Rotation::Half, b"fedcba", 2),
            (false, Rotation::ThreeQuarters, b"bdface", 3),
            (true, Rotation::None, b"badcfe", 2),
            (true, Rotation::Quarter, b"fdbeca", 3),
            (true, Rotation::Half, b"efcdab", 2),
            (true, Rotation::ThreeQuarters, b"acebdf", 3),
        ] {
            let mut scratch = Vec::new();
            let orientation = Orientation {
                is_mirrored,
                rotation,
            };
            let turned = turn(stored, orientation, &mut scratch).unwrap();
            let letters: Vec<u8> = turned.bytes.chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!((&letters[..], turned.width), (&expected[..], width));
        }
    }

    /// A picture of one colour with these tags.
    fn plain([y, u, v]: [u8; 3], matrix: ff::AVColorSpace, range: ff::AVColorRange) -> Frame {
        let frame = Frame::new().unwrap();
        // SAFETY: the frame is alive; its three planes have `height` rows, of the luma and half as many of the others, of their line size.
        unsafe {
            let own = &mut *frame.as_ptr();
            own.format = ff::AVPixelFormat::YUV420P.0 as c_int;
            (own.width, own.height) = (64, 32);
            (own.colorspace, own.color_range) = (matrix, range);
            assert!(ff::av_frame_get_buffer(frame.as_ptr(), 0) >= 0);
            for (plane, (value, rows)) in [(y, 32), (u, 16), (v, 16)].into_iter().enumerate() {
                ptr::write_bytes(own.data[plane], value, own.linesize[plane] as usize * rows);
            }
        }
        frame
    }

    /// The standards' own formula: luma's weights of red and blue, and whether black is 0 and white 255.
    fn by_formula([y, u, v]: [u8; 3], (red, blue): (f32, f32), is_full: bool) -> [f32; 3] {
        let (y, range) = if is_full {
            (f32::from(y), 1.0)
        } else {
            ((f32::from(y) - 16.0) * 255.0 / 219.0, 255.0 / 224.0)
        };
        let [u, v] = [u, v].map(|value| (f32::from(value) - 128.0) * range);
        let (r, b) = (y + 2.0 * (1.0 - red) * v, y + 2.0 * (1.0 - blue) * u);
        [r, (y - red * r - blue * b) / (1.0 - red - blue), b]
    }

    #[test]
    fn tags_of_colour_count_only_where_they_are_wanted() {
        use ff::{AVColorRange as Range, AVColorSpace as Space};
        const BT601: (f32, f32) = (0.299, 0.114);
        const BT709: (f32, f32) = (0.2126, 0.0722);
        const BT2020: (f32, f32) = (0.2627, 0.0593);
        let color = [120, 96, 170];
        for (space, weights, range, is_full) in [
            (Space::BT709, BT709, Range::MPEG, false),
            (Space::BT2020_NCL, BT2020, Range::MPEG, false),
            (Space::SMPTE170M, BT601, Range::JPEG, true),
            (Space::BT709, BT709, Range::JPEG, true),
            (Space::UNSPECIFIED, BT601, Range::UNSPECIFIED, false),
        ] {
            let frame = plain(color, space, range);
            for (policy, expected) in [
                (ColorPolicy::Reference, by_formula(color, BT601, false)),
                (ColorPolicy::Tagged, by_formula(color, weights, is_full)),
            ] {
                let mut converter = Converter::new(Orientation::STORED, policy);
                let rgb = converter.rgb(&frame).unwrap();
                for (value, expected) in rgb.bytes.iter().zip(expected) {
                    let off = f32::from(*value) - expected;
                    assert!(off.abs() <= 2.0, "{space:?} {range:?} {policy:?}: {off}");
                }
            }
        }
    }
}
