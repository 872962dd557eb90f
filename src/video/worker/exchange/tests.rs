//! A worker that lies is found out.

use std::num::{NonZeroU8, NonZeroU16};
use std::time::Duration;

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::spec::{Normalization, RotationPolicy};
use crate::video::answer::{Codec, Container, Containers, Probe, Ratio, Rotation, Warnings};
use crate::video::decode::{Outcome, Refusal};
use crate::video::request::{ClipSpec, ColorPolicy, PictureSpec, Sampling, Views, Windows};
use crate::video::sampling::OutOfRange;
use crate::video::worker::slot::Pixels;
use crate::video::worker::wire::Reply;

const ID: u64 = 4;

fn clip() -> Wanted {
    Wanted::Clip(ClipSpec {
        frames: NonZeroU16::new(2).unwrap(),
        sampling: Sampling::Uniform,
        temporal_views: NonZeroU8::MIN,
        views: Views::Center,
        size: 8,
        rotation: RotationPolicy::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
    })
}

fn outcome() -> Outcome {
    let ratio = Ratio {
        numerator: 1,
        denominator: 25,
    };
    Outcome {
        probe: Probe {
            container: Container::Mov,
            codec: Codec::H264,
            width: 64,
            height: 48,
            frames: 10,
            time_base: ratio,
            first_pts: 0,
            duration: Duration::from_secs(1),
            rate: ratio,
            rotation: Rotation::None,
            sar: ratio,
            streams: 1,
            warnings: Warnings::default(),
        },
        indices: vec![2, 6],
        pts: vec![0, 1],
        sizes: Vec::new(),
    }
}

/// What becomes of an outcome, with this value in all planes; `None` when it is a lie.
fn verdict_on(wanted: &Wanted, outcome: Outcome, value: f32) -> Option<Result<Answer, Error>> {
    let output = room(4096).unwrap();
    let file = File::from(output.try_clone().unwrap());
    let bytes: Vec<u8> = (0..1024).flat_map(|_| value.to_le_bytes()).collect();
    file.write_all_at(&bytes, 0).unwrap();
    let reply = Reply {
        id: ID,
        result: Ok(outcome),
    };
    let limits = Limits::default();
    checked(&reply.encode(), (ID, wanted), &limits, Some(&output))
}

#[test]
fn an_honest_answer_is_taken() {
    let answer = verdict_on(&clip(), outcome(), 1.5).unwrap().unwrap();
    let Pixels::Planes(planes) = answer.pixels else {
        panic!("planes");
    };
    assert_eq!(planes.len(), 1);
    assert_eq!(&planes[0][..], &[1.5; 3 * 2 * 8 * 8][..]);
}

#[test]
fn values_that_no_picture_gives_are_a_lie() {
    for value in [f32::NAN, f32::INFINITY, -1e9, 5.0, -5.0] {
        assert!(verdict_on(&clip(), outcome(), value).is_none(), "{value}");
    }
}

#[test]
fn facts_and_indices_that_cannot_be_are_a_lie() {
    let changes: [fn(&mut Outcome); 12] = [
        |outcome| outcome.pts = vec![1, 0],
        |outcome| outcome.pts = vec![1, 1],
        |outcome| outcome.pts = vec![-1, 1],
        |outcome| outcome.probe.time_base.denominator = 0,
        |outcome| outcome.indices = vec![0, 1],
        |outcome| outcome.indices = vec![2],
        |outcome| outcome.probe.frames = 0,
        |outcome| outcome.probe.frames = u32::MAX,
        |outcome| outcome.probe.width = u32::MAX,
        |outcome| outcome.probe.height = 0,
        |outcome| outcome.probe.streams = 1000,
        |outcome| outcome.probe.duration = Duration::from_secs(1_000_000),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut outcome = outcome();
        change(&mut outcome);
        assert!(verdict_on(&clip(), outcome, 0.0).is_none(), "change {i}");
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
    let probed = Outcome {
        indices: Vec::new(),
        pts: Vec::new(),
        ..outcome()
    };
    let reply = Reply {
        id: ID,
        result: Ok(probed),
    };
    let judged = |limits: Limits| {
        let reply = reply.encode();
        checked(&reply, (ID, &Wanted::Probe), &limits, None).is_some()
    };
    assert!(judged(Limits::default()));
    assert!(!judged(limits));
}

#[test]
fn pictures_larger_than_their_room_are_a_lie() {
    let wanted = |bytes| {
        Wanted::Pictures(PictureSpec {
            frames: NonZeroU16::new(2).unwrap(),
            sampling: Sampling::Uniform,
            rotation: RotationPolicy::Stored,
            color: ColorPolicy::Reference,
            bytes,
        })
    };
    let sized = |sizes: &[(u32, u32)]| Outcome {
        sizes: sizes.to_vec(),
        ..outcome()
    };
    let taken =
        |bytes, sizes: &[(u32, u32)]| verdict_on(&wanted(bytes), sized(sizes), 0.0).is_some();
    assert!(taken(3000, &[(20, 20), (30, 20)]));
    assert!(!taken(2999, &[(20, 20), (30, 20)]));
    assert!(!taken(3000, &[(20, 20)]));
    assert!(!taken(3000, &[(0, 20), (30, 20)]));
    assert!(!taken(3000, &[(u32::MAX, u32::MAX), (30, 20)]));
}

#[test]
fn refusals_must_fit_the_request() {
    let limits = Limits::default();
    let judged = |id, wanted: &Wanted, refusal| {
        let reply = Reply {
            id,
            result: Err(refusal),
        };
        checked(&reply.encode(), (ID, wanted), &limits, None)
    };
    let rejected = Refusal::Rejected(Reject::NoFrames);
    assert!(matches!(
        judged(ID, &Wanted::Probe, rejected),
        Some(Err(Error::Rejected(Reject::NoFrames)))
    ));
    assert!(judged(ID + 1, &Wanted::Probe, rejected).is_none());
    let range = Refusal::OutOfRange(OutOfRange { index: 3, count: 2 });
    assert!(judged(ID, &Wanted::Probe, range).is_none());
    assert!(judged(ID, &clip(), range).is_none());
    let Wanted::Clip(spec) = clip() else {
        panic!("a clip")
    };
    let windows = Windows {
        length: Duration::from_secs(1),
        stride: Duration::from_secs(1),
        first: 2,
    };
    let wanted = Wanted::Clip(ClipSpec {
        sampling: Sampling::Windows(windows),
        ..spec
    });
    assert!(matches!(
        judged(ID, &wanted, range),
        Some(Err(Error::WindowOutOfRange {
            index: 3,
            windows: 2
        }))
    ));
    let before = Refusal::OutOfRange(OutOfRange { index: 1, count: 1 });
    assert!(judged(ID, &wanted, before).is_none());
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
