//! Damaged videos through real workers: the server survives each, and keeps nothing of it.
//!
//! 500 in every run; `FRAMESHIFT_MUTATIONS` asks for another number, `FRAMESHIFT_MUTATION_SEED` for other damage, and `FRAMESHIFT_MUTATION_FIRST` begins
//! at a later one: what a run tells of one is seen again with its number and a count of 1.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use frameshift::rng::Stream;
use frameshift::spec::{FrameOrder, Normalization, RotationPolicy};
use frameshift::video::encode::{Encoder, Settings};
use frameshift::video::{
    ClipSpec, ColorPolicy, Config, Container, Decoder, Error, Input, Lane, Reject, Sampling, Views,
};
use futures::StreamExt;
use futures::stream;

use crate::damage::mutate;
use crate::decoding::{config, decoder, tenant};
use crate::processes::{Usage, children};
use crate::server::until;
use crate::shared;

/// Larger files take longer without having other parts.
const LARGEST: u64 = 300 << 10;

fn wanted(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Every clip of the shared folder that is not too large, a sample of every container, the inputs of reports, and a video of every older codec.
fn originals() -> Vec<(String, Bytes)> {
    let mut found: Vec<(String, Bytes)> = Vec::new();
    for folder in [
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/containers")),
        shared::root().join("clips"),
    ]
    .into_iter()
    .chain(folders_of_reports())
    {
        let Ok(entries) = fs::read_dir(&folder) else {
            // The repository's own copy of the shared data may have no clips.
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let length = fs::metadata(&path).expect("a file").len();
            let is_text = |end: &std::ffi::OsStr| end == "json" || end == "md";
            if length <= LARGEST && !path.extension().is_some_and(is_text) {
                let bytes = fs::read(&path).expect("readable");
                found.push((path.display().to_string(), bytes.into()));
            }
        }
    }
    found.extend(older_codecs());
    found.sort();
    assert!(found.len() >= Container::ALL.len(), "samples");
    found
}

/// The folders of the inputs of reports about videos, in the repository and in the shared data.
fn folders_of_reports() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reports");
    let roots = [own, shared::root().join("reports")];
    let entries = roots.iter().filter_map(|root| fs::read_dir(root).ok());
    let folders = entries
        .flatten()
        .map(|entry| entry.expect("an entry").path());
    let is_video = |folder: &PathBuf| {
        let name = folder.file_name().and_then(|name| name.to_str());
        folder.is_dir() && name.is_some_and(|name| name.starts_with("video"))
    };
    folders.filter(is_video).collect()
}

/// Codecs that no shared clip has, in every container that takes them, from our own encoder.
fn older_codecs() -> Vec<(String, Bytes)> {
    let made = [
        ("h263", "3gp", (128, 96)),
        ("flv", "flv", (64, 48)),
        ("wmv1", "asf", (64, 48)),
        ("wmv2", "asf", (64, 48)),
        ("wmv2", "avi", (64, 48)),
        ("msmpeg4v2", "avi", (64, 48)),
        ("msmpeg4", "avi", (64, 48)),
        ("libtheora", "ogg", (64, 48)),
        ("dvvideo", "avi", (720, 576)),
        ("dvvideo", "mov", (720, 576)),
        ("libx264", "avi", (64, 48)),
    ];
    let encoded = made
        .into_iter()
        .filter_map(|(encoder, muxer, (width, height))| {
            let mut settings = Settings::new(encoder, muxer);
            settings.group = 4;
            // DV has its own rates only.
            let rate = if encoder == "dvvideo" { 25 } else { 10 };
            let mut encoder = match Encoder::with(&settings, width, height, rate) {
                Ok(encoder) => encoder,
                Err(error) => {
                    println!("{settings:?}: {error}");
                    return None;
                }
            };
            let frames = if settings.encoder == "dvvideo" { 2 } else { 12 };
            for i in 0..frames {
                let bytes = width as usize * height as usize * 3;
                let picture: Vec<u8> = (0..bytes).map(|at| (at / 9 + i * 5) as u8).collect();
                encoder.push(&picture).expect("a picture");
            }
            let bytes = encoder.finish().expect("a file");
            Some((format!("{}.{muxer}", settings.encoder), bytes.into()))
        });
    encoded.collect()
}

fn spec() -> ClipSpec {
    ClipSpec {
        frames: std::num::NonZeroU16::new(4).expect("4"),
        sampling: Sampling::Uniform,
        temporal_views: std::num::NonZeroU8::MIN,
        views: Views::Center,
        size: 32,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    }
}

/// What came out of one video, as a word.
fn outcome(result: Result<(), Error>, name: &str) -> &'static str {
    match result {
        Ok(()) => "decoded",
        Err(Error::Rejected(reject)) => reject.reason(),
        Err(other) => panic!("{name}: {other:?}"),
    }
}

