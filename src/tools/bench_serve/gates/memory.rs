//! The gates about the memory of adapter sets: what resident sets cost, a working set that does not fit, and the swap of a large set.

use tokio::time::Instant;

use super::bed::{BUSY, Bed, lane, latency, tenant};
use super::{Args, Pair};
use crate::client::Client;
use crate::proto::v1;
use crate::tools::bench_serve::calls::{self, import};
use crate::tools::bench_serve::host::Host;
use crate::tools::bench_serve::load::{self, Pacing};
use crate::tools::bench_serve::material::Tenant;
use crate::tools::bench_serve::{Arrivals, Error, during};

/// Tasks that are registered.
const REGISTERED: usize = 1000;
/// Tasks whose sets fit.
const RESIDENT: u64 = 200;
/// Share of the peak that is half load.
const HALF: f64 = 0.5;

fn adapter_memory(bytes: u64) -> [String; 2] {
    ["--adapter-memory".to_owned(), bytes.to_string()]
}

/// Resident memory of the process with 1,000 tasks over that with the backbone alone, and the bytes of the sets that are resident. Once: a process that
/// has grown does not shrink again.
pub(super) async fn resident(bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    let set = calls::set_bytes(bed.many.client()?).await?;
    bed.restart(&adapter_memory(RESIDENT * set)).await?;
    let one = lane(&bed.many, 1, Pacing::Closed(BUSY));
    let span = bed.span();
    let before = bed.load(vec![one], span).await?;
    let (bare, first) = (bed.host.resident_bytes()?, sets_of(bed).await?);
    bed.many.import(&bed.sets, REGISTERED).await?;
    let all = lane(&bed.many, REGISTERED, Pacing::Closed(BUSY));
    let after = bed.load(vec![all], span).await?;
    let (full, last) = (bed.host.resident_bytes()?, sets_of(bed).await?);
    bed.restart(&[]).await?;
    Ok(vec![Pair {
        a: full.saturating_sub(bare) as f64,
        b: last.saturating_sub(first) as f64,
        errors: before.all.errors + after.all.errors,
    }])
}

/// Bytes of the resident sets of all tenants.
async fn sets_of(bed: &Bed) -> Result<u64, Error> {
    let mut bytes = 0;
    for tenant in [&bed.many, &bed.other] {
        bytes += calls::resident(tenant.client()?).await?.iter().sum::<u64>();
    }
    Ok(bytes)
}

/// p95 at half load on a server with room for half of the sets, and on one with room for all.
pub(super) async fn working_set(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    const TASKS: usize = 32;
    let rate = HALF * bed.peak().await?;
    bed.have(TASKS).await?;
    let set = calls::set_bytes(bed.many.client()?).await?;
    let host = Host::start(bed.split.clone(), &adapter_memory(TASKS as u64 / 2 * set)).await?;
    let outcome = async {
        let small = tenant(&host, "bench-small", &bed.sets, &bed.clips, TASKS).await?;
        let pacing = Pacing::Open(Arrivals::Poisson, rate);
        let mut pairs = Vec::new();
        for pair in args.turns() {
            let span = args.span(pair);
            host.place_decoders();
            let with = load::run(vec![lane(&small, TASKS, pacing)], span).await?;
            let without = bed.load(vec![lane(&bed.many, TASKS, pacing)], span).await?;
            pairs.push(Pair {
                a: latency(&with.all, |times| times.p95)?,
                b: latency(&without.all, |times| times.p95)?,
                errors: with.all.errors + without.all.errors,
            });
        }
        Ok(pairs)
    };
    let outcome = outcome.await;
    host.stop().await?;
    outcome
}

/// Milliseconds from the request for a version of 14 MB, whose file is in host memory and whose set is not loaded, until it serves, on a server of its own.
pub(super) async fn swap(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    const BYTES: u64 = 14_000_000;
    /// Versions that take turns: more than fit, so that the next one is never resident.
    const VERSIONS: usize = 4;
    /// Room for their files, whatever of a set's bytes a file has.
    const FILES: u64 = 2 * VERSIONS as u64;
    let per_width = 4 * u64::from(bed.backbone.layers) * (2 * u64::from(bed.backbone.width) + 5);
    let width = (BYTES / per_width.max(1)).clamp(1, 4096);
    let sets = bed.sets.with_width(u32::try_from(width).unwrap_or(4096));
    let mut host = Host::start(bed.split.clone(), &[]).await?;
    let outcome = async {
        let mut owner = Tenant::connect(host.address(), "bench-swap", 1).await?;
        owner.import(&sets, 1).await?;
        let set = calls::set_bytes(owner.client()?).await?;
        owner.disconnect();
        let files = [
            "--host-adapter-memory".to_owned(),
            (FILES * set).to_string(),
        ];
        let memory = [&adapter_memory(set * 5 / 2)[..], &files].concat();
        host.restart(&memory).await?;
        owner.reconnect(host.address(), 1).await?;
        let client = owner.client()?;
        let Some(task) = owner.tasks.first() else {
            return Err(Error::Incomplete { what: "a task" });
        };
        let mut versions = vec![format!("{task}/versions/1")];
        for seed in 1..VERSIONS {
            versions.push(import(client, task, sets.file(seed as u64)?).await?.name);
        }
        // The last one serves by itself, once it is loaded.
        let last = versions.last().map_or("", String::as_str);
        until(client, task, last).await?;
        // Once round, so that no file has to be read any more.
        for version in &versions {
            serve(client, task, version).await?;
        }
        let mut pairs = Vec::new();
        for version in versions.iter().cycle().take(VERSIONS * args.pairs.get()) {
            pairs.push(Pair {
                a: 1e3 * serve(client, task, version).await?,
                b: 1.0,
                errors: 0,
            });
        }
        Ok(pairs)
    };
    let outcome = outcome.await;
    host.stop().await?;
    outcome
}

/// Makes a version serve; returns the seconds that it took.
async fn serve(client: &Client, task: &str, version: &str) -> Result<f64, Error> {
    let request = v1::SetServingRequest {
        name: task.to_owned(),
        version: version.to_owned(),
        etag: get(client, task).await?.etag,
        ..Default::default()
    };
    let start = Instant::now();
    let asked = client.tasks().set_serving(request).await;
    asked.map_err(during("ask for a version"))?;
    until(client, task, version).await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Asks without a pause until a version serves.
async fn until(client: &Client, task: &str, version: &str) -> Result<(), Error> {
    loop {
        let found = get(client, task).await?;
        if found.serving_version == version {
            return Ok(());
        }
        if !found.serving_error.is_empty() {
            return Err(during("serve a version")(crate::client::Error::Unserved {
                version: version.to_owned(),
                why: found.serving_error,
            }));
        }
    }
}

async fn get(client: &Client, task: &str) -> Result<v1::Task, Error> {
    let request = v1::GetTaskRequest {
        name: task.to_owned(),
    };
    let answer = client.tasks().get_task(request).await;
    Ok(answer.map_err(during("ask for a task"))?.into_inner())
}
