//! Decodes one picture that came by itself: a JPEG, or raw luma and colour planes.
//!
//! Invariant: no container code runs, nothing is kept from one picture to the next, and the pixels go the way of a video's frames.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::File;
use std::os::unix::fs::FileExt;

use ffmpeg_sys_the_third as ff;

use super::convert::Converter;
use super::sink::{ClipSink, Sink};
use super::{Refusal, Summary, step};
use crate::answer::{Codec, Orientation};
use crate::ffmpeg::codec::Decoder;
use crate::ffmpeg::owned::{Frame, Packet, check};
use crate::reject::{Evidence, Reject, Rejection};
use crate::request::Limits;
use crate::still::{Coding, Range, StillSpec, jpeg_size};

/// Decodes a picture of this length into `planes`, which have exactly its views' size.
pub(crate) fn decode(
    (file, length): (&File, u64),
    limits: &Limits,
    spec: &StillSpec,
    planes: &mut [f32],
) -> Result<Summary, Refusal> {
    let length = usize::try_from(length).map_err(|_| Reject::TooLarge)?;
    let mut packet = Packet::of_size(length).map_err(|_| Reject::Memory)?;
    let read = file.read_exact_at(packet.bytes_mut(), 0);
    read.map_err(|_| Reject::Undecodable)?;
    let size = match spec.coding {
        Coding::Jpeg => jpeg_size(packet.bytes())?,
        Coding::Nv12 { width, height, .. } | Coding::Rgb24 { width, height } => {
            (width.into(), height.into())
        }
    };
    within(size, limits)?;
    let frame = match spec.coding {
        Coding::Jpeg => jpeg(&packet, limits)?,
        Coding::Nv12 { range, .. } => nv12(packet.bytes(), size, range)?,
        Coding::Rgb24 { .. } => rgb24(packet.bytes(), size)?,
    };
    let size = frame.size();
    within(size, limits)?;
    let clip = spec.clip();
    let converter = Converter::new(Orientation::STORED, clip.color);
    ClipSink::new(&clip, planes, converter).put(&frame, &[0])?;
    Ok(Summary {
        probe: None,
        indices: Vec::new(),
        pts: Vec::new(),
        sizes: vec![size],
    })
}

/// Refuses a picture with more pixels than allowed.
fn within((width, height): (u32, u32), limits: &Limits) -> Result<(), Refusal> {
    if u64::from(width) * u64::from(height) <= u64::from(limits.pixels) {
        return Ok(());
    }
    Err(Rejection::of(Reject::TooManyPixels, Evidence::Size(width, height)).into())
}

/// The first picture of a JPEG. One that is damaged is refused: a video may show half a picture, a live stream has the next one soon.
fn jpeg(packet: &Packet, limits: &Limits) -> Result<Frame, Refusal> {
    let mut decoder = Decoder::of_pictures(Codec::Mjpeg, limits.pixels)?;
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    let mut first = None;
    let mut is_sound = true;
    for packet in [Some(packet), None] {
        let went = step(&mut decoder, packet, &mut frame, |came| {
            if first.is_none() {
                first = Some(came.reference().map_err(|_| Reject::Memory)?);
            }
            Ok(())
        })?;
        is_sound &= went;
    }
    let picture = first.filter(|picture| is_sound && !picture.is_damaged());
    Ok(picture.ok_or(Reject::Undecodable)?)
}

/// An empty picture of this format and size.
fn picture((width, height): (u32, u32), format: ff::AVPixelFormat) -> Result<Frame, Refusal> {
    let frame = Frame::new().map_err(|_| Reject::Memory)?;
    let side = |side: u32| c_int::try_from(side).map_err(|_| Reject::Undecodable);
    // SAFETY: the frame is alive and has no buffers yet; FFmpeg allocates them for the format and size.
    unsafe {
        let own = &mut *frame.as_ptr();
        own.format = format.0 as c_int;
        (own.width, own.height) = (side(width)?, side(height)?);
        check(ff::av_frame_get_buffer(frame.as_ptr(), 0)).map_err(|_| Reject::Memory)?;
    }
    Ok(frame)
}

