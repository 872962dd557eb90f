//! `frameshift videos`: lists, shows and deletes uploaded videos.

use super::cli::Connection;
use super::failures::Failures;
use super::output::Output;
use super::{Client, Error, json, pages, resource};
use crate::proto::v1;

/// Arguments of `videos`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `videos`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Lists videos, oldest first
    List,
    /// Shows a video and what its probe found
    Show {
        /// Video id
        id: String,
    },
    /// Deletes videos; one that a data set or a job uses stays, unless forced
    Delete {
        /// Video ids
        #[arg(required = true)]
        ids: Vec<String>,
        /// Deletes videos of data sets and jobs, too
        #[arg(long)]
        force: bool,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    match &args.command {
        Command::List => list(&client, output).await,
        Command::Show { id } => {
            let name = resource("videos", id);
            let request = v1::GetVideoRequest { name };
            let video = client.videos().get_video(request).await?.into_inner();
            output.result(|| line(&video), || json::video(&video));
            Ok(())
        }
        Command::Delete { ids, force } => {
            let mut failures = Failures::new(ids.len(), output);
            for id in ids {
                let name = resource("videos", id);
                let request = v1::DeleteVideoRequest {
                    name: name.clone(),
                    force: *force,
                };
                match client.videos().delete_video(request).await {
                    Ok(_) => {
                        output.result(|| format!("{name} deleted"), || json::deleted(&name));
                    }
                    Err(status) => failures.add(&name, status.into())?,
                }
            }
            failures.end()
        }
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListVideosRequest {
            page_size: 1000,
            page_token,
        };
        let page = client.videos().list_videos(request).await?.into_inner();
        for video in &page.videos {
            output.result(|| line(video), || json::video(video));
        }
        Ok(page.next_page_token)
    })
    .await
}

fn line(video: &v1::Video) -> String {
    let probe = video.probe.clone().unwrap_or_default();
    let warnings = match probe.warnings.is_empty() {
        true => String::new(),
        false => format!("  {}", probe.warnings.join(", ")),
    };
    format!(
        "{}  {} bytes  {} {}x{}  {} frames  {}{warnings}",
        video.name,
        video.size_bytes,
        probe.codec,
        probe.width,
        probe.height,
        probe.frames,
        video.display_name,
    )
}
