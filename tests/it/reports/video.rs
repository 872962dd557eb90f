//! Reports about videos: mirrored pictures, time stamps that start again, refusals, frames in the wrong order.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use frameshift::spec::{FrameOrder, RotationPolicy};
use frameshift::video::encode::{Encoder, Settings};
use frameshift::video::{
    ColorPolicy, Decoder, Error, Input, Lane, Picture, PictureSpec, Pictures, Probe, Sampling,
};

use crate::decoding::{config, decoder, tenant};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/reports")
        .join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    let path = case(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn probe(decoder: &Decoder, video: &[u8]) -> Result<Probe, Error> {
    let input = Input::Bytes(Bytes::copy_from_slice(video));
    decoder.probe(&tenant("a"), Lane::Batch, input).await
}

/// Whole pictures, as players show them or as they are stored.
async fn pictures(
    decoder: &Decoder,
    video: &[u8],
    (sampling, count): (Sampling, u16),
    (rotation, order): (RotationPolicy, FrameOrder),
) -> Pictures {
    let spec = PictureSpec {
        frames: NonZeroU16::new(count).expect("some"),
        sampling,
        rotation,
        order,
        color: ColorPolicy::Reference,
        bytes: 64 << 20,
    };
    let input = Input::Bytes(Bytes::copy_from_slice(video));
    let came = decoder
        .pictures(&tenant("a"), Lane::Batch, input, spec)
        .await;
    came.expect("pictures")
}

async fn in_order(decoder: &Decoder, video: &[u8], count: u16, order: FrameOrder) -> Pictures {
    let sampling = Sampling::Indices((0..count.into()).collect());
    pictures(
        decoder,
        video,
        (sampling, count),
        (RotationPolicy::Display, order),
    )
    .await
}

fn warnings(probe: &Probe) -> Vec<&'static str> {
    probe.warnings.iter().map(|own| own.name()).collect()
}

/// Mean difference of two pictures' values.
fn distance(one: &Picture, other: &Picture) -> f64 {
    assert_eq!(one.rgb.len(), other.rgb.len());
    let pairs = one.rgb.iter().zip(&other.rgb);
    let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / one.rgb.len() as f64
}

/// The video with this matrix in its track header: a, b, c, d of (x, y) → (a x + c y, b x + d y).
fn with_matrix(video: &[u8], [a, b, c, d]: [i32; 4]) -> Vec<u8> {
    let mut video = video.to_vec();
    let header = video.windows(4).position(|name| name == b"tkhd");
    let header = header.expect("a track header") + 4;
    // Version 0 has times of 32 bits.
    let matrix = header + if video[header] == 0 { 40 } else { 52 };
    let values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30];
    for (i, value) in values.into_iter().enumerate() {
        video[matrix + 4 * i..][..4].copy_from_slice(&value.to_be_bytes());
    }
    video
}

