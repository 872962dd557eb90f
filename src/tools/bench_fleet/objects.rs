//! Objects in a bucket: what a second pass over a data set asks of it, and how fast copies are made.
//!
//! Invariant: the bucket and the local folder, and the cache and plain reads, take turns on the same objects.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::figures::{Figures, Goal};
use super::{Args, Error};
use crate::ids::{TenantId, VideoId};
use crate::rng::Stream;
use crate::spec::{Digest, FrameOrder, Normalization, RotationPolicy};
use crate::store::{Bucket, Key, Recorded, Store, cache, layout};
use crate::telemetry::Metrics;
use crate::tools::bench_serve::drawn;
use crate::video::{self, ClipSpec, ColorPolicy, Decoder, Input, Lane, Sampling, Views};

const FETCHED: &str = "objects fetched in the second pass over all clips";
const CLIPS: &str = "clips/s of later passes: bucket with cache / folder";
const COLD: &str = "bytes/s of 16 readers of 4 MB: cold cache / plain GET";
/// Objects that are written at a time.
const WRITERS: usize = 16;
/// Readers at a time.
const READERS: usize = 16;
/// Objects that are read cold, and bytes of each.
const LARGE: (usize, usize) = (64, 4 << 20);
/// Turns of each kind.
const TURNS: usize = 3;
/// Bytes of a cache: more than everything.
const ROOM: u64 = 64 << 30;

/// An object and its record.
type Stored = (Key, Recorded);

fn recorded(bytes: &Bytes) -> Recorded {
    Recorded {
        size: bytes.len() as u64,
        sha256: Digest(Sha256::digest(bytes).into()),
    }
}

/// Puts objects into stores under new names.
async fn put(stores: &[&Store], all: impl Iterator<Item = Bytes>) -> Result<Vec<Stored>, Error> {
    let puts = all.map(|bytes| async move {
        let key = layout::video(&TenantId::anonymous(), VideoId::generate());
        for store in stores {
            store.put(&key, bytes.clone()).await?;
        }
        Ok::<_, Error>((key, recorded(&bytes)))
    });
    stream::iter(puts).buffered(WRITERS).try_collect().await
}

/// Opens and decodes every clip once. Returns how many a second.
async fn pass(decoder: &Decoder, store: &Store, clips: &[Stored]) -> Result<f64, Error> {
    let begun = Instant::now();
    let tenant = &TenantId::anonymous();
    let decoded = clips.iter().map(|(key, recorded)| async move {
        let opened = store.open_recorded(key, *recorded).await?;
        let clip = decoder.clip(tenant, Lane::Batch, Input::File(opened.file), spec());
        clip.await.map(drop).map_err(Error::from)
    });
    let decoded = stream::iter(decoded).buffer_unordered(READERS);
    decoded.try_collect::<()>().await?;
    Ok(clips.len() as f64 / begun.elapsed().as_secs_f64())
}

fn spec() -> ClipSpec {
    ClipSpec {
        frames: std::num::NonZeroU16::MIN.saturating_add(7),
        sampling: Sampling::Uniform,
        temporal_views: std::num::NonZeroU8::MIN,
        views: Views::Center,
        size: 224,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    }
}

