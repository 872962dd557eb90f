//! A full-size backbone with adapters in every block and without any, through the server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Request;

use super::bed::{Bed, tenant};
use super::{Args, Pair};
use crate::blocking::blocking;
use crate::model::load::{Float, write_reference};
use crate::proto::v1;
use crate::tools::bench_compute::{Size, random_tensors};
use crate::tools::bench_serve::host::{Host, describe};
use crate::tools::bench_serve::material::{Sets, Tenant};
use crate::tools::bench_serve::{Error, during, system};

/// Width of the adapters: the paper's for ViT-B/16.
const WIDTH: u32 = 384;

/// Clips a second with a set, and with a head alone, one request at a time in turns.
pub(super) async fn set(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let folder = TempDir::with_prefix("frameshift-bench-").map_err(system("make a folder"))?;
    let path = match &args.full_size {
        Some(path) => path.clone(),
        None => {
            let path = folder.path().join("vit-b16.safetensors");
            let own = path.clone();
            blocking(move || random(&own)).await??;
            path
        }
    };
    let host = Host::start(bed.split.clone(), &arguments(&path, bed)).await?;
    let outcome = measured(args, bed, &host).await;
    host.stop().await?;
    outcome
}

fn arguments(path: &Path, bed: &Bed) -> [String; 4] {
    let path: PathBuf = path.into();
    [
        "--backbone".to_owned(),
        path.to_string_lossy().into_owned(),
        "--precision".to_owned(),
        bed.info.precision.clone(),
    ]
}

/// Writes a ViT-B/16 of random weights.
fn random(path: &Path) -> Result<(), Error> {
    let shape = Size::VitB16.config();
    let tensors = random_tensors("bench", &shape);
    let file = write_reference(&shape, &tensors, Float::F16, &Default::default());
    std::fs::write(path, file).map_err(system("write a backbone"))
}

async fn measured(args: &Args, bed: &Bed, host: &Host) -> Result<Vec<Pair>, Error> {
    let (_, backbone) = describe(host.address()).await?;
    // Half of the backbone's width, where that is smaller.
    let sets = Sets::new(&backbone, WIDTH.min(backbone.width / 2).max(1));
    let with = tenant(host, "bench-set", &sets, &bed.clips, 1).await?;
    let without = tenant(host, "bench-bare", &sets.without_adapters(), &bed.clips, 1).await?;
    with.ask_all().await?;
    without.ask_all().await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        host.place_decoders();
        let end = Instant::now() + 2 * span.measured;
        let (mut of_set, mut of_bare, mut clips) = (Duration::ZERO, Duration::ZERO, 0);
        while clips == 0 || Instant::now() < end {
            of_set += once(&with, clips, span.timeout).await?;
            of_bare += once(&without, clips, span.timeout).await?;
            clips += 1;
        }
        pairs.push(Pair {
            a: clips as f64 / of_set.as_secs_f64(),
            b: clips as f64 / of_bare.as_secs_f64(),
            errors: 0,
        });
    }
    Ok(pairs)
}

/// Asks about a clip. Returns how long that took.
async fn once(tenant: &Tenant, number: usize, limit: Duration) -> Result<Duration, Error> {
    let video = tenant.videos.get(number % tenant.videos.len().max(1));
    let mut request = Request::new(v1::ClassifyRequest {
        task: tenant.tasks.first().cloned().unwrap_or_default(),
        source: video.cloned().map(v1::classify_request::Source::Video),
        ..Default::default()
    });
    request.set_timeout(limit);
    let began = Instant::now();
    let answer = tenant.client()?.classification().classify(request).await;
    answer.map_err(during("classify a clip"))?;
    Ok(began.elapsed())
}
