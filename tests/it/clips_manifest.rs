//! Every clip of `clips/manifest.json` through real workers: hostile files are refused for the right reason, the others give the reference's frames.
//!
//! The folder is the shared data's (`FRAMESHIFT_SHARED`), so that other clips in the same layout can be tried. The brightness planes' digests are checked
//! where they are decoded, in `video::decode`.

use std::collections::BTreeMap;
use std::fs;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::{
    ClipSpec, ColorPolicy, Decoder, Error, Lane, Limits, Picture, PictureSpec, Reject, Rejection,
    Sampling, Views, Warning,
};
use futures::stream::{self, StreamExt};
use serde::Deserialize;

use crate::decoding::{config, decoder, file, tenant};
use crate::md5::md5_hex;
use crate::shared;

/// Memory that a worker may touch on any listed clip; its limit, which is one of address space, is twice as much.
const RESIDENT: u64 = 512 << 20;
/// Room for the pictures of one request.
const ROOM: u32 = 96 << 20;

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
    #[serde(default)]
    width: u64,
    #[serde(default)]
    height: u64,
    #[serde(default)]
    open_error: String,
    /// Counter-clockwise, as FFmpeg says it.
    #[serde(default)]
    rotation: i32,
    /// Video streams.
    #[serde(default)]
    n_video_streams: u64,
    /// The codecs of its sound.
    #[serde(default)]
    audio: Vec<String>,
    /// What is special about it, in words.
    #[serde(default)]
    special: String,
    #[serde(default)]
    golden: Vec<Golden>,
    #[serde(default)]
    golden_pyav18: Vec<Golden>,
    /// Frames by their places in the decoder's order, which players show.
    #[serde(default)]
    golden_output_order: Vec<Golden>,
    /// Among others the indices of samplings: `uniform8_idx`, `dense_16x4_idx`.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
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

impl Listed {
    /// The listed samplings: frames, sampling, indices.
    fn samplings(&self) -> Vec<(NonZeroU16, Sampling, Vec<u32>)> {
        let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let indices = self.rest.iter().filter_map(|(key, value)| {
            let name = key.strip_suffix("_idx")?;
            let (frames, sampling) = if let Some(frames) = name.strip_prefix("uniform") {
                (frames, Sampling::Uniform)
            } else {
                let (frames, rate) = name.strip_prefix("dense_")?.split_once('x')?;
                let rate: NonZeroU32 = rate.parse().unwrap_or_else(|e| panic!("{key}: {e}"));
                (frames, Sampling::Strided(rate))
            };
            let indices = serde_json::from_value(value.clone());
            let indices = indices.unwrap_or_else(|e| panic!("{key}: {e}"));
            Some((number(frames), sampling, indices))
        });
        indices.collect()
    }

    /// The limit that a clip's numbers break, when there is one. Streams come before pictures, pictures before frames.
    fn broken_limit(&self, limits: &Limits) -> Option<Reject> {
        let streams = self.n_video_streams + self.audio.len() as u64;
        if streams > u64::from(limits.streams) {
            Some(Reject::TooManyStreams)
        } else if self.width * self.height > u64::from(limits.pixels) {
            Some(Reject::TooManyPixels)
        } else if self.frames > limits.frames {
            Some(Reject::TooManyFrames)
        } else {
            None
        }
    }

    /// Whether the words of a clip say that it has more of something than a limit allows. What its numbers do not count (subtitles, packets), words may.
    fn speaks_of(&self, reject: Reject) -> bool {
        let word = if reject == Reject::TooManyStreams {
            "stream"
        } else if reject == Reject::TooManyFrames || reject == Reject::TooManyPackets {
            "frames"
        } else if reject == Reject::TooLong {
            "hour"
        } else {
            return false;
        };
        self.special.to_lowercase().contains(word)
    }