/// Requests to a cache that the bucket had to answer.
fn fetched(metrics: &Metrics) -> u64 {
    let text = metrics.text();
    let lines = text.lines().filter(|line| {
        line.starts_with("frameshift_object_cache_requests_total") && !line.contains("\"hit\"")
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum::<f64>() as u64
}

async fn with_cache(store: &Store, folder: &Path, metrics: &Metrics) -> Result<Store, Error> {
    let config = cache::Config {
        folder: folder.to_owned(),
        bytes: ROOM,
    };
    Ok(store.clone().with_cache(config, metrics.clone()).await?)
}

/// Measures.
///
/// # Errors
/// When the bucket, the disk or the decoder fails.
pub(super) async fn measure(arguments: &Args, figures: &mut Figures) -> Result<(), Error> {
    let Some(url) = &arguments.objects_url else {
        for name in [FETCHED, CLIPS, COLD] {
            figures.skip(name, "there is no bucket: --objects-url");
        }
        return Ok(());
    };
    let bucket = Bucket::new(
        url.clone(),
        arguments.objects_endpoint.clone(),
        arguments.objects_credentials_file.clone(),
        &[],
    )?;
    let bucket = Store::in_bucket(&bucket, Metrics::new())?;
    let folder = tempfile::tempdir().map_err(Error::Folder)?;
    passes(&bucket, folder.path(), arguments, figures).await?;
    cold(&bucket, folder.path(), figures).await
}

async fn passes(
    bucket: &Store,
    folder: &Path,
    arguments: &Args,
    figures: &mut Figures,
) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(Error::Folder)?;
    let decoder = Decoder::start(video::Config::new(program)).await?;
    let metrics = Metrics::new();
    let cached = with_cache(bucket, &folder.join("passes"), &metrics).await?;
    let local = Store::open(&folder.join("local"))?;
    let drawn = drawn(11, 32, 96)?;
    let all = drawn.iter().cycle().take(arguments.clips as usize).cloned();
    let clips = put(&[bucket, &local], all).await?;
    let first = pass(&decoder, &cached, &clips).await?;
    let before = fetched(&metrics);
    let (mut from_bucket, mut from_folder) = (0.0, 0.0);
    for turn in 0..TURNS {
        for is_bucket in [turn % 2 == 0, turn % 2 != 0] {
            let (store, rate) = match is_bucket {
                true => (&cached, &mut from_bucket),
                false => (&local, &mut from_folder),
            };
            *rate += pass(&decoder, store, &clips).await? / TURNS as f64;
        }
        if turn == 0 {
            let count = fetched(&metrics) - before;
            let more = json!({ "clips": clips.len(), "in_the_first_pass": before });
            figures.tell(FETCHED, (count as f64, ""), Goal::AtMost(0.0), more);
        }
    }
    let more = json!({
        "bucket_per_s": from_bucket, "folder_per_s": from_folder, "first_pass_per_s": first,
    });
    let ratio = from_bucket / from_folder;
    figures.tell(CLIPS, (ratio, ""), Goal::AtLeast(0.98), more);
    Ok(())
}

/// Reads every object once. Returns bytes a second.
async fn read<F: Future<Output = Result<(), Error>>>(
    all: &[Stored],
    read: impl Fn(Stored) -> F,
) -> Result<f64, Error> {
    let begun = Instant::now();
    let reads = all
        .iter()
        .map(|(key, recorded)| read((key.clone(), *recorded)));
    let reads = stream::iter(reads).buffer_unordered(READERS);
    reads.try_collect::<()>().await?;
    let bytes: u64 = all.iter().map(|(_, recorded)| recorded.size).sum();
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

async fn cold(bucket: &Store, folder: &Path, figures: &mut Figures) -> Result<(), Error> {
    let (count, size) = LARGE;
    let mut stream = Stream::new(13, "bench/objects");
    let noise: Vec<u8> = (0..size / 8)
        .flat_map(|_| stream.bits().to_le_bytes())
        .collect();
    let noise: Arc<[u8]> = noise.into();
    let all = (0..count).map(|number| {
        let mut bytes = noise.to_vec();
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Bytes::from(bytes)
    });
    let all = put(&[bucket], all).await?;
    let (mut through, mut plain) = (0.0, 0.0);
    for turn in 0..TURNS {
        for is_cold in [turn % 2 == 0, turn % 2 != 0] {
            if is_cold {
                let metrics = Metrics::new();
                let path = folder.join(format!("cold-{turn}"));
                let cached = with_cache(bucket, &path, &metrics).await?;
                let rate = read(&all, |(key, recorded)| {
                    let cached = cached.clone();
                    async move { Ok(cached.open_recorded(&key, recorded).await.map(drop)?) }
                });
                through += rate.await? / TURNS as f64;
            } else {
                let rate = read(&all, |(key, _)| async move {
                    Ok(bucket.get(&key).await.map(drop)?)
                });
                plain += rate.await? / TURNS as f64;
            }
        }
    }
    let mb = |rate: f64| rate / 1e6;
    let more =
        json!({ "cold_mb_per_s": mb(through), "plain_mb_per_s": mb(plain), "objects": count });
    figures.tell(COLD, (through / plain, ""), Goal::AtLeast(0.9), more);
    for (key, _) in all {
        bucket.delete(&key).await?;
    }
    Ok(())
}
