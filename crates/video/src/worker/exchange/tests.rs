//! A worker that lies is found out.

use std::num::{NonZeroU8, NonZeroU16};
use std::time::Duration;

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::answer::{Codec, Container, Containers, Probe, Ratio, Rotation, Warnings};
use crate::decode::{Refusal, Summary};
use crate::reject::{Evidence, Rejection};
use crate::request::{ClipSpec, ColorPolicy, PictureSpec, Sampling, Views, Windows};
use crate::sampling::OutOfRange;
use crate::spec::{FrameOrder, Normalization, RotationPolicy};
use crate::still::{Coding, StillSpec};
use crate::worker::slot::Pixels;
use crate::worker::wire::Reply;

const ID: u64 = 4;

fn clip() -> Work {
    Work::Clip(ClipSpec {
        frames: NonZeroU16::new(2).unwrap(),
        sampling: Sampling::Uniform,
        temporal_views: NonZeroU8::MIN,
        views: Views::Center,
        size: 8,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    })
}

fn summary() -> Summary {
    let ratio = Ratio {
        numerator: 1,
        denominator: 25,
    };
    Summary {
        probe: Some(Probe {
            container: Container::Mov,
            codec: Codec::H264,
            width: 64,
            height: 48,
            frames: 10,
            reference_frames: 10,
            time_base: ratio,
            first_pts: 0,
            duration: Duration::from_secs(1),
            rate: ratio,
            rotation: Rotation::None,
            mirrored: false,
            sar: ratio,
            streams: 1,
            warnings: Warnings::default(),
        }),
        indices: vec![2, 6],
        pts: vec![0, 1],
        sizes: Vec::new(),
    }
}

/// The facts of a summary.
fn facts(summary: &mut Summary) -> &mut Probe {
    summary.probe.as_mut().unwrap()
}

/// What becomes of a summary, with this value in all planes; `None` when it is a lie.
fn verdict_on(work: &Work, summary: Summary, value: f32) -> Option<Result<Answer, Error>> {
    let output = room(4096).unwrap();
    let file = File::from(output.try_clone().unwrap());
    let bytes: Vec<u8> = (0..1024).flat_map(|_| value.to_le_bytes()).collect();
    file.write_all_at(&bytes, 0).unwrap();
    let reply = Reply::last(ID, Ok(summary));
    let limits = Limits::default();
    checked(&reply.encode(), (ID, work), &limits, Some(&output))
}

#[test]
fn an_honest_answer_is_taken() {
    let answer = verdict_on(&clip(), summary(), 1.5).unwrap().unwrap();
    let Pixels::Planes(planes) = answer.pixels else {
        panic!("planes");
    };
    assert_eq!(planes.len(), 1);
    assert_eq!(&planes[0][..], &[1.5; 3 * 2 * 8 * 8][..]);
}

#[test]
fn values_that_no_picture_gives_are_a_lie() {
    for value in [f32::NAN, f32::INFINITY, -1e9, 5.0, -5.0] {
        assert!(verdict_on(&clip(), summary(), value).is_none(), "{value}");
    }
}

#[test]
fn facts_and_indices_that_cannot_be_are_a_lie() {
    let changes: [fn(&mut Summary); 12] = [
        |summary| summary.pts = vec![1, 0],
        |summary| summary.pts = vec![-1, 1],
        |summary| facts(summary).time_base.denominator = 0,
        |summary| summary.indices = vec![0, 1],
        |summary| summary.indices = vec![2],
        |summary| facts(summary).frames = 0,
        |summary| facts(summary).reference_frames = 0,
        |summary| facts(summary).frames = u32::MAX,
        |summary| facts(summary).width = u32::MAX,
        |summary| facts(summary).height = 0,
        |summary| facts(summary).streams = 1000,
        |summary| facts(summary).duration = Duration::from_secs(1_000_000),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut summary = summary();
        change(&mut summary);
        assert!(verdict_on(&clip(), summary, 0.0).is_none(), "change {i}");
    }
}

#[test]
fn a_container_that_was_not_allowed_is_a_lie() {
    let mut containers = Containers::ALL;
    containers.remove(Container::Mov);
    let limits = Limits {
        containers,
        ..Limits::default()
    };
    let probed = Summary {
        indices: Vec::new(),
        pts: Vec::new(),
        ..summary()
    };
    let reply = Reply::last(ID, Ok(probed));
    let judged = |limits: Limits| {
        let reply = reply.encode();
        checked(&reply, (ID, &Work::Probe), &limits, None).is_some()
    };
    assert!(judged(Limits::default()));
    assert!(!judged(limits));
}