    /// Whether a refusal has the reason that the manifest's numbers and the file's first bytes imply.
    fn is_right(&self, rejection: &Rejection, bytes: &[u8], limits: &Limits) -> bool {
        let pictures_and_lists: [&[u8]; 7] = [
            b"GIF8",
            b"\x89PNG",
            b"\xff\xd8\xff",
            b"BM",
            b"RIFF....WEBP",
            b"#EXTM3U",
            // MPEG program streams.
            b"\0\0\x01\xba",
        ];
        let begins = |magic: &[u8]| {
            let mut pairs = magic.iter().zip(bytes);
            bytes.len() > magic.len() && pairs.all(|(magic, byte)| *magic == b'.' || magic == byte)
        };
        let reject = rejection.reject;
        if bytes.is_empty() {
            reject == Reject::Empty
        } else if pictures_and_lists.iter().any(|magic| begins(magic)) {
            reject == Reject::ContainerNotAllowed
        } else if let Some(broken) = self.broken_limit(limits) {
            reject == broken && rejection.limit.is_some()
        } else if self.open_error.contains("no video stream") {
            reject == Reject::NoVideoStream
        } else {
            let is_unreadable = matches!(
                reject,
                Reject::Unrecognised
                    | Reject::ContainerNotAllowed
                    | Reject::CodecNotAllowed
                    | Reject::NoVideoStream
                    | Reject::Undecodable
                    | Reject::NoFrames
            );
            is_unreadable || self.speaks_of(reject)
        }
    }
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

/// What all checks share.
struct Bed<'a> {
    decoder: Decoder,
    /// Refuses what is to be refused.
    strict: Decoder,
    limits: Limits,
    folder: &'a Path,
    /// The most memory that any worker touched.
    resident: AtomicU64,
}

