//! Every clip of `clips/manifest.json` through real workers: hostile files are refused, the others give the reference's frames.

use std::fs;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::Path;

use frameshift::spec::{Normalization, RotationPolicy};
use frameshift::video::{
    ClipSpec, Decoder, Error, Lane, Picture, PictureSpec, Pictures, Sampling, Views, sampling,
};
use futures::stream::{self, StreamExt};
use serde::Deserialize;

use crate::decoding::{config, decoder, file, tenant};
use crate::md5::md5_hex;
use crate::shared;

#[derive(Deserialize)]
struct Manifest {
    clips: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    file: String,
    expect: String,
    #[serde(default)]
    frames: u32,
    #[serde(default)]
    codec: String,
    rotation: i32,
    #[serde(default)]
    uniform8_idx: Vec<u32>,
    #[serde(default)]
    dense_8x4_idx: Vec<u32>,
    #[serde(default)]
    dense_16x4_idx: Vec<u32>,
    #[serde(default)]
    golden: Vec<Golden>,
    #[serde(default)]
    golden_pyav18: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    index: u32,
    pts: i64,
    w: u32,
    h: u32,
    pix: String,
    rgb_md5: String,
    rgb_mean: f64,
}

fn mean(picture: &Picture) -> f64 {
    let sum: u64 = picture.rgb.iter().map(|&value| u64::from(value)).sum();
    sum as f64 / picture.rgb.len() as f64
}

/// libavcodec's major version: from 62 on (FFmpeg 8) some decoders and conversions round differently.
fn libavcodec() -> u32 {
    #[allow(unsafe_code)]
    // SAFETY: has no preconditions.
    let version = unsafe { ffmpeg_sys_the_third::avcodec_version() };
    version >> 16
}

/// The rule by which a picture equals the reference's, or `None`.
fn rule(listed: &Listed, golden: &Golden, picture: &Picture) -> Option<&'static str> {
    let digest = md5_hex(&picture.rgb);
    if digest == golden.rgb_md5 {
        return Some("equal");
    }
    let newer = listed
        .golden_pyav18
        .iter()
        .find(|own| own.index == golden.index);
    if libavcodec() >= 62 {
        if listed.codec == "mpeg4" && newer.is_some_and(|newer| newer.rgb_md5 == digest) {
            return Some("equal to the newer reference");
        }
        let is_generic =
            golden.pix.contains("10") || (!golden.w.is_multiple_of(2) && golden.pix == "yuv420p");
        if is_generic && (mean(picture) - golden.rgb_mean).abs() <= 0.05 {
            return Some("same mean");
        }
    }
    let is_other_machine = cfg!(not(target_arch = "x86_64"));
    (is_other_machine && (mean(picture) - golden.rgb_mean).abs() <= 2.5).then_some("near mean")
}

fn check_pictures(listed: &Listed, ours: &Pictures) -> &'static str {
    let name = &listed.file;
    assert_eq!(ours.probe.frames, listed.frames, "{name}: frames");
    assert_eq!(ours.indices, listed.uniform8_idx, "{name}: indices");
    let clockwise = (-listed.rotation).rem_euclid(360) as u32;
    assert_eq!(ours.probe.rotation.degrees(), clockwise, "{name}: rotation");
    let mut used = "equal";
    for ((picture, index), pts) in ours.pictures.iter().zip(&ours.indices).zip(&ours.pts) {
        let golden = (listed.golden.iter().find(|golden| golden.index == *index))
            .unwrap_or_else(|| panic!("{name}: no golden frame {index}"));
        assert_eq!(*pts, golden.pts, "{name}: time stamp of frame {index}");
        assert_eq!(
            (picture.width, picture.height),
            (golden.w, golden.h),
            "{name}: size"
        );
        match rule(listed, golden, picture) {
            Some("equal") => {}
            Some(rule) => used = rule,
            None => panic!(
                "{name}: frame {index} differs: mean {} instead of {}",
                mean(picture),
                golden.rgb_mean
            ),
        }
    }
    used
}

