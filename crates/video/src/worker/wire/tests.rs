//! Messages read back as they were written, and nothing else is a message.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::*;
use crate::alter::Alter;
use crate::answer::{Codec, Container, Probe, Refused, Rotation, Warning, Warnings};
use crate::decode::{Refusal, Summary};
use crate::frames::{FramesSpec, Slide, Stride};
use crate::reject::{Evidence, Reject, Rejection};
use crate::request::{
    ClipSpec, ColorPolicy, Limits, PictureSpec, Rect, Sampling, StridedPart, Views, Windows,
};
use crate::sampling::OutOfRange;
use crate::spec::{FrameOrder, Normalization, RotationPolicy};
use crate::still::{Coding, Range, StillSpec};

fn of_clip() -> ClipSpec {
    let rect = Rect {
        x: 1,
        y: 2,
        width: 3,
        height: 4,
        flip: true,
    };
    ClipSpec {
        frames: NonZeroU16::new(4).unwrap(),
        sampling: Sampling::Strided(NonZeroU32::new(7).unwrap()),
        temporal_views: NonZeroU8::new(3).unwrap(),
        views: Views::Rects(vec![rect, rect]),
        size: 64,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Tagged,
        normalization: Normalization::CLIP,
        alters: vec![
            Alter::Equalize,
            Alter::Rotate(-21.5),
            Alter::Solarize(256),
            Alter::TranslateY(0.25),
        ],
    }
}

fn requests() -> Vec<Request> {
    let clip = of_clip();
    let windows = ClipSpec {
        sampling: Sampling::Windows(Windows {
            length: Duration::from_secs(2),
            stride: Duration::from_millis(1500),
            first: 9,
        }),
        views: Views::Corners,
        ..clip.clone()
    };
    let by_rate = ClipSpec {
        sampling: Sampling::Fps(Ratio {
            numerator: 30000,
            denominator: 1001,
        }),
        ..clip.clone()
    };
    let part = ClipSpec {
        sampling: Sampling::StridedPart(StridedPart {
            rate: NonZeroU32::new(7).unwrap(),
            of: NonZeroU8::new(10).unwrap(),
            first: 6,
        }),
        ..clip.clone()
    };
    let pictures = PictureSpec {
        frames: NonZeroU16::new(3).unwrap(),
        sampling: Sampling::Indices(vec![5, 0, 7]),
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        bytes: 1000,
    };
    let frames = FramesSpec {
        slide: Slide {
            stride: Stride::Time(Duration::from_millis(1500)),
            offsets: vec![0, 4, 9],
            start: Duration::from_secs(2),
            after: Some(Duration::from_nanos(2_000_000_001)),
            end: None,
        },
        views: Views::Three,
        size: 32,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Reference,
        color: ColorPolicy::Tagged,
        normalization: Normalization::CLIP,
        from: 70,
    };
    [
        Work::Probe,
        Work::Clip(clip),
        Work::Clip(windows),
        Work::Clip(by_rate),
        Work::Clip(part),
        Work::Pictures(pictures),
        Work::Frames(Box::new(frames)),
    ]
    .into_iter()
    .chain(stills())
    .map(|work| Request {
        id: 77,
        input_bytes: 1 << 40,
        is_new_output: true,
        output_bytes: 1 << 20,
        limits: Limits::default(),
        work,
    })
    .collect()
}

fn stills() -> impl Iterator<Item = Work> {
    let still = |coding| {
        Work::Still(StillSpec {
            coding,
            views: Views::Three,
            size: 64,
            normalization: Normalization::CLIP,
        })
    };
    let (width, height) = (640, 480);
    let nv12 = |range| Coding::Nv12 {
        width,
        height,
        range,
    };
    let codings = [
        Coding::Jpeg,
        Coding::Rgb24 { width, height },
        nv12(Range::Limited),
        nv12(Range::Full),
    ];
    codings.into_iter().map(still)
}