impl Bed<'_> {
    /// Notes what the workers touched so far.
    fn measure(&self) {
        for worker in self.decoder.processes().1 {
            let Ok(status) = fs::read_to_string(format!("/proc/{}/status", worker.pid)) else {
                continue;
            };
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            let bytes = kibibytes.unwrap_or(0_u64) << 10;
            self.resident.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// Every golden frame of a clip; returns the rules that were used.
    async fn check_pictures(
        &self,
        listed: &Listed,
        (golden, order): (&[Golden], FrameOrder),
    ) -> &'static str {
        let mut used = "equal";
        let mut rest = golden;
        while !rest.is_empty() {
            let mut room = u64::from(ROOM);
            let fits = rest.iter().take_while(|golden| {
                let bytes = u64::from(golden.w) * u64::from(golden.h) * 3;
                let is_room = bytes <= room;
                room = room.saturating_sub(bytes);
                is_room
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            rest = later;
            for newer in self.check_some(listed, now, order).await {
                used = newer;
            }
        }
        used
    }

    /// Returns the rules other than equality that were used.
    async fn check_some(
        &self,
        listed: &Listed,
        golden: &[Golden],
        order: FrameOrder,
    ) -> Vec<&'static str> {
        let name = &listed.file;
        let indices: Vec<u32> = golden.iter().map(|golden| golden.index).collect();
        let spec = PictureSpec {
            frames: NonZeroU16::new(golden.len() as u16).expect("some"),
            sampling: Sampling::Indices(indices.clone()),
            rotation: RotationPolicy::Stored,
            order,
            color: ColorPolicy::Reference,
            bytes: ROOM,
        };
        let input = file(&self.folder.join(name));
        let ours = (self.decoder)
            .pictures(&tenant("clips"), Lane::Batch, input, spec)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(ours.probe.reference_frames, listed.frames, "{name}: frames");
        assert_eq!(ours.indices, indices, "{name}: indices");
        let mut used = Vec::new();
        for ((picture, golden), pts) in ours.pictures.iter().zip(golden).zip(&ours.pts) {
            let index = golden.index;
            // In the order of display time stamps that are shuffled belong to other frames.
            if order == FrameOrder::Reference {
                assert_eq!(*pts, golden.pts, "{name}: time stamp of frame {index}");
            }
            let size = (picture.width, picture.height);
            assert_eq!(size, (golden.w, golden.h), "{name}: size");
            match rule(listed, golden, picture) {
                Some("equal") => {}
                Some(rule) => used.push(rule),
                None => panic!(
                    "{name}: frame {index} differs: mean {} instead of {}",
                    mean(picture),
                    golden.rgb_mean
                ),
            }
        }
        used
    }

    /// Every sampling that the manifest lists.
    async fn check_samplings(&self, listed: &Listed) {
        let samplings = listed.samplings();
        let has_something = !samplings.is_empty() || !listed.golden.is_empty();
        assert!(has_something, "{}: nothing to compare", listed.file);
        for (frames, sampling, indices) in samplings {
            let spec = ClipSpec {
                frames,
                sampling,
                temporal_views: NonZeroU8::MIN,
                views: Views::Three,
                size: 64,
                rotation: RotationPolicy::Display,
                order: FrameOrder::Reference,
                color: ColorPolicy::Reference,
                normalization: Normalization::CLIP,
                alters: Vec::new(),
            };
            let what = format!("{}, {:?}", listed.file, spec.sampling);
            let input = file(&self.folder.join(&listed.file));
            let clip = (self.decoder)
                .clip(&tenant("clips"), Lane::Batch, input, spec)
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(clip.indices, [indices], "{what}");
            assert_eq!(clip.probe.frames, listed.frames, "{what}: frames");
            assert_eq!(clip.planes.len(), 3, "{what}");
        }
    }

    async fn check(&self, listed: &Listed) -> String {
        let path = self.folder.join(&listed.file);
        let begun = Instant::now();
        let decoder = if listed.expect == "reject" {
            &self.strict
        } else {
            &self.decoder
        };
        let probe = decoder
            .probe(&tenant("clips"), Lane::Interactive, file(&path))
            .await;
        if listed.expect == "reject" {
            let bytes = fs::read(&path).expect("readable");
            return match probe {
                Err(Error::Rejected(own)) if listed.is_right(&own, &bytes, &self.limits) => {
                    format!("refused: {own}")
                }
                other => panic!("{}: {other:?}", listed.file),
            };
        }
        let probe = probe.unwrap_or_else(|error| panic!("{}: {error}", listed.file));
        let (frames, file) = (probe.reference_frames, &listed.file);
        assert_eq!(frames, listed.frames, "{file}: frames");
        let clockwise = (-listed.rotation).rem_euclid(360) as u32;
        assert_eq!(probe.rotation.degrees(), clockwise, "{}", listed.file);
        let golden = (&listed.golden[..], FrameOrder::Reference);
        let used = self.check_pictures(listed, golden).await;
        let shown = (&listed.golden_output_order[..], FrameOrder::Display);
        self.check_pictures(listed, shown).await;
        self.check_samplings(listed).await;
        self.measure();
        assert!(begun.elapsed() < self.limits.wall, "{}", listed.file);
        let warnings: Vec<_> = probe.warnings.iter().map(|own| own.name()).collect();
        let is_partial = listed.expect.starts_with("partial");
        let is_damaged = [Warning::Damaged, Warning::Truncated]
            .into_iter()
            .any(|warning| probe.warnings.contains(warning));
        assert_eq!(is_partial, is_damaged, "{file}: warnings {warnings:?}");
        if !listed.golden_output_order.is_empty() {
            assert!(
                probe.warnings.contains(Warning::Shuffled),
                "{file}: {warnings:?}"
            );
        }
        format!("{} frames, {used} {warnings:?}", probe.frames)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listed_clip_decodes_as_the_reference_or_is_refused() {
    let folder = shared::root().join("clips");
    let text = fs::read(folder.join("manifest.json"))
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let manifest: Manifest = serde_json::from_slice(&text).expect("a manifest");
    let mut config = config();
    // Enough for a busy machine and an unoptimised build.
    config.limits.wall = Duration::from_secs(120);
    config.limits.cpu = Duration::from_secs(60);
    // Clips that have too many frames were chosen for these limits, which are stricter than the default.
    let mut strict = config.clone();
    strict.limits.frames = 20_000;
    strict.limits.packets = 200_000;
    let bed = Bed {
        limits: strict.limits,
        strict: decoder(strict).await,
        decoder: decoder(config).await,
        folder: &folder,
        resident: AtomicU64::new(0),
    };
    let checks = manifest.clips.iter().map(|listed| {
        let bed = &bed;
        async move { (&listed.file, bed.check(listed).await) }
    });
    let mut checks = std::pin::pin!(stream::iter(checks).buffer_unordered(2));
    let mut count = 0;
    while let Some((file, outcome)) = checks.next().await {
        println!("{file}: {outcome}");
        count += 1;
    }
    assert!(count > 0, "no clip in {}", folder.display());
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
    let resident = bed.resident.load(Ordering::Relaxed);
    println!(
        "{count} clips, libavcodec {}, workers touched at most {} MiB",
        libavcodec(),
        resident >> 20
    );
    assert!(resident <= RESIDENT, "{} MiB", resident >> 20);
    assert!(bed.decoder.processes().0.is_some(), "the zygote lives");
}
