//! `frameshift info`: what the server is and what it allows.

use serde_json::{Value, json};

use super::cli::Connection;
use super::{Error, json as shown};
use crate::proto::v1;

/// Arguments of `info`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
}

/// `frameshift info`.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let request = v1::GetServerInfoRequest {};
    let info = client.server().get_server_info(request).await?.into_inner();
    args.connection
        .output()
        .result(|| text(&info), || shown::server_info(&info));
    Ok(())
}

fn text(info: &v1::ServerInfo) -> String {
    let backbone = info.backbone.clone().unwrap_or_default();
    let limits = info.limits.unwrap_or_default();
    let mut text = format!(
        "frameshift {} on {} in {}, as tenant {}\nbackbone  {}: {} blocks of {}, {} px in patches of {}, {} parameters, digest {}",
        info.version,
        info.device,
        info.precision,
        info.tenant,
        backbone.name,
        backbone.layers,
        backbone.width,
        backbone.image_size,
        backbone.patch_size,
        backbone.parameters,
        shown::hex(&backbone.digest),
    );
    for decision in &backbone.decisions {
        text += &format!(
            "\n          {}: {} ({})",
            decision.field, decision.value, decision.source
        );
    }
    if let Some(accelerator) = &info.accelerator {
        text += &format!(
            "\nmemory    {} of {} bytes in use on {}, {} reserved",
            accelerator.used_bytes,
            accelerator.memory_bytes,
            accelerator.name,
            accelerator.reserved_bytes,
        );
    }
    text += &format!(
        "\nlimits    upload {} bytes, message {} bytes, chunk {} bytes, {} clips at once, adapters {} bytes, {} unfinished jobs a tenant",
        limits.upload_bytes,
        limits.message_bytes,
        limits.chunk_bytes,
        limits.queue_clips,
        limits.adapter_bytes,
        limits.jobs_per_tenant,
    );
    text += &format!(
        "\nvideos    isolated by {}",
        info.video_isolation.join(", ")
    );
    if let Some(now) = info.in_use {
        text += &format!(
            "\nin use    {} of {} clips, {} of {} bytes of frames, {} frames wait; {} adapter sets of {} bytes",
            now.queue_clips,
            now.queue_clips_capacity,
            now.queue_bytes,
            now.queue_bytes_capacity,
            now.waiting_frames,
            now.resident_sets,
            now.resident_bytes,
        );
    }
    for throughput in &info.throughput {
        text += &format!(
            "\nspeed     {:.1} clips/s, {:.1} frames/s of the device in {} ({})",
            throughput.clips_per_second,
            throughput.frames_per_second,
            throughput.precision,
            measured(throughput).replace('_', " "),
        );
    }
    for budget in &info.memory_budgets {
        text += &format!("\nmemory    {}: {} bytes", budget.part, budget.bytes);
        if !budget.settings.is_empty() {
            text += &format!(" ({})", budget.settings);
        }
    }
    text
}

/// When a throughput was measured.
fn measured(throughput: &v1::Throughput) -> &'static str {
    use v1::throughput::Source;
    match throughput.source() {
        Source::Unspecified => "unspecified",
        Source::WarmUp => "warm_up",
        Source::LastMinute => "last_minute",
    }
}

/// What is in use, the budgets and the throughput as JSON.
pub(super) fn state(info: &v1::ServerInfo) -> (Option<Value>, Vec<Value>, Vec<Value>) {
    let in_use = info.in_use.as_ref().map(|now| {
        json!({
            "queue_clips": now.queue_clips,
            "queue_clips_capacity": now.queue_clips_capacity,
            "queue_bytes": now.queue_bytes,
            "queue_bytes_capacity": now.queue_bytes_capacity,
            "waiting_frames": now.waiting_frames,
            "resident_sets": now.resident_sets,
            "resident_bytes": now.resident_bytes,
        })
    });
    let budgets = info.memory_budgets.iter().map(
        |budget| json!({"part": budget.part, "settings": budget.settings, "bytes": budget.bytes}),
    );
    let throughput = info.throughput.iter().map(|throughput| {
        json!({
            "precision": throughput.precision,
            "clips_per_second": throughput.clips_per_second,
            "frames_per_second": throughput.frames_per_second,
            "source": measured(throughput),
        })
    });
    (in_use, budgets.collect(), throughput.collect())
}
