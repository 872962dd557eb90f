//! `frameshift info`: what the server is and what it allows.

use super::cli::Connection;
use super::{Error, json};
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
        .result(|| text(&info), || json::server_info(&info));
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
        json::hex(&backbone.digest),
    );
    for decision in &backbone.decisions {
        text += &format!(
            "\n          {}: {} ({})",
            decision.field, decision.value, decision.source
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
    text + &format!(
        "\nvideos    isolated by {}",
        info.video_isolation.join(", ")
    )
}
