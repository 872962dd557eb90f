//! Decoding only what is needed gives what decoding everything gives: on drawn videos of every codec and container, and on every listed clip.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::md5::md5_hex;
use super::*;
use crate::encode::{Encoder, Settings};
use crate::ffmpeg::owned::silence;
use crate::request::ColorPolicy;
use crate::rng::Stream;

#[path = "../../../../tests/it/md5.rs"]
mod md5;

/// Drawn videos; each is decoded a few times.
const VIDEOS: u64 = 90;
const SIZE: (u32, u32) = (96, 64);

/// What came of a video: the facts, and the pixels of all pictures.
type Decoded = Result<(Summary, Vec<u8>), Refusal>;

fn decoded(file: &File, spec: &PictureSpec, method: Method) -> Decoded {
    let length = file.metadata().expect("a file").len();
    let mut room = vec![0; spec.bytes as usize];
    let target = Target::Pictures(spec, &mut room);
    let summary = decode((file, length), &Limits::default(), target, method)?;
    let bytes: u32 = summary
        .sizes
        .iter()
        .map(|(width, height)| width * height * 3)
        .sum();
    room.truncate(bytes as usize);
    Ok((summary, room))
}

/// Why packets and pictures of a file may differ.
fn doubt(file: &File) -> String {
    silence();
    let length = file.metadata().expect("a file").len();
    let limits = Limits::default();
    let budget = Budget::new(Duration::from_secs(60));
    let index = probe::open(file, length, &limits)
        .and_then(|mut opened| probe::index(&mut opened, &limits, &budget, 0));
    match index.map(|index| index.doubt) {
        Ok(None) => "sure".to_owned(),
        Ok(Some(doubt)) => format!("{doubt:?}"),
        Err(reject) => format!("refused: {reject:?}"),
    }
}

fn in_file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

/// Decodes both ways, with payloads up to these sizes kept and otherwise read again; says what differs.
fn difference(
    file: &File,
    samplings: &[(u16, Sampling)],
    kept: &[usize],
    bytes: u32,
) -> Option<String> {
    silence();
    for (frames, sampling) in samplings {
        let spec = PictureSpec {
            frames: NonZeroU16::new(*frames).expect("some"),
            sampling: sampling.clone(),
            rotation: RotationPolicy::Stored,
            order: FrameOrder::Display,
            color: ColorPolicy::Reference,
            bytes,
        };
        let everything = Method {
            effort: Effort::Everything,
            ..Method::default()
        };
        let expected = decoded(file, &spec, everything);
        for &kept_bytes in kept {
            let method = Method {
                effort: Effort::Needed,
                kept_bytes,
            };
            let ours = decoded(file, &spec, method);
            if ours == expected {
                continue;
            }
            let facts = |own: &Decoded| own.as_ref().map(|own| own.0.clone()).map_err(|own| *own);
            let (ours, expected) = (facts(&ours), facts(&expected));
            let what = if ours == expected { "pixels" } else { "facts" };
            return Some(format!(
                "{what} differ for {sampling:?}, kept {kept_bytes}: {ours:?} instead of {expected:?}"
            ));
        }
    }
    None
}

/// A video whose content moves, with noise that makes every picture another one.
fn picture(time: i64, random: &mut Stream) -> Vec<u8> {
    let mut rgb = Vec::with_capacity((SIZE.0 * SIZE.1 * 3) as usize);
    let noise = random.below(64) as i64;
    for y in 0..i64::from(SIZE.1) {
        for x in 0..i64::from(SIZE.0) {
            let value = ((x + time * 3) ^ (y + time)) & 127;
            let patch = x / 8 == time % 12 && y / 8 == (time / 2) % 8;
            let red = if patch { 235 } else { value + 48 };
            rgb.extend([
                red as u8,
                (value + noise) as u8,
                ((x - y + time * 2) & 255) as u8,
            ]);
        }
    }
    rgb
}

fn flag(random: &mut Stream) -> bool {
    random.below(2) == 1
}

