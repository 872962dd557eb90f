//! `frameshift uploads`: lists and deletes uploads that are not finished.

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error, json, pages, resource};
use crate::proto::v1;

/// Arguments of `uploads`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `uploads`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Lists unfinished uploads, oldest first
    List,
    /// Gives up an unfinished upload and its bytes
    Delete {
        /// Upload id
        id: String,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    match &args.command {
        Command::List => list(&client, args.connection.output()).await,
        Command::Delete { id } => {
            let name = resource("uploads", id);
            let request = v1::DeleteUploadRequest { name: name.clone() };
            client.videos().delete_upload(request).await?;
            args.connection
                .output()
                .result(|| format!("{name} deleted"), || json::deleted(&name));
            Ok(())
        }
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListUploadsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.videos().list_uploads(request).await?.into_inner();
        for upload in &page.uploads {
            output.result(|| line(upload), || json::upload(upload));
        }
        Ok(page.next_page_token)
    })
    .await
}

fn line(upload: &v1::Upload) -> String {
    let expires = upload.expire_time.as_ref().map(ToString::to_string);
    format!(
        "{}  {} bytes  expires {}  {}",
        upload.name,
        upload.committed_bytes,
        expires.unwrap_or_default(),
        upload.display_name
    )
}