/// The name of the colour in the middle of each quarter, by rows.
fn corners(picture: &Picture) -> [&'static str; 4] {
    const COLORS: [(&str, [u8; 3]); 4] = [
        ("red", [255, 0, 0]),
        ("lime", [0, 255, 0]),
        ("blue", [0, 0, 255]),
        ("white", [255, 255, 255]),
    ];
    let (width, height) = (picture.width as usize, picture.height as usize);
    [(1, 1), (3, 1), (1, 3), (3, 3)].map(|(x, y)| {
        let at = (y * height / 4 * width + x * width / 4) * 3;
        let pixel = &picture.rgb[at..at + 3];
        let far = |color: &[u8; 3]| -> u32 {
            let parts = pixel.iter().zip(color);
            parts.map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
        };
        let nearest = COLORS.iter().min_by_key(|(_, color)| far(color));
        nearest.expect("a colour").0
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn all_eight_orientations_are_shown_as_players_show_them() {
    const STORED: [&str; 4] = ["red", "lime", "blue", "white"];
    let decoder = decoder(config()).await;
    let video = bytes("video-1/mirrored.mp4");
    let first = (Sampling::Indices(vec![0]), 1);
    let shown = pictures(
        &decoder,
        &video,
        first.clone(),
        (RotationPolicy::Display, FrameOrder::Display),
    )
    .await;
    assert_eq!(
        corners(&shown.pictures[0]),
        ["lime", "red", "white", "blue"]
    );
    let mut orientations = std::collections::HashSet::new();
    for matrix in [
        [1, 0, 0, 1],
        [0, 1, -1, 0],
        [-1, 0, 0, -1],
        [0, -1, 1, 0],
        [-1, 0, 0, 1],
        [0, -1, -1, 0],
        [1, 0, 0, -1],
        [0, 1, 1, 0],
    ] {
        let [a, b, c, d] = matrix;
        let turned = with_matrix(&video, matrix);
        let place = |(x, y): (i32, i32)| {
            let (x, y) = (a * x + c * y, b * x + d * y);
            (usize::from(y > 0)) * 2 + usize::from(x > 0)
        };
        let mut expected = [""; 4];
        for (corner, color) in [(-1, -1), (1, -1), (-1, 1), (1, 1)].into_iter().zip(STORED) {
            expected[place(corner)] = color;
        }
        for (policy, expected) in [
            (RotationPolicy::Display, expected),
            (RotationPolicy::Stored, STORED),
        ] {
            let policies = (policy, FrameOrder::Display);
            let came = pictures(&decoder, &turned, first.clone(), policies).await;
            let picture = &came.pictures[0];
            assert_eq!(corners(picture), expected, "{matrix:?}, {policy:?}");
            let size = (picture.width, picture.height);
            assert_eq!(
                size,
                came.probe.picture_size(policy),
                "{matrix:?}, {policy:?}"
            );
            orientations.insert((came.probe.rotation, came.probe.mirrored));
        }
    }
    assert_eq!(orientations.len(), 8);
}

/// What must hold of a video whose second half begins with the time stamps of the first.
async fn check_restart(decoder: &Decoder, video: &[u8], frames: u16, seconds: f64) {
    let facts = probe(decoder, video).await.expect("a probe");
    assert_eq!(facts.frames, u32::from(frames));
    assert_eq!(facts.reference_frames, u32::from(frames) / 2);
    assert_eq!(warnings(&facts), ["RESTARTED_TIME_STAMPS"]);
    let off = facts.duration.as_secs_f64() - seconds;
    // The container may not say how long the last frame is shown.
    assert!(
        off.abs() < 1.5 * seconds / f64::from(frames),
        "{:?}",
        facts.duration
    );
    let all = in_order(decoder, video, frames, FrameOrder::Display).await;
    assert_eq!(all.probe.frames, u32::from(frames), "also without a probe");
    assert!(all.pts.is_sorted(), "{:?}", all.pts);
    let reference = in_order(decoder, video, frames / 2, FrameOrder::Reference).await;
    assert_eq!(reference.probe.frames, u32::from(frames) / 2);
    assert_eq!(warnings(&reference.probe), ["RESTARTED_TIME_STAMPS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_of_a_joined_stream_are_there_one_after_the_other() {
    let decoder = decoder(config()).await;
    let video = bytes("video-2/joined.ts");
    check_restart(&decoder, &video, 50, 2.0).await;
    let all = in_order(&decoder, &video, 50, FrameOrder::Display).await;
    let (first, second) = all.pictures.split_at(25);
    // The second half stands still and is another picture than each of the first.
    let bars = &second[12];
    assert!(second.iter().all(|own| distance(own, bars) < 4.0));
    assert!(first.iter().all(|own| distance(own, bars) > 8.0));
    let sampled = pictures(
        &decoder,
        &video,
        (Sampling::Uniform, 8),
        (RotationPolicy::Display, FrameOrder::Display),
    )
    .await;
    let early = sampled.indices.iter().filter(|&&index| index < 25).count();
    assert_eq!(early, 4, "{:?}", sampled.indices);
}

/// Pictures of one brightness each, ten levels apart.
fn ramp(settings: &Settings, times: impl Iterator<Item = i64>) -> Vec<u8> {
    let mut encoder = Encoder::with(settings, 64, 48, 10).expect("an encoder");
    for (i, time) in times.enumerate() {
        encoder.set_time(time);
        let level = 20 + 10 * i as u8;
        encoder.push(&[level; 64 * 48 * 3]).expect("a picture");
    }
    encoder.finish().expect("a file")
}

fn level(picture: &Picture) -> f64 {
    let sum: u64 = picture.rgb.iter().map(|&value| u64::from(value)).sum();
    sum as f64 / picture.rgb.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn time_stamps_that_start_again_or_are_equal_cost_no_frame() {
    let decoder = decoder(config()).await;
    for encoder in ["mpeg2video", "libx264"] {
        let part = ramp(&Settings::new(encoder, "mpegts"), 0..20);
        let joined = [&part[..], &part].concat();
        check_restart(&decoder, &joined, 40, 4.0).await;
    }
    // A camera that is faster than the container's clock.
    let settings = Settings::new("ffv1", "matroska");
    let fast = ramp(&settings, (0..20).map(|i| i / 2));
    let facts = probe(&decoder, &fast).await.expect("a probe");
    assert_eq!((facts.frames, facts.reference_frames), (20, 10));
    assert_eq!(warnings(&facts), ["REPEATED_TIME_STAMPS"]);
    let all = in_order(&decoder, &fast, 20, FrameOrder::Display).await;
    assert_eq!(warnings(&all.probe), ["REPEATED_TIME_STAMPS"]);
    let levels: Vec<f64> = all.pictures.iter().map(level).collect();
    let rises = levels.windows(2).all(|pair| pair[0] + 5.0 < pair[1]);
    assert!(rises, "{levels:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_presentation_times_come_in_the_order_of_players() {
    let decoder = decoder(config()).await;
    let video = bytes("video-8/b_pictures.avi");
    let facts = probe(&decoder, &video).await.expect("a probe");
    assert_eq!((facts.frames, facts.reference_frames), (60, 60));
    assert_eq!(warnings(&facts), ["SHUFFLED_TIME_STAMPS"]);
    let display = in_order(&decoder, &video, 12, FrameOrder::Display).await;
    let reference = in_order(&decoder, &video, 12, FrameOrder::Reference).await;
    assert_eq!(warnings(&reference.probe), ["SHUFFLED_TIME_STAMPS"]);
    // The counter in the picture at each place of the reference's order.
    let counters = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 11, 10];
    for (place, counter) in counters.into_iter().enumerate() {
        let (own, other) = (&display.pictures[counter], &reference.pictures[place]);
        assert_eq!(distance(own, other), 0.0, "{counter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_container_gives_b_pictures_in_order() {
    let decoder = decoder(config()).await;
    for (encoder, muxer, is_shuffled) in [
        ("libx264", "avi", true),
        // The times of presentation follow from the kinds of its pictures.
        ("mpeg4", "avi", false),
        ("libx264", "mp4", false),
        ("libx264", "matroska", false),
        ("libx264", "mpegts", false),
        ("libx264", "flv", false),
        ("mpeg4", "mp4", false),
        ("mpeg2video", "mpegts", false),
    ] {
        let mut settings = Settings::new(encoder, muxer);
        settings.b_frames = 2;
        if encoder == "libx264" {
            settings = settings.option("x264-params", "b-adapt=0:scenecut=0");
        }
        let video = ramp(&settings, 0..20);
        let what = format!("{encoder} in {muxer}");
        let facts = probe(&decoder, &video).await.expect("a probe");
        let expected: &[&str] = if is_shuffled {
            &["SHUFFLED_TIME_STAMPS"]
        } else {
            &[]
        };
        assert_eq!(warnings(&facts), expected, "{what}");
        assert_eq!(facts.frames, 20, "{what}");
        let all = in_order(&decoder, &video, 20, FrameOrder::Display).await;
        let levels: Vec<f64> = all.pictures.iter().map(level).collect();
        let rises = levels.windows(2).all(|pair| pair[0] + 5.0 < pair[1]);
        assert!(rises, "{what}: {levels:?}");
    }
}

async fn refusal(decoder: &Decoder, video: &[u8]) -> (String, Vec<(&'static str, String)>) {
    match probe(decoder, video).await {
        Err(Error::Rejected(rejection)) => (rejection.to_string(), rejection.metadata()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_was_found_what_is_allowed_and_what_to_do() {
    let decoder = decoder(config()).await;
    let phone = probe(&decoder, &bytes("video-3/old_phone.3gp")).await;
    let phone = phone.expect("H.263 is accepted");
    assert_eq!((phone.codec.name(), phone.frames), ("h263", 6));
    let odd = ramp(&Settings::new("utvideo", "avi"), 0..3);
    for (video, begin, out, values) in [
        (
            bytes("video-3/camcorder.mpg"),
            "its container is mpeg (program stream); accepted are mov, matroska, avi, mpegts, flv, ",
            "-c:v libx264 out.mp4",
            &[("found", "mpeg (program stream)")][..],
        ),
        (
            bytes("video-3/action_5312x2988.mp4"),
            "its pictures have 5312 × 2988 pixels, the limit is 9437184 (video_pixels)",
            "scale=",
            &[
                ("found", "15872256"),
                ("limit", "9437184"),
                ("setting", "video_pixels"),
            ],
        ),
        (
            bytes("video-3/eighteen_subtitles.mkv"),
            "it has 19 streams, the limit is 16 (video_streams)",
            "-map 0:v:0",
            &[
                ("found", "19"),
                ("limit", "16"),
                ("setting", "video_streams"),
            ],
        ),
        (
            odd,
            "its codec is utvideo; accepted are h264, hevc, ",
            "-c:v libx264 out.mp4",
            &[("found", "utvideo")],
        ),
    ] {
        let (text, metadata) = refusal(&decoder, &video).await;
        assert!(text.starts_with(begin), "{text}");
        assert!(
            text.contains("ffmpeg -i FILE") && text.contains(out),
            "{text}"
        );
        for (key, value) in values {
            let own = metadata.iter().find(|own| own.0 == *key);
            assert_eq!(own.map(|own| own.1.as_str()), Some(*value), "{key}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_before_its_index_says_so() {
    let decoder = decoder(config()).await;
    let whole = ramp(&Settings::new("mpeg4", "mp4"), 0..12);
    let index = whole.windows(4).position(|name| name == b"moov");
    let cut = &whole[..index.expect("an index at the end") - 4];
    let (text, metadata) = refusal(&decoder, cut).await;
    assert!(
        text.starts_with("it cannot be decoded: its mov index (moov) is missing or damaged"),
        "{text}"
    );
    assert_eq!(metadata, [("found", "mov".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_frames_name_the_limit_that_is_configured() {
    let mut config = config();
    config.limits.frames = 10;
    let decoder = decoder(config).await;
    let (text, metadata) = refusal(&decoder, &bytes("video-2/joined.ts")).await;
    assert!(
        text.starts_with("it has more than 10 frames (video_frames)"),
        "{text}"
    );
    assert!(
        metadata.contains(&("limit", "10".to_owned())),
        "{metadata:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_files_that_were_cut_are_called_truncated() {
    let decoder = decoder(config()).await;
    for (encoder, muxer) in [
        ("ffv1", "matroska"),
        ("libvpx-vp9", "webm"),
        ("mjpeg", "avi"),
        ("libx264", "flv"),
        ("libx264", "mpegts"),
        ("libx264", "mp4"),
        ("wmv2", "asf"),
        ("libtheora", "ogg"),
    ] {
        let video = ramp(&Settings::new(encoder, muxer), 0..22);
        let whole = probe(&decoder, &video).await.expect("a probe");
        assert_eq!(warnings(&whole), [""; 0], "{muxer}");
        assert_eq!(whole.frames, 22, "{muxer}");
        // An MP4 without its end has no index, and the others do not say how long they are.
        if matches!(muxer, "matroska" | "webm" | "avi" | "flv") {
            let cut = &video[..video.len() * 2 / 3];
            let cut = probe(&decoder, cut).await.expect("a part");
            let found = warnings(&cut);
            assert!(found.contains(&"TRUNCATED"), "{muxer}: {found:?}");
        }
    }
}