/// Writes the rows of one plane of a picture; `rows` yields bytes in the order of the plane.
fn fill<'a>(frame: &Frame, plane: usize, rows: impl Iterator<Item = &'a [u8]>) {
    for (y, row) in rows.enumerate() {
        // SAFETY: the callers give as many rows as the plane has, none longer than its line size, for a format that they allocated the frame with.
        unsafe {
            let own = &*frame.as_ptr();
            let target = own.data[plane].offset(y as isize * own.linesize[plane] as isize);
            std::ptr::copy_nonoverlapping(row.as_ptr(), target, row.len());
        }
    }
}

/// Raw NV12 as the planar format that codecs give, so that the conversion of videos' frames is the one that runs.
fn nv12(bytes: &[u8], size: (u32, u32), range: Range) -> Result<Frame, Refusal> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    if bytes.len() != width * height / 2 * 3
        || !width.is_multiple_of(2)
        || !height.is_multiple_of(2)
    {
        return Err(Reject::Undecodable.into());
    }
    let format = match range {
        Range::Limited => ff::AVPixelFormat::YUV420P,
        Range::Full => ff::AVPixelFormat::YUVJ420P,
    };
    let frame = picture(size, format)?;
    let (luma, colours) = bytes.split_at(width * height);
    fill(&frame, 0, luma.chunks_exact(width));
    for plane in [1, 2] {
        let values = colours.iter().skip(plane - 1).step_by(2).copied();
        let values: Vec<u8> = values.collect();
        fill(&frame, plane, values.chunks_exact(width / 2));
    }
    Ok(frame)
}