/// One of several.
fn one(random: &mut Stream, of: &[&'static str]) -> &'static str {
    of[random.below(of.len() as u64) as usize]
}

fn x264(random: &mut Stream) -> Settings {
    let muxer = one(random, &["mp4", "matroska", "mpegts", "flv", "mov", "avi"]);
    let mut settings = Settings::new("libx264", muxer)
        .option("preset", one(random, &["ultrafast", "veryfast", "medium"]));
    settings.b_frames = if muxer == "avi" {
        0
    } else {
        random.below(5) as u8
    };
    let mut parameters = vec![format!("ref={}", 1 + random.below(6))];
    let extras = [
        "open-gop=1",
        "intra-refresh=1",
        "slices=3",
        "interlaced=1",
        "b-pyramid=none",
        "b-pyramid=strict",
        "scenecut=0",
        "repeat-headers=1",
        "weightp=0",
        "keyint=1",
    ];
    for extra in extras {
        let odds = if extra == "keyint=1" { 20 } else { 5 };
        if random.below(odds) == 0 {
            parameters.push(extra.to_owned());
        }
    }
    settings.option("x264-params", &parameters.join(":"))
}

fn x265(random: &mut Stream) -> Settings {
    let muxer = one(random, &["mp4", "matroska", "mpegts"]);
    let mut settings = Settings::new("libx265", muxer).option("preset", "ultrafast");
    settings.b_frames = random.below(4) as u8;
    let mut parameters = vec!["log-level=none:pools=1:frame-threads=1".to_owned()];
    parameters.push(format!("bframes={}", settings.b_frames));
    for extra in [
        "open-gop=0",
        "temporal-layers=3",
        "repeat-headers=1",
        "b-pyramid=0",
        "slices=2",
    ] {
        if random.below(4) == 0 {
            parameters.push(extra.to_owned());
        }
    }
    settings.option("x265-params", &parameters.join(":"))
}

fn settings(random: &mut Stream) -> Settings {
    let mut settings = match random.below(10) {
        0..=3 => x264(random),
        4 | 5 => x265(random),
        6 => {
            let muxer = one(random, &["mp4", "avi", "matroska", "mov"]);
            let mut settings = Settings::new("mpeg4", muxer);
            settings.b_frames = random.below(3) as u8;
            settings
        }
        7 => {
            let encoder = one(random, &["libvpx", "libvpx-vp9"]);
            let muxer = if encoder == "libvpx" {
                "webm"
            } else {
                one(random, &["webm", "mp4"])
            };
            Settings::new(encoder, muxer)
                .option("b", "200k")
                .option("deadline", one(random, &["realtime", "good"]))
                .option("cpu-used", "5")
                .option("auto-alt-ref", one(random, &["0", "1"]))
                .option("lag-in-frames", one(random, &["0", "10"]))
        }
        8 => Settings::new("libsvtav1", one(random, &["mp4", "webm", "matroska"]))
            .option("preset", "12")
            .option("crf", "45"),
        _ => match random.below(8) {
            0 => Settings::new("mjpeg", one(random, &["avi", "mov"])),
            1 => Settings::new("prores_ks", "mov"),
            2 => Settings::new("ffv1", "matroska"),
            3 => Settings::new("flv", "flv"),
            4 => Settings::new("wmv2", one(random, &["asf", "avi"])),
            5 => Settings::new("msmpeg4", one(random, &["asf", "avi"])),
            6 => Settings::new("libtheora", "ogg"),
            _ => Settings::new("mpeg2video", "mpegts"),
        },
    };
    settings.group = 1 + random.below(24) as u32;
    if matches!(settings.muxer, "mp4" | "mov") {
        if random.below(4) == 0 {
            settings = settings.muxer_option("movflags", "frag_keyframe+empty_moov");
        } else if flag(random) {
            settings = settings.muxer_option("avoid_negative_ts", "disabled");
        }
    }
    settings
}

/// Encodes a drawn video: its frames are as many time units apart as drawn, and the first may lie before the edit list's start.
fn drawn(settings: &Settings, frames: u32, random: &mut Stream) -> Option<Vec<u8>> {
    let rate = [5, 24, 25, 30, 60][random.below(5) as usize];
    let mut encoder = match Encoder::with(settings, SIZE.0, SIZE.1, rate) {
        Ok(encoder) => encoder,
        Err(error) => {
            println!("{settings:?}: {error}");
            return None;
        }
    };
    let is_even = flag(random) || settings.muxer == "avi";
    let is_cut = settings
        .muxer_options
        .iter()
        .any(|(name, _)| name == "avoid_negative_ts");
    let mut time = if is_cut { -(random.below(8) as i64) } else { 0 };
    for _ in 0..frames {
        encoder.set_time(time);
        encoder.push(&picture(time, random)).expect("a picture");
        time += if is_even {
            1
        } else {
            1 + random.below(3) as i64
        };
    }
    Some(encoder.finish().expect("a file"))
}

/// Whether the index of a file is without a doubt.
fn is_sure(doubt: &str) -> bool {
    doubt == "sure"
}

#[test]
fn decoding_what_is_needed_equals_decoding_everything() {
    let mut sure: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for video in 0..VIDEOS {
        let mut random = Stream::new(11, "videos").fork(video);
        let settings = settings(&mut random);
        let frames = 2 + random.below(60) as u32;
        let Some(bytes) = drawn(&settings, frames, &mut random) else {
            continue;
        };
        let file = in_file(&bytes);
        let doubt = doubt(&file);
        let name = format!("video {video}, {frames} frames, {doubt}, {settings:?}");
        println!("{name}");
        if doubt.starts_with("refused") {
            wrong.push(name.clone());
        }
        let counts = sure.entry(settings.encoder).or_default();
        counts.0 += u32::from(is_sure(&doubt));
        counts.1 += 1;
        let stride = NonZeroU32::new(1 + random.below(6) as u32).expect("some");
        let one = Sampling::Indices(vec![random.below(4) as u32]);
        let samplings = [
            (8, Sampling::Uniform),
            (4, Sampling::Strided(stride)),
            (1, one),
        ];
        let found = difference(&file, &samplings, &[KEPT_BYTES, 0], 8 * SIZE.0 * SIZE.1 * 3);
        wrong.extend(found.map(|found| format!("{name}: {found}")));
    }
    println!("without a doubt, of all: {sure:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Otherwise this compares full decoding with itself.
    for (encoder, (sure, all)) in &sure {
        let never = ["mpeg2video", "flv", "wmv2", "msmpeg4", "libtheora"].contains(encoder);
        assert!(
            *sure > 0 || never || *all < 3,
            "{encoder}: {all} videos, all in doubt"
        );
    }
    assert!(sure.len() > 5, "encoders are missing: {sure:?}");
}

/// The folder of the listed clips.
fn clips() -> PathBuf {
    #[allow(clippy::disallowed_methods)]
    let given = std::env::var_os("FRAMESHIFT_SHARED").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let roots = given
        .into_iter()
        .chain(["../shared".into(), "tests/data".into()]);
    let mut folders = roots
        .map(|root: PathBuf| workspace.join(root).join("clips"))
        .filter(|clips| clips.is_dir());
    folders.next().expect("a folder of clips")
}

#[derive(serde::Deserialize)]
struct Manifest {
    clips: Vec<Listed>,
}

#[derive(serde::Deserialize)]
struct Listed {
    file: String,
    expect: String,
    #[serde(default)]
    codec: String,
    #[serde(default)]
    golden: Vec<Golden>,
    #[serde(default)]
    golden_pyav18: Vec<Golden>,
}

#[derive(serde::Deserialize)]
struct Golden {
    index: u32,
    pts: i64,
    y_md5: String,
}

/// Keeps the MD5 of the brightness of wanted frames by their places in the selection.
struct Luma(BTreeMap<usize, String>);

impl Sink for Luma {
    fn put(&mut self, frame: &Frame, slots: &[usize]) -> Result<(), Refusal> {
        let digest = md5_hex(&frame.luma());
        self.0
            .extend(slots.iter().map(|&slot| (slot, digest.clone())));
        Ok(())
    }
}

/// The time stamp of each golden frame, and the MD5 of its brightness.
fn luma(file: &File, golden: &[Golden], method: Method) -> Vec<(i64, Option<String>)> {
    let limits = Limits::default();
    let length = file.metadata().expect("a file").len();
    let budget = Budget::new(Duration::from_secs(60));
    let mut opened = probe::open(file, length, &limits).expect("it opens");
    let index = probe::index(&mut opened, &limits, &budget, method.kept_bytes).expect("an index");
    let mut source = Source {
        limits: &limits,
        order: FrameOrder::Reference,
        budget,
        packets: Packets::new((file, length), &limits, &index),
        opened,
        index: &index,
    };
    let sampling = Sampling::Indices(golden.iter().map(|golden| golden.index).collect());
    let mut sink = Luma(BTreeMap::new());
    let selection = (&sampling, golden.len() as u16, 1);
    let (choice, _) = source
        .frames(selection, method.effort, &mut sink)
        .expect("frames");
    let digests = (0..golden.len()).map(|slot| sink.0.remove(&slot));
    choice.pts.into_iter().zip(digests).collect()
}

/// The rule for FFmpeg 8 and later: its MPEG-4 decoder rounds differently.
fn is_newer() -> bool {
    let version = crate::ffmpeg::codec::version();
    version >= 62
}

#[test]
fn every_listed_clip_decodes_alike_either_way() {
    silence();
    let folder = clips();
    let text = std::fs::read(folder.join("manifest.json")).expect("a manifest");
    let manifest: Manifest = serde_json::from_slice(&text).expect("a manifest");
    let (mut wrong, mut sure, mut decoded) = (Vec::new(), 0, 0);
    for listed in manifest
        .clips
        .iter()
        .filter(|listed| listed.expect != "reject")
    {
        let file = File::open(folder.join(&listed.file)).expect("readable");
        let doubt = doubt(&file);
        decoded += 1;
        sure += usize::from(is_sure(&doubt));
        for (effort, kept_bytes) in [(Effort::Needed, 0), (Effort::Everything, KEPT_BYTES)] {
            let method = Method { effort, kept_bytes };
            let ours = luma(&file, &listed.golden, method);
            assert_eq!(ours.len(), listed.golden.len(), "{}", listed.file);
            for (golden, (pts, found)) in listed.golden.iter().zip(&ours) {
                let newer = listed
                    .golden_pyav18
                    .iter()
                    .find(|own| own.index == golden.index);
                let allows_newer = is_newer() && listed.codec == "mpeg4";
                let found = found.as_ref();
                let is_newer = newer.is_some_and(|newer| found == Some(&newer.y_md5));
                let is_equal = found == Some(&golden.y_md5) || allows_newer && is_newer;
                if *pts != golden.pts || !is_equal {
                    wrong.push(format!(
                        "{}, frame {}, {effort:?}",
                        listed.file, golden.index
                    ));
                }
            }
        }
        println!("{}: {doubt}", listed.file);
    }
    assert!(wrong.is_empty(), "luma differs:\n{}", wrong.join("\n"));
    println!("{sure} of {decoded} without a doubt");
    assert!(sure * 2 > decoded && decoded > 0, "{sure} of {decoded}");
}
