//! Times requests as a server has them: bytes in memory, the confined worker, the answer checked and copied out.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;

use super::{Error, local, refused};
use crate::spec::{FrameOrder, Normalization, RotationPolicy};
use crate::video::{
    self, ClipSpec, ColorPolicy, Decoder, Input, Lane, PictureSpec, Sampling, Views,
};

const EIGHT: NonZeroU16 = NonZeroU16::MIN.saturating_add(7);
const FOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);
const THREE: NonZeroU8 = NonZeroU8::MIN.saturating_add(2);
/// Requests of `pair` and `single`.
const MANY: usize = 24;

fn clip(sampling: Sampling, views: Views, temporal_views: NonZeroU8) -> ClipSpec {
    ClipSpec {
        frames: EIGHT,
        sampling,
        temporal_views,
        views,
        size: 224,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        normalization: Normalization::CLIP,
        alters: Vec::new(),
    }
}

async fn pictures(decoder: &Decoder, input: Input) -> Result<(), video::Error> {
    let spec = PictureSpec {
        frames: EIGHT,
        sampling: Sampling::Uniform,
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        bytes: 64 << 20,
    };
    let tenant = local();
    let pictures = decoder.pictures(&tenant, Lane::Batch, input, spec);
    pictures
        .await
        .map(|pictures| drop(std::hint::black_box(pictures)))
}

async fn planes(decoder: &Decoder, input: Input, spec: ClipSpec) -> Result<(), video::Error> {
    let tenant = local();
    let clip = decoder.clip(&tenant, Lane::Batch, input, spec);
    clip.await.map(|clip| drop(std::hint::black_box(clip)))
}

/// Clips in a row.
async fn row(decoder: &Decoder, input: Input, count: usize) -> Result<(), video::Error> {
    for _ in 0..count {
        let spec = clip(Sampling::Uniform, Views::Center, NonZeroU8::MIN);
        planes(decoder, input.clone(), spec).await?;
    }
    Ok(())
}

/// One request, or many.
async fn ask(decoder: &Decoder, what: &str, input: Input) -> Option<Result<(), video::Error>> {
    let one = NonZeroU8::MIN;
    Some(match what {
        "frames" => pictures(decoder, input).await,
        "clip" => row(decoder, input, 1).await,
        "dense" => {
            let spec = clip(Sampling::Strided(FOUR), Views::Center, one);
            planes(decoder, input, spec).await
        }
        "views" => {
            let spec = clip(Sampling::Strided(FOUR), Views::Three, THREE);
            planes(decoder, input, spec).await
        }
        "single" => row(decoder, input, MANY).await,
        "pair" => {
            let half = || row(decoder, input.clone(), MANY / 2);
            futures::future::try_join(half(), half()).await.map(drop)
        }
        _ => return None,
    })
}

/// Serves lines until the input ends.
pub(super) async fn run(decoder: &Decoder) -> Result<(), Error> {
    let mut files: HashMap<PathBuf, Bytes> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some((what, path)) = line.split_once(' ') else {
            return Err(Error::Line(line));
        };
        let path = PathBuf::from(path);
        let bytes = match files.get(&path) {
            Some(bytes) => bytes.clone(),
            None => {
                let read = std::fs::read(&path).map_err(|reason| Error::Read {
                    path: path.clone(),
                    reason,
                });
                files.entry(path.clone()).or_insert(read?.into()).clone()
            }
        };
        let begun = Instant::now();
        let done = ask(decoder, what, Input::Bytes(bytes)).await;
        let elapsed = begun.elapsed();
        done.ok_or_else(|| Error::Line(line.clone()))?
            .map_err(refused(&path))?;
        writeln!(std::io::stdout(), "{:.3}", elapsed.as_secs_f64() * 1e3)?;
        std::io::stdout().flush()?;
    }
    Ok(())
}