/// Raw RGB triples.
fn rgb24(bytes: &[u8], size: (u32, u32)) -> Result<Frame, Refusal> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    if width == 0 || bytes.len() != 3 * width * height {
        return Err(Reject::Undecodable.into());
    }
    let frame = picture(size, ff::AVPixelFormat::RGB24)?;
    fill(&frame, 0, bytes.chunks_exact(3 * width));
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::num::{NonZeroU8, NonZeroU16};

    use super::*;
    use crate::decode::{Method, Target, decode as decode_video};
    use crate::encode::{Encoder, Settings};
    use crate::ffmpeg::owned::silence;
    use crate::request::{ClipSpec, ColorPolicy, Sampling, Views};
    use crate::rng::Stream;
    use crate::spec::{FrameOrder, Normalization, RotationPolicy};

    const SIDE: u16 = 16;
    const SIZE: (u16, u16) = (48, 32);

    fn spec(coding: Coding) -> StillSpec {
        StillSpec {
            coding,
            views: Views::Three,
            size: SIDE,
            normalization: Normalization::CLIP,
        }
    }

    fn in_file(bytes: &[u8]) -> File {
        silence();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The size and the planes of a picture.
    fn still(bytes: &[u8], coding: Coding) -> Result<((u32, u32), Vec<f32>), Refusal> {
        let limits = Limits {
            pixels: 1 << 12,
            ..Limits::default()
        };
        let mut planes = vec![f32::NAN; 3 * 3 * usize::from(SIDE).pow(2)];
        let file = (&in_file(bytes), bytes.len() as u64);
        let summary = decode(file, &limits, &spec(coding), &mut planes)?;
        Ok((summary.sizes[0], planes))
    }

    fn noise(count: usize, seed: u64) -> Vec<u8> {
        let mut random = Stream::new(seed, "still");
        (0..count).map(|_| random.bits() as u8).collect()
    }

    fn encoded(rgb: &[u8], encoder: &'static str, muxer: &'static str) -> Vec<u8> {
        let settings = Settings::new(encoder, muxer);
        let (width, height) = (SIZE.0.into(), SIZE.1.into());
        let mut encoder = Encoder::with(&settings, width, height, 10).unwrap();
        encoder.push(rgb).unwrap();
        encoder.finish().unwrap()
    }

    /// The planes of a video's only frame.
    fn of_video(bytes: &[u8]) -> Vec<f32> {
        let clip = ClipSpec {
            frames: NonZeroU16::MIN,
            sampling: Sampling::Uniform,
            temporal_views: NonZeroU8::MIN,
            views: Views::Three,
            size: SIDE,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            normalization: Normalization::CLIP,
            alters: Vec::new(),
        };
        let mut planes = vec![f32::NAN; clip.values()];
        let (file, limits) = (in_file(bytes), Limits::default());
        let target = Target::Clip(&clip, &mut planes);
        decode_video(
            (&file, bytes.len() as u64),
            &limits,
            target,
            Method::default(),
        )
        .unwrap();
        planes
    }

    #[test]
    fn a_jpeg_becomes_what_it_becomes_as_a_frame_of_a_video() {
        let rgb = noise(48 * 32 * 3, 1);
        let jpeg = encoded(&rgb, "mjpeg", "mjpeg");
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]));
        let (size, planes) = still(&jpeg, Coding::Jpeg).unwrap();
        assert_eq!(size, (48, 32));
        assert!(planes == of_video(&encoded(&rgb, "mjpeg", "avi")));
    }

    #[test]
    fn raw_rgb_becomes_what_it_becomes_as_a_frame_of_a_lossless_video() {
        let rgb = noise(48 * 32 * 3, 2);
        let (width, height) = SIZE;
        let (size, planes) = still(&rgb, Coding::Rgb24 { width, height }).unwrap();
        assert_eq!(size, (48, 32));
        assert!(planes == of_video(&encoded(&rgb, "ffv1", "matroska")));
    }

    #[test]
    fn nv12_becomes_what_the_planar_format_of_codecs_becomes() {
        let (width, height) = SIZE;
        let bytes = noise(48 * 32 / 2 * 3, 3);
        let mut made = Vec::new();
        for (range, format) in [
            (Range::Limited, ff::AVPixelFormat::YUV420P),
            (Range::Full, ff::AVPixelFormat::YUVJ420P),
        ] {
            let coding = Coding::Nv12 {
                width,
                height,
                range,
            };
            let (_, planes) = still(&bytes, coding).unwrap();
            let frame = picture((48, 32), format).unwrap();
            for y in 0..32 {
                for x in 0..48 {
                    let chroma = 48 * 32 + y / 2 * 48 + x / 2 * 2;
                    // SAFETY: the frame has these rows and columns.
                    unsafe {
                        let own = &*frame.as_ptr();
                        let at = |plane: usize, x: usize, y: usize| {
                            own.data[plane].add(y * own.linesize[plane] as usize + x)
                        };
                        *at(0, x, y) = bytes[y * 48 + x];
                        *at(1, x / 2, y / 2) = bytes[chroma];
                        *at(2, x / 2, y / 2) = bytes[chroma + 1];
                    }
                }
            }
            let clip = spec(coding).clip();
            let mut expected = vec![0.0; clip.values()];
            let converter = Converter::new(Orientation::STORED, ColorPolicy::Reference);
            let mut sink = ClipSink::new(&clip, &mut expected, converter);
            sink.put(&frame, &[0]).unwrap();
            assert!(planes == expected, "{range:?}");
            made.push(planes);
        }
        assert!(made[0] != made[1], "the range counts");
    }

    #[test]
    fn what_is_no_sound_jpeg_is_refused_by_name() {
        let jpeg = encoded(&noise(48 * 32 * 3, 4), "mjpeg", "mjpeg");
        let refused = |bytes: &[u8]| match still(bytes, Coding::Jpeg) {
            Err(Refusal::Rejected(rejection)) => rejection.reject,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(b"GIF89a..............."), Reject::Undecodable);
        assert_eq!(refused(&jpeg[..jpeg.len() / 2]), Reject::Undecodable);
        assert_eq!(refused(&jpeg[..20]), Reject::Undecodable);
        // The frame header claims a picture beyond the limit, which is found out before any decoding.
        let header = jpeg
            .windows(2)
            .position(|pair| pair == [0xff, 0xc0])
            .unwrap();
        let mut huge = jpeg.clone();
        huge[header + 5..header + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(refused(&huge), Reject::TooManyPixels);
        // A second frame header claims it, behind a small one.
        let mut twice = jpeg[..header].to_vec();
        twice.extend(&jpeg[header..header + 19]);
        twice.extend(&huge[header..]);
        assert_eq!(refused(&twice), Reject::Undecodable);
    }

    #[test]
    fn damage_never_crashes_and_is_never_half_a_picture_out_of_range() {
        let jpeg = encoded(&noise(48 * 32 * 3, 5), "mjpeg", "mjpeg");
        let mut random = Stream::new(6, "still");
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..400 {
            let mut damaged = jpeg.clone();
            for _ in 0..=random.below(4) {
                let at = 2 + random.below(jpeg.len() as u64 - 2) as usize;
                damaged[at] = random.bits() as u8;
            }
            match still(&damaged, Coding::Jpeg) {
                Ok((_, planes)) => {
                    assert!(planes.iter().all(|value| value.abs() < 8.0));
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(taken > 20 && refused > 20, "{taken} and {refused}");
    }
}
