//! `frameshift bench serve`: one load, and its figures as a table or a line of JSON.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::Error;
use super::affinity::Split;
use super::args::{Args, Payload};
use super::beside::{Swaps, Training};
use super::calls;
use super::figures::{self, Figures};
use super::host::{Host, describe};
use super::live::{self, Cameras, Clocks, Streams};
use super::load::{self, Clips, Lane, LoadFigures, Pacing};
use super::material::{self, NUM_FRAMES, Sets, Tenant};
use super::windows::{self, Viewers};
use crate::proto::v1;
use crate::tools::show;

/// What a load found, and under which conditions.
#[derive(Debug, Serialize)]
struct Report {
    version: String,
    backbone: String,
    device: String,
    precision: String,
    /// CPUs of the server and of the generator; absent when the system chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<Split>,
    pacing: String,
    tasks_per_tenant: usize,
    popularity: String,
    clips: Payload,
    seconds: f64,
    all: Figures,
    tenants: Vec<Figures>,
    /// Training beside: clips a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    training_clips_per_s: Option<f64>,
    /// Versions that were published, loaded and swapped in beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    swaps: Option<u64>,
    /// Live streams: how many windows were answered in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Streams>,
}

/// What went on beside a load.
#[derive(Debug, Default)]
struct Beside {
    training_clips_per_s: Option<f64>,
    swaps: Option<u64>,
    live: Option<Streams>,
}

/// What a tenant puts on the server.
enum Load {
    Requests(Vec<Lane>),
    Streams(Vec<Cameras>),
    Windows(Vec<Viewers>),
}

/// Runs the load that the arguments ask for, and prints.
///
/// # Errors
/// When the server does not run, or refuses what the load needs.
pub(super) async fn run(args: &Args, split: Option<Split>) -> Result<(), Error> {
    let Some(server) = &args.server else {
        let mut host = Host::start(split.clone(), &args.serve).await?;
        let outcome = on_own(args, &mut host, split).await;
        // The server is stopped also when the load failed; the load's error is the one that matters.
        let stopped = host.stop().await;
        outcome?;
        return stopped;
    };
    let (info, backbone) = describe(server).await?;
    let mut tenants = connect(args, server).await?;
    let outcome = measure(args, &mut tenants, &backbone, || {}).await;
    for tenant in tenants {
        tenant.clear().await?;
    }
    let (found, beside) = outcome?;
    print(args, &report(args, info, backbone, None, (found, beside)));
    Ok(())
}

async fn on_own(args: &Args, host: &mut Host, split: Option<Split>) -> Result<(), Error> {
    let (info, backbone) = describe(host.address()).await?;
    if let Some(ratio) = args.working_set {
        shrink(args, host, &backbone, ratio).await?;
    }
    let mut tenants = connect(args, host.address()).await?;
    let outcome = measure(args, &mut tenants, &backbone, || host.place_decoders()).await?;
    print(args, &report(args, info, backbone, split, outcome));
    Ok(())
}

/// Starts the server again with so little memory for adapters that all sets are `ratio` times as large.
async fn shrink(
    args: &Args,
    host: &mut Host,
    backbone: &v1::Backbone,
    ratio: f64,
) -> Result<(), Error> {
    let mut probe = Tenant::connect(host.address(), "bench-probe", 1).await?;
    probe.import(&Sets::new(backbone, args.width), 1).await?;
    let bytes = calls::set_bytes(probe.client()?).await?;
    probe.clear().await?;
    let all = bytes as f64 * (args.tasks.get() * args.tenants.get()) as f64;
    // A set that does not fit at all would be refused.
    let budget = (all / ratio).max(bytes as f64).ceil() as u64;
    host.restart(&["--adapter-memory".to_owned(), budget.to_string()])
        .await
}

async fn connect(args: &Args, address: &str) -> Result<Vec<Tenant>, Error> {
    let mut tenants = Vec::new();
    for number in 0..args.tenants.get() {
        let name = format!("bench-{number}");
        tenants.push(Tenant::connect(address, &name, args.connections.get()).await?);
    }
    Ok(tenants)
}

