//! What fuzzers feed: the parent's reader of replies, sampling, and the probe, each with what has to hold whatever comes in.
//!
//! Invariant: no input makes these panic; there is no other way to fail.

use std::fs::File;
use std::io::Write;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Once;
use std::time::Duration;

use super::answer::Ratio;
use super::decode::{self, Method, Target};
use super::ffmpeg::owned;
use super::request::{Limits, MAX_SELECTED, Sampling, Windows};
use super::sampling::{Timeline, select, select_by_count};
use super::worker::fuzzing::read_reply;

/// Takes values off the front of a fuzzer's bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        self.u32_of(1) as u8
    }

    fn u16(&mut self) -> u16 {
        self.u32_of(2) as u16
    }

    fn u32(&mut self) -> u32 {
        self.u32_of(4)
    }

    /// With parts that may be anything.
    fn ratio(&mut self) -> Ratio {
        Ratio {
            numerator: self.u32() as i32,
            denominator: self.u32() as i32,
        }
    }

    fn u32_of(&mut self, width: usize) -> u32 {
        let (own, rest) = self.0.split_at(width.min(self.0.len()));
        self.0 = rest;
        own.iter()
            .fold(0, |value, &byte| value << 8 | u32::from(byte))
    }
}

/// A reply of a worker that lies. The first byte says what was asked for; then follow places and bytes that are changed in an honest reply, so that
/// fuzzers get past the magic number and the length.
pub fn reply(data: &[u8]) {
    let mut bytes = Bytes(data);
    let kind = bytes.u8();
    if kind & 0x80 != 0 {
        // As it comes.
        read_reply(kind % 5, |message| {
            message.clear();
            message.extend_from_slice(bytes.0);
        });
        return;
    }
    read_reply(kind % 5, |message| {
        while !bytes.0.is_empty() {
            // Most fields are at the beginning.
            let far = if kind & 0x40 == 0 { 256 } else { message.len() };
            let at = usize::from(bytes.u16()) % far.min(message.len());
            message[at] = bytes.u8();
        }
    });
}

/// Frames of a video and what is sampled from them.
///
/// # Panics
/// When an index is outside the video or their number is not the one that was asked for.
pub fn sampling(data: &[u8]) {
    let mut bytes = Bytes(data);
    let kind = bytes.u8() % 5;
    let frames = bytes.u16() % 640 + 1;
    let most = (MAX_SELECTED / usize::from(frames)).clamp(1, 10) as u8;
    let views = if kind == 0 { 1 } else { bytes.u8() % most + 1 };
    let selected = usize::from(frames) * usize::from(views);
    let sampling = match kind {
        0 => Sampling::Uniform,
        1 => Sampling::Strided(NonZeroU32::new(bytes.u32()).unwrap_or(NonZeroU32::MIN)),
        2 => Sampling::Indices((0..selected).map(|_| bytes.u32()).collect()),
        3 => Sampling::Fps(bytes.ratio()),
        _ => Sampling::Windows(Windows {
            length: Duration::from_millis(bytes.u32().into()),
            stride: Duration::from_millis(bytes.u32().into()),
            first: bytes.u32(),
        }),
    };
    let n = bytes.u32().max(1);
    if let Some(Ok(indices)) = select_by_count(&sampling, n, frames, views) {
        assert_eq!(indices.len(), selected);
        assert!(indices.iter().all(|&index| index < n));
    }
    let time_base = bytes.ratio();
    let mut pts: Vec<i64> = (0..usize::from(bytes.u8()) + 1)
        .map(|_| i64::from(bytes.u32()) << 32 | i64::from(bytes.u32()))
        .collect();
    pts.sort_unstable();
    pts.dedup();
    let timeline = Timeline {
        pts: &pts,
        time_base,
    };
    match select(&sampling, &timeline, frames, views) {
        Ok(indices) => {
            assert_eq!(indices.len(), selected);
            assert!(indices.iter().all(|&index| (index as usize) < pts.len()));
        }
        Err(missing) => assert!(missing.index >= missing.count),
    }
}

/// A file, through the demuxer, the packet index and the decoder. Not confined: what it finds in FFmpeg is FFmpeg's.
pub fn probe(data: &[u8]) {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(owned::silence);
    let Ok(memory) = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC) else {
        return;
    };
    let mut file = File::from(memory);
    if file.write_all(data).is_err() {
        return;
    }
    let limits = Limits {
        pixels: 512 * 512,
        packets: 2000,
        frames: 1000,
        cpu: Duration::from_secs(2),
        ..Limits::default()
    };
    if let Ok(summary) = decode::decode(
        (&file, data.len() as u64),
        &limits,
        Target::Probe,
        Method::default(),
    ) {
        let Some(probe) = summary.probe else {
            panic!("a video without facts");
        };
        let pixels = u64::from(probe.width) * u64::from(probe.height);
        assert!((1..=limits.frames).contains(&probe.frames));
        assert!((1..=probe.frames).contains(&probe.reference_frames));
        assert!(pixels <= u64::from(limits.pixels));
        assert!(probe.streams <= limits.streams);
        assert!(probe.duration <= limits.duration);
    }
}

/// What a reply is read for.
pub(super) fn selection() -> (NonZeroU16, NonZeroU8) {
    (NonZeroU16::MIN.saturating_add(3), NonZeroU8::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn each(count: u64, longest: u64, target: fn(&[u8])) {
        let mut random = Stream::new(3, "fuzzing");
        for _ in 0..count {
            let length = random.below(longest);
            let data: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
            target(&data);
        }
    }

    #[test]
    fn nothing_makes_the_reader_of_replies_panic() {
        each(3000, 64, reply);
    }

    #[test]
    fn nothing_makes_sampling_leave_the_video() {
        each(3000, 64, sampling);
    }

    #[test]
    fn nothing_makes_the_probe_panic() {
        each(50, 4096, probe);
        let samples: [&[u8]; 4] = [
            include_bytes!("../../../assets/containers/flv.flv"),
            include_bytes!("../../../assets/containers/asf.wmv"),
            include_bytes!("../../../assets/containers/ogg.ogv"),
            include_bytes!("../../../tests/data/reports/video-3/old_phone.3gp"),
        ];
        let mut random = Stream::new(4, "fuzzing");
        for sample in samples {
            for _ in 0..60 {
                let mut damaged = sample.to_vec();
                let at = random.below(damaged.len() as u64) as usize;
                damaged[at] = random.bits() as u8;
                probe(&damaged);
            }
        }
    }
}
