//! Errors of decoding, and flaws of frames.

use std::sync::Arc;

use tonic::Code;
use tonic_types::StatusExt;

use super::super::{domain, of_flaw};
use super::{SECRET, check, disk};
use crate::serving::frames::Flaw;
use crate::video::{self, Reject};

#[test]
fn video_errors() {
    use video::Error;
    let mut cases: Vec<(Error, Code, &str)> = vec![
        (
            Error::QueueFull,
            Code::ResourceExhausted,
            "DECODER_QUEUE_FULL",
        ),
        (Error::Interrupted, Code::Unavailable, "DECODER_INTERRUPTED"),
        (Error::Stopped, Code::Unavailable, "DRAINING"),
        (
            Error::IndexOutOfRange {
                index: 9,
                frames: 2,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::WindowOutOfRange {
                index: 9,
                windows: 2,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::InvalidRequest {
                field: "views",
                problem: SECRET.into(),
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::PicturesTooLarge { bytes: 1 },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Spawn {
                program: SECRET.into(),
                source: Arc::new(disk()),
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Unconfined {
                layers: video::Layers::PLAIN,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (Error::NoContainer, Code::Internal, "INTERNAL"),
        (
            Error::System {
                action: "fork",
                source: Arc::new(disk()),
            },
            Code::Internal,
            "INTERNAL",
        ),
    ];
    for &reject in Reject::ALL {
        cases.push((Error::from(reject), Code::InvalidArgument, reject.reason()));
    }
    let told = |(error, code, reason)| (domain::of_video(&error), code, reason);
    check(cases.into_iter().map(told).collect());
}

#[test]
fn a_refused_video_says_for_programs_what_was_found_and_what_is_allowed() {
    let limit = video::Limit {
        setting: "video_streams",
        value: 16,
        unit: "streams",
    };
    let rejection = video::Rejection {
        reject: Reject::TooManyStreams,
        evidence: video::Evidence::Count(19),
        limit: Some(limit),
    };
    let status = domain::of_video(&video::Error::Rejected(rejection));
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "VIDEO_TOO_MANY_STREAMS");
    for (key, value) in [
        ("found", "19"),
        ("limit", "16"),
        ("setting", "video_streams"),
    ] {
        assert_eq!(info.metadata.get(key).map(String::as_str), Some(value));
    }
    let violations = &details.bad_request().unwrap().field_violations;
    assert!(violations[0].description.contains("it has 19 streams"));
}

#[test]
fn flaws_of_frames_have_the_reasons_of_videos_or_their_own() {
    for (flaw, expected) in [
        (
            Flaw::Rejected(Reject::TooManyPixels.into()),
            "VIDEO_TOO_MANY_PIXELS",
        ),
        (
            Flaw::Size {
                expected: 12,
                got: 11,
            },
            "FRAME_SIZE_MISMATCH",
        ),
        (Flaw::TooLarge { limit: 1, got: 2 }, "FRAME_TOO_LARGE"),
    ] {
        assert_eq!(of_flaw(&flaw).name(), expected);
    }
}