/// Strided clips of 8 and of 16 frames; the longer one is decoded, too.
async fn check_dense(decoder: &Decoder, path: &Path, listed: &Listed) {
    let rate = NonZeroU32::new(4).expect("4");
    let eight = sampling::strided(listed.frames, 8, rate, 1);
    assert_eq!(eight, [&listed.dense_8x4_idx[..]], "{}", listed.file);
    let spec = ClipSpec {
        frames: NonZeroU16::new(16).expect("16"),
        sampling: Sampling::Strided(rate),
        temporal_views: NonZeroU8::MIN,
        views: Views::Three,
        size: 64,
        rotation: RotationPolicy::Display,
        normalization: Normalization::CLIP,
    };
    let clip = decoder
        .clip(&tenant("clips"), Lane::Batch, file(path), spec)
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", listed.file));
    assert_eq!(
        clip.indices,
        [&listed.dense_16x4_idx[..]],
        "{}",
        listed.file
    );
    assert_eq!(clip.planes.len(), 3);
}

async fn check(decoder: &Decoder, folder: &Path, listed: &Listed) -> String {
    let path = folder.join(&listed.file);
    let spec = PictureSpec {
        frames: NonZeroU16::new(8).expect("8"),
        sampling: Sampling::Uniform,
        rotation: RotationPolicy::Stored,
        bytes: 96 << 20,
    };
    let probe = decoder
        .probe(&tenant("clips"), Lane::Interactive, file(&path))
        .await;
    let pictures = decoder
        .pictures(&tenant("clips"), Lane::Batch, file(&path), spec)
        .await;
    if listed.expect == "reject" {
        return match (probe, pictures) {
            (Err(Error::Rejected(first)), Err(Error::Rejected(second))) if first == second => {
                format!("refused: {}", first.reason())
            }
            (probe, pictures) => panic!(
                "{}: {probe:?}, {:?}",
                listed.file,
                pictures.map(|p| p.probe)
            ),
        };
    }
    let probe = probe.unwrap_or_else(|error| panic!("{}: {error}", listed.file));
    let pictures = pictures.unwrap_or_else(|error| panic!("{}: {error}", listed.file));
    assert_eq!(probe, pictures.probe, "{}: two readings", listed.file);
    let used = check_pictures(listed, &pictures);
    check_dense(decoder, &path, listed).await;
    let warnings: Vec<_> = probe
        .warnings
        .iter()
        .map(|warning| warning.name())
        .collect();
    let is_partial = listed.expect.starts_with("partial");
    assert_eq!(
        is_partial,
        !warnings.is_empty(),
        "{}: warnings {warnings:?}",
        listed.file
    );
    format!("{} frames, {used} {warnings:?}", probe.frames)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listed_clip_decodes_as_the_reference_or_is_refused() {
    let folder = shared::root().join("clips");
    let text = match fs::read(folder.join("manifest.json")) {
        Ok(text) => text,
        // The repository's own copy of the shared data has no clips.
        Err(_) if !folder.exists() => return println!("no clips at {}: skipped", folder.display()),
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let manifest: Manifest = serde_json::from_slice(&text).expect("a manifest");
    let decoder = decoder(config()).await;
    let checks = manifest.clips.iter().map(|listed| {
        let (decoder, folder) = (&decoder, &folder);
        async move { (&listed.file, check(decoder, folder, listed).await) }
    });
    let mut checks = std::pin::pin!(stream::iter(checks).buffer_unordered(2));
    while let Some((file, outcome)) = checks.next().await {
        println!("{file}: {outcome}");
    }
    let listed: std::collections::BTreeSet<_> = manifest
        .clips
        .iter()
        .map(|clip| clip.file.as_str())
        .collect();
    for entry in fs::read_dir(&folder).expect("readable") {
        let name = entry
            .expect("readable")
            .file_name()
            .into_string()
            .expect("a text");
        assert!(
            name == "manifest.json" || listed.contains(name.as_str()),
            "{name} is not listed"
        );
    }
    println!("{} clips, libavcodec {}", listed.len(), libavcodec());
    assert!(decoder.processes().0.is_some(), "the zygote lives");
}