fn replies() -> Vec<Reply> {
    let mut warnings = Warnings::default();
    warnings.insert(Warning::Truncated);
    let ratio = Ratio {
        numerator: 30000,
        denominator: 1001,
    };
    let summary = Summary {
        probe: Some(Probe {
            container: Container::Avi,
            codec: Codec::Ffv1,
            width: 320,
            height: 240,
            frames: 9,
            reference_frames: 9,
            time_base: ratio,
            first_pts: -3,
            duration: Duration::from_millis(2500),
            rate: ratio,
            rotation: Rotation::ThreeQuarters,
            mirrored: false,
            sar: ratio,
            streams: 2,
            warnings,
        }),
        indices: vec![0, 4, 8],
        pts: vec![-3, 40, i64::MAX],
        sizes: vec![(320, 240); 3],
    };
    let mut results: Vec<_> = (Reject::ALL.iter())
        .map(|&reject| Err(Refusal::from(reject)))
        .collect();
    let evidence = [
        (Reject::TooManyStreams, Evidence::Count(u64::MAX)),
        (Reject::TooManyPixels, Evidence::Size(u32::MAX, 3)),
        (Reject::CodecNotAllowed, Evidence::Codec(71)),
        (Reject::Undecodable, Evidence::Unreadable(Container::Ogg)),
        (
            Reject::ContainerNotAllowed,
            Evidence::Container(Refused::ProgramStream),
        ),
    ];
    for (reject, evidence) in evidence {
        results.push(Err(Rejection::of(reject, evidence).into()));
    }
    results.push(Err(Refusal::PicturesTooLarge));
    results.push(Err(Refusal::OutOfRange(OutOfRange { index: 9, count: 9 })));
    let more = Reply {
        id: 5,
        result: Ok(summary.clone()),
        goes_on: true,
    };
    results.push(Ok(Summary {
        probe: None,
        indices: Vec::new(),
        pts: Vec::new(),
        sizes: vec![(320, 240)],
    }));
    results.push(Ok(summary));
    (results.into_iter())
        .map(|result| Reply::last(5, result))
        .chain([more])
        .collect()
}

#[test]
fn messages_read_back_and_have_one_length() {
    for request in requests() {
        let message = request.encode();
        assert_eq!(message.len(), requests()[0].encode().len());
        assert!(message.len() < LONGEST);
        assert_eq!(Request::decode(&message), Some(request));
    }
    for reply in replies() {
        let message = reply.encode();
        assert_eq!(message.len(), replies()[0].encode().len());
        assert!(message.len() < LONGEST);
        assert_eq!(Reply::decode(&message), Some(reply));
    }
    for command in [
        Command::Kill { id: 3 },
        Command::Fork {
            id: 4,
            allowance: Allowance { memory: 1, cpu: 2 },
            layers: Layers::PLAIN,
        },
    ] {
        assert_eq!(Command::decode(&command.encode()), Some(command));
    }
    for report in [
        Notice::Forked { id: 3, pid: 9 },
        Notice::Exited { id: 3, status: -1 },
    ] {
        assert_eq!(Notice::decode(&report.encode()), Some(report));
    }
    let ready = encode_ready(6, Layers::ALL);
    assert_eq!(decode_ready(&ready), Some((6, Layers::ALL)));
}

#[test]
fn other_lengths_versions_and_kinds_are_no_message() {
    let good = replies().pop().unwrap().encode();
    for length in 0..good.len() {
        assert_eq!(Reply::decode(&good[..length]), None);
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(Reply::decode(&long), None);
    for at in 0..8 {
        let mut other = good.clone();
        other[at] ^= 1;
        assert_eq!(Reply::decode(&other), None, "byte {at}");
    }
    assert_eq!(Request::decode(&good), None);
    assert_eq!(decode_ready(&good), None);
}

#[test]
fn arbitrary_bytes_do_not_panic() {
    let mut random = crate::rng::Stream::new(1, "wire");
    for good in [replies().pop().unwrap().encode(), requests()[1].encode()] {
        for _ in 0..2000 {
            let mut bad = good.clone();
            for _ in 0..=random.below(8) {
                let at = random.below(bad.len() as u64) as usize;
                bad[at] = random.bits() as u8;
            }
            let _ = (Reply::decode(&bad), Request::decode(&bad));
        }
    }
}
