//! Eight tasks on one clip in one request, and the same in eight requests.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};

use super::bed::{BUSY, Bed, tenant};
use super::{Args, Pair};
use crate::proto::v1;
use crate::tools::bench_serve::Error;
use crate::tools::bench_serve::load::Span;
use crate::tools::bench_serve::material::{self, Sets, Tenant};

/// Tasks of a request.
const TASKS: usize = 8;
/// Side of the clips' pictures in pixels, and their number.
const SIDE: usize = 480;
const CLIPS: usize = 8;

/// Answers of tasks a second when they come eight at a time, and when they come one at a time.
pub(super) async fn of_one_clip(args: &Args, bed: &Bed, sets: &Sets) -> Result<Vec<Pair>, Error> {
    let clips = material::drawn(args.seed, CLIPS, SIDE)?;
    let name = match sets.is_in_last_half() {
        true => "bench-half",
        false => "bench-all",
    };
    let tenant = tenant(&bed.host, name, sets, &clips, TASKS).await?;
    tenant.ask_all().await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        bed.host.place_decoders();
        let (together, failed) = answers(&tenant, TASKS, span).await?;
        let (apart, also_failed) = answers(&tenant, 1, span).await?;
        pairs.push(Pair {
            a: together,
            b: apart,
            errors: failed + also_failed,
        });
    }
    Ok(pairs)
}

/// Answers of tasks a second with so many tasks in each request, and how many requests failed. As many tasks are asked for at any time, whatever their
/// number in a request, and every clip is asked about by all of them.
async fn answers(tenant: &Tenant, each: usize, span: Span) -> Result<(f64, u64), Error> {
    let client = tenant.client()?;
    let start = Instant::now() + span.warmup;
    let end = start + span.measured;
    let (next, counted, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let caller = || async {
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed) as usize;
            let first = number * each % TASKS;
            let clip = number * each / TASKS % tenant.videos.len().max(1);
            let tasks = tenant.tasks.iter().skip(first).take(each).cloned();
            let mut request = Request::new(v1::ClassifyRequest {
                tasks: tasks.collect(),
                source: (tenant.videos.get(clip).cloned()).map(v1::classify_request::Source::Video),
                ..Default::default()
            });
            request.set_timeout(span.timeout);
            let answered = async {
                let answer = client.classification().classify(request).await?;
                let results = answer.into_inner().results;
                let scored = results.iter().filter(|result| result.error.is_none());
                Ok::<_, Status>((scored.count(), results.len()))
            };
            match timeout_at(end, answered).await {
                Ok(Ok((scored, all))) => {
                    if Instant::now() >= start {
                        counted.fetch_add(scored as u64, Ordering::Relaxed);
                    }
                    failed.fetch_add((all - scored) as u64, Ordering::Relaxed);
                }
                Ok(Err(_)) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                Err(_) => {}
            }
        }
    };
    join_all((0..BUSY / each).map(|_| caller())).await;
    let answers = counted.load(Ordering::Relaxed) as f64 / span.measured.as_secs_f64();
    Ok((answers, failed.load(Ordering::Relaxed)))
}