#[test]
fn pictures_larger_than_their_room_are_a_lie() {
    let work = |bytes| {
        Work::Pictures(PictureSpec {
            frames: NonZeroU16::new(2).unwrap(),
            sampling: Sampling::Uniform,
            rotation: RotationPolicy::Stored,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            bytes,
        })
    };
    let sized = |sizes: &[(u32, u32)]| Summary {
        sizes: sizes.to_vec(),
        ..summary()
    };
    let taken = |bytes, sizes: &[(u32, u32)]| verdict_on(&work(bytes), sized(sizes), 0.0).is_some();
    assert!(taken(3000, &[(20, 20), (30, 20)]));
    assert!(!taken(2999, &[(20, 20), (30, 20)]));
    assert!(!taken(3000, &[(20, 20)]));
    assert!(!taken(3000, &[(0, 20), (30, 20)]));
    assert!(!taken(3000, &[(u32::MAX, u32::MAX), (30, 20)]));
}

#[test]
fn what_a_worker_says_of_a_picture_that_came_by_itself_is_checked() {
    let (width, height) = (20, 10);
    let work = |coding| {
        Work::Still(StillSpec {
            coding,
            views: Views::Center,
            size: 8,
            normalization: Normalization::CLIP,
        })
    };
    let (jpeg, raw) = (work(Coding::Jpeg), work(Coding::Rgb24 { width, height }));
    let honest = || Summary {
        probe: None,
        indices: Vec::new(),
        pts: Vec::new(),
        sizes: vec![(20, 10)],
    };
    let taken = verdict_on(&jpeg, honest(), 1.5).unwrap().unwrap();
    assert_eq!(taken.sizes, [(20, 10)]);
    assert!(matches!(taken.pixels, Pixels::Planes(planes) if planes[0][..] == [1.5; 192]));
    assert!(verdict_on(&raw, honest(), 0.0).is_some());
    assert!(verdict_on(&jpeg, honest(), f32::NAN).is_none());
    let sized = |sizes: &[(u32, u32)]| Summary {
        sizes: sizes.to_vec(),
        ..honest()
    };
    assert!(verdict_on(&jpeg, sized(&[(30, 10)]), 0.0).is_some());
    assert!(verdict_on(&raw, sized(&[(30, 10)]), 0.0).is_none());
    for lie in [
        sized(&[]),
        sized(&[(0, 10)]),
        sized(&[(1 << 16, 1 << 16)]),
        sized(&[(20, 10); 2]),
        // One count is for indices and time stamps, so that neither comes without the other.
        Summary {
            indices: vec![0],
            pts: vec![0],
            ..honest()
        },
        Summary {
            sizes: vec![(20, 10)],
            ..summary()
        },
    ] {
        assert!(verdict_on(&jpeg, lie, 0.0).is_none());
    }
    assert!(verdict_on(&clip(), honest(), 0.0).is_none());
    assert!(verdict_on(&Work::Probe, honest(), 0.0).is_none());
}

#[test]
fn refusals_must_fit_the_request() {
    let limits = Limits::default();
    let judged = |id, work: &Work, refusal| {
        let reply = Reply::last(id, Err(refusal));
        checked(&reply.encode(), (ID, work), &limits, None)
    };
    let rejected = Refusal::from(Reject::NoFrames);
    assert!(matches!(
        judged(ID, &Work::Probe, rejected),
        Some(Err(Error::Rejected(own))) if own == Reject::NoFrames
    ));
    let lie = Rejection::of(Reject::TooManyPixels, Evidence::Size(10, 10));
    assert!(judged(ID, &Work::Probe, lie.into()).is_none());
    let found = Rejection::of(Reject::TooManyPixels, Evidence::Size(5312, 2988));
    let Some(Err(Error::Rejected(found))) = judged(ID, &Work::Probe, found.into()) else {
        panic!("a refusal")
    };
    assert!(found.limit.is_some(), "the limit is the server's word");
    assert!(judged(ID + 1, &Work::Probe, rejected).is_none());
    let range = Refusal::OutOfRange(OutOfRange { index: 3, count: 2 });
    assert!(judged(ID, &Work::Probe, range).is_none());
    assert!(judged(ID, &clip(), range).is_none());
    let Work::Clip(spec) = clip() else {
        panic!("a clip")
    };
    let windows = Windows {
        length: Duration::from_secs(1),
        stride: Duration::from_secs(1),
        first: 2,
    };
    let work = Work::Clip(ClipSpec {
        sampling: Sampling::Windows(windows),
        ..spec
    });
    assert!(matches!(
        judged(ID, &work, range),
        Some(Err(Error::WindowOutOfRange {
            index: 3,
            windows: 2
        }))
    ));
    let before = Refusal::OutOfRange(OutOfRange { index: 1, count: 1 });
    assert!(judged(ID, &work, before).is_none());
    assert!(judged(ID, &clip(), Refusal::PicturesTooLarge).is_none());
}

#[test]
fn deaths_have_reasons() {
    for (status, reject) in [
        (libc::SIGSYS, Reject::SandboxViolation),
        (libc::SIGXCPU, Reject::CpuTime),
        (libc::SIGKILL, Reject::Memory),
        (libc::SIGSEGV, Reject::DecoderCrashed),
        (3 << 8, Reject::DecoderCrashed),
    ] {
        assert_eq!(verdict(End::Status(status)), Some(reject));
    }
    assert_eq!(verdict(End::WithZygote), None);
}