/// Makes what the load needs, and runs it.
async fn measure(
    args: &Args,
    tenants: &mut [Tenant],
    backbone: &v1::Backbone,
    prepared: impl Fn(),
) -> Result<(LoadFigures, Beside), Error> {
    let sets = Sets::new(backbone, args.width);
    let clips = material::clips(&args.clip, args.seed)?;
    let (mut lanes, mut cameras, mut viewers) = (Vec::new(), Vec::new(), Vec::new());
    let pictures = match args.live {
        Some(_) => material::pictures(args.seed)?,
        None => Vec::new(),
    };
    let film = match args.windows {
        Some(_) => Some(material::film(args.seed, material::SIDE)?),
        None => None,
    };
    for (number, tenant) in tenants.iter_mut().enumerate() {
        tenant.import(&sets, args.tasks.get()).await?;
        let stored = match args.clips {
            Payload::Id => clips.len(),
            // One starts the server's decoders, so that they can be placed.
            Payload::Inline => 1,
        };
        tenant.upload(&clips[..stored.min(clips.len())]).await?;
        if let Some(streams) = args.live {
            cameras.push(Cameras {
                name: tenant.name.clone(),
                clients: tenant.clients.clone(),
                tasks: tenant.tasks.clone(),
                pictures: pictures.clone(),
                streams: streams.get(),
            });
            continue;
        }
        if let (Some(streams), Some(film)) = (args.windows, &film) {
            let video = calls::upload(tenant.client()?, film).await?;
            tenant.videos.push(video.clone());
            viewers.push(Viewers {
                name: tenant.name.clone(),
                clients: tenant.clients.clone(),
                tasks: tenant.tasks.clone(),
                video,
                streams: streams.get(),
            });
            continue;
        }
        lanes.push(Lane {
            name: tenant.name.clone(),
            clients: tenant.clients.clone(),
            tasks: tenant.tasks.clone(),
            popularity: args.popularity,
            clips: match args.clips {
                Payload::Id => Clips::Stored(tenant.videos.clone()),
                Payload::Inline => Clips::Inline(clips.clone()),
            },
            pacing: args.pacing(number),
        });
    }
    prepared();
    let Some(first) = tenants.first() else {
        return Err(Error::Incomplete { what: "a tenant" });
    };
    let mut other = Tenant::connect(&first.address, "bench-beside", 1).await?;
    let load = match (args.live, args.windows) {
        (Some(_), _) => Load::Streams(cameras),
        (None, Some(_)) => Load::Windows(viewers),
        (None, None) => Load::Requests(lanes),
    };
    let outcome = beside(args, &mut other, (&sets, clips.as_slice()), load).await;
    let cleared = other.clear().await;
    let outcome = outcome?;
    cleared?;
    Ok(outcome)
}

/// Runs the load, and what the arguments want beside it.
async fn beside(
    args: &Args,
    tenant: &mut Tenant,
    (sets, clips): (&Sets, &[Bytes]),
    load: Load,
) -> Result<(LoadFigures, Beside), Error> {
    let mut beside = Beside::default();
    let training = if args.training {
        tenant.upload(clips).await?;
        Training::prepare(tenant, sets).await?;
        Some(Training::start(tenant).await?)
    } else {
        None
    };
    let swaps = match args.swaps {
        Some(rate) => {
            Swaps::prepare(tenant, sets).await?;
            Some(Swaps::start(tenant, sets, rate)?)
        }
        None => None,
    };
    let found = match load {
        Load::Requests(lanes) => load::run(lanes, args.span()).await,
        Load::Windows(viewers) => windows::run(viewers, args.span()).await,
        Load::Streams(cameras) => {
            let stride = Duration::from_secs_f64(args.stride);
            let clocks = Clocks::new(args.fps, stride, NUM_FRAMES);
            let found = live::run(cameras, clocks, args.span()).await;
            found.map(|(found, streams)| {
                beside.live = Some(streams);
                found
            })
        }
    };
    // What goes on beside is ended also when the load failed.
    if let Some(swaps) = swaps {
        beside.swaps = Some(swaps.stop().await?);
    }
    if let Some(training) = training {
        let clock = found.as_ref().map(|found| found.clock.clone());
        beside.training_clips_per_s = clock.ok().and_then(|clock| training.clips_per_s(&clock));
        training.stop().await?;
    }
    Ok((found?, beside))
}

fn report(
    args: &Args,
    info: v1::ServerInfo,
    backbone: v1::Backbone,
    cpus: Option<Split>,
    (found, beside): (LoadFigures, Beside),
) -> Report {
    Report {
        version: info.version,
        backbone: backbone.name,
        device: info.device,
        precision: info.precision,
        cpus,
        pacing: match args.pacing(args.tenants.get() - 1) {
            _ if args.live.is_some() => "live streams".to_owned(),
            _ if args.windows.is_some() => "streams of windows".to_owned(),
            Pacing::Open(arrivals, rate) => format!("open, {rate} a second, {arrivals:?}"),
            Pacing::Closed(callers) => format!("closed, {callers} callers"),
        },
        tasks_per_tenant: args.tasks.get(),
        popularity: args.popularity.to_string(),
        clips: args.clips,
        seconds: args.seconds,
        all: found.all,
        tenants: found.lanes,
        training_clips_per_s: beside.training_clips_per_s,
        swaps: beside.swaps,
        live: beside.live,
    }
}

fn print(args: &Args, report: &Report) {
    if args.json {
        // Numbers and names only: serde_json has no way to fail on them.
        show(serde_json::to_string(report).unwrap_or_default());
        return;
    }
    let Report {
        version,
        backbone,
        device,
        precision,
        ..
    } = report;
    show(format_args!(
        "frameshift {version}, {backbone} in {precision} on {device}"
    ));
    show(format_args!(
        "{}, {} tasks a tenant ({}), {:.1} s",
        report.pacing, report.tasks_per_tenant, report.popularity, report.seconds
    ));
    let mut rows = vec![report.all.clone()];
    if report.tenants.len() > 1 {
        rows.extend(report.tenants.iter().cloned());
    }
    show(figures::table(&rows).trim_end());
    if let Some(live) = &report.live {
        show(format_args!(
            "live: {} streams of {:.1} frames/s, a window each {:.0} ms: {} of {} windows within 1.5 strides ({:.3}), {} frames dropped",
            live.streams,
            live.frames_per_s,
            live.stride_ms,
            live.in_time,
            live.due,
            live.share,
            live.frames_dropped
        ));
    }
    if let Some(speed) = report.training_clips_per_s {
        show(format_args!("training beside: {speed:.1} clips/s"));
    }
    if let Some(swaps) = report.swaps {
        show(format_args!("versions swapped in beside: {swaps}"));
    }
}