/// Decodes a clip, or only the facts.
async fn decode(decoder: &Decoder, who: &str, bytes: Bytes, is_clip: bool) -> Result<(), Error> {
    let (who, input) = (tenant(who), Input::Bytes(bytes));
    if is_clip {
        decoder
            .clip(&who, Lane::Batch, input, spec())
            .await
            .map(drop)
    } else {
        decoder.probe(&who, Lane::Batch, input).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_videos_are_decoded_or_refused_and_nothing_stays_behind() {
    let (first, count, seed) = (
        wanted("FRAMESHIFT_MUTATION_FIRST", 0),
        wanted("FRAMESHIFT_MUTATIONS", 500),
        wanted("FRAMESHIFT_MUTATION_SEED", 1),
    );
    let originals = originals();
    let config = Config {
        workers: 2,
        ..config()
    };
    let decoder = decoder(config.clone()).await;
    // What is allocated once is there after the first videos.
    for (_, bytes) in originals.iter().take(8) {
        let _ = decode(&decoder, "warm", bytes.clone(), true).await;
    }
    let zygote = decoder.processes().0.expect("a zygote");
    let before = (Usage::of(std::process::id()), Usage::of(zygote));
    let begun = Instant::now();
    let work = (first..first + count).map(|i| {
        let (decoder, originals) = (&decoder, &originals);
        async move {
            let mut random = Stream::new(seed, "mutations").fork(i);
            let mut pick = || &originals[random.below(originals.len() as u64) as usize];
            let ((name, original), (_, donor)) = (pick(), pick());
            let bytes = Bytes::from(mutate(original, donor, &mut random));
            // Two tenants keep two workers, and a third one takes theirs away now and then.
            let who = ["a", "b", "c"][if i.is_multiple_of(50) {
                2
            } else {
                i as usize % 2
            }];
            let begun = Instant::now();
            let result = decode(decoder, who, bytes, !i.is_multiple_of(3)).await;
            (i, outcome(result, name), begun.elapsed(), name)
        }
    });
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut worst = (Duration::ZERO, 0, String::new());
    // No more than there are workers, so that the time is the decoder's.
    let mut work = std::pin::pin!(stream::iter(work).buffer_unordered(2));
    while let Some((i, outcome, time, name)) = work.next().await {
        *outcomes.entry(outcome).or_default() += 1;
        if time > worst.0 {
            worst = (time, i, name.clone());
        }
        let is_telling = [Reject::DecoderCrashed, Reject::SandboxViolation];
        if is_telling.iter().any(|reject| reject.reason() == outcome) {
            println!("mutation {i} of seed {seed} ({name}): {outcome}");
        }
    }
    let after = (Usage::of(std::process::id()), Usage::of(zygote));
    println!(
        "{count} mutations of {} files in {:.1?}",
        originals.len(),
        begun.elapsed()
    );
    println!("outcomes: {outcomes:?}");
    println!("worst: {:.3?}, mutation {} ({})", worst.0, worst.1, worst.2);
    println!("server before {:?}, after {:?}", before.0, after.0);
    println!("zygote before {:?}, after {:?}", before.1, after.1);

    assert_eq!(decoder.processes().0, Some(zygote), "the zygote lives");
    assert!(
        worst.0 < config.limits.wall + Duration::from_secs(10),
        "{worst:?}"
    );
    // A file may find a bug of a decoder. One that needs another system call than the list has would be ours.
    let violations = outcomes.get(Reject::SandboxViolation.reason());
    assert_eq!(violations, None);
    if count >= 100 {
        assert!(
            outcomes["decoded"] > count / 10 && outcomes.len() > 3,
            "{outcomes:?}"
        );
    }
    before.0.assert_kept(&after.0, "server");
    before.1.assert_kept(&after.1, "zygote");
    // Those that were ended are gone soon.
    until(|| async { children(zygote).len() <= config.workers + 2 }).await;
    samples_decode(&decoder, &originals).await;
}

/// The samples of the containers, which are not damaged, still decode.
async fn samples_decode(decoder: &Decoder, originals: &[(String, Bytes)]) {
    let samples = originals
        .iter()
        .filter(|(name, _)| name.contains("containers"));
    for (_, bytes) in samples {
        decode(decoder, "a", bytes.clone(), true)
            .await
            .expect("a good video");
    }
}

/// Good videos of three tenants, and a hostile one in twenty. `FRAMESHIFT_SOAK` asks for another number of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_of_three_tenants_keeps_its_memory_and_leaves_no_process() {
    let count = wanted("FRAMESHIFT_SOAK", 200);
    let originals = originals();
    let decoder = decoder(Config {
        workers: 2,
        ..config()
    })
    .await;
    let (mut bad, mut good) = (Vec::new(), Vec::new());
    for original in &originals {
        match decode(&decoder, "a", original.1.clone(), true).await {
            Ok(()) => good.push(original),
            Err(_) => bad.push(original),
        }
    }
    let one = async |i: u64| {
        let mut random = Stream::new(5, "soak").fork(i);
        let who = ["a", "b", "c"][random.below(3) as usize];
        let is_hostile = i.is_multiple_of(20);
        let from = if is_hostile && !bad.is_empty() {
            &bad
        } else {
            &good
        };
        let (name, bytes) = from[random.below(from.len() as u64) as usize];
        let bytes = if is_hostile && random.below(2) == 0 {
            mutate(bytes, bytes, &mut random).into()
        } else {
            bytes.clone()
        };
        let result = decode(&decoder, who, bytes, true).await;
        assert!(is_hostile || result.is_ok(), "{name}: {result:?}");
        outcome(result, name)
    };
    let run = async |range: std::ops::Range<u64>| {
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        let mut work = std::pin::pin!(stream::iter(range.map(&one)).buffer_unordered(4));
        while let Some(outcome) = work.next().await {
            *outcomes.entry(outcome).or_default() += 1;
        }
        outcomes
    };
    run(0..count / 4).await;
    let zygote = decoder.processes().0.expect("a zygote");
    let before = (Usage::of(std::process::id()), Usage::of(zygote));
    let outcomes = run(count / 4..count).await;
    let after = (Usage::of(std::process::id()), Usage::of(zygote));
    println!("{count} decodes, of the last three quarters {outcomes:?}");
    println!("server before {:?}, after {:?}", before.0, after.0);
    println!("zygote before {:?}, after {:?}", before.1, after.1);
    before.0.assert_kept(&after.0, "server");
    before.1.assert_kept(&after.1, "zygote");
    assert_eq!(decoder.processes().0, Some(zygote), "the zygote lives");
    until(|| async { children(zygote).len() <= 4 }).await;
}
