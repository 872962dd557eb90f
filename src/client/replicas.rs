//! `frameshift replicas`: lists the processes that share the database, or has one drain.

use serde_json::{Value, json};

use super::cli::{Admin, Connection};
use super::{Error, json as shown, pages, resource};
use crate::proto::v1;

/// Arguments of `replicas`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The administrators' address
    #[command(flatten)]
    pub admin: Admin,
    /// The subcommand; lists the processes without one
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands of `replicas`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Has a process drain and end, as SIGTERM does; whatever supervises it may start another in its place
    Drain {
        /// Name of the process, as the list has it
        name: String,
    },
}

/// Lists the processes, or has one drain.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run(args: &Args) -> Result<(), Error> {
    let client = args.admin.client(&args.connection).await?;
    let output = args.connection.output();
    if let Some(Command::Drain { name }) = &args.command {
        let request = v1::DrainReplicaRequest {
            name: resource("replicas", name),
        };
        client.admin().drain_replica(request).await?;
        let name = resource("replicas", name);
        output.result(|| format!("{name}  DRAINING"), || json!({ "name": name }));
        return Ok(());
    }
    pages::all(async |page_token| {
        let request = v1::ListReplicasRequest {
            page_size: 0,
            page_token,
        };
        let page = client.admin().list_replicas(request).await?.into_inner();
        for replica in &page.replicas {
            output.result(|| line(replica), || value(replica));
        }
        Ok(page.next_page_token)
    })
    .await
}

fn state(replica: &v1::Replica) -> &'static str {
    match replica.state() {
        v1::ReplicaState::Ready => "READY",
        v1::ReplicaState::Draining => "DRAINING",
        v1::ReplicaState::Lost => "LOST",
        v1::ReplicaState::Unspecified => "UNKNOWN",
    }
}

fn role(replica: &v1::Replica) -> &'static str {
    match replica.role() {
        v1::ReplicaRole::All => "all",
        v1::ReplicaRole::Serve => "serve",
        v1::ReplicaRole::Train => "train",
        v1::ReplicaRole::Unspecified => "unknown",
    }
}

fn line(replica: &v1::Replica) -> String {
    format!(
        "{}  {}  {}  {}  {}/{} clips  {} sets of {} bytes",
        replica.name,
        role(replica),
        state(replica),
        replica.release,
        replica.used_clips,
        replica.clip_capacity,
        replica.resident_sets,
        replica.resident_bytes
    )
}

fn value(replica: &v1::Replica) -> Value {
    let sets = replica.sets.iter().map(|own| {
        json!({
            "tenant": own.tenant,
            "version": own.version,
            "size_bytes": own.size_bytes,
        })
    });
    json!({
        "name": replica.name,
        "role": role(replica),
        "state": state(replica),
        "release": replica.release,
        "backbone_digest": replica.backbone_digest,
        "precision": replica.precision,
        "start_time": shown::time(replica.start_time.as_ref()),
        "report_time": shown::time(replica.report_time.as_ref()),
        "drain_time": shown::time(replica.drain_time.as_ref()),
        "used_clips": replica.used_clips,
        "clip_capacity": replica.clip_capacity,
        "resident_sets": replica.resident_sets,
        "resident_bytes": replica.resident_bytes,
        "sets": sets.collect::<Vec<_>>(),
    })
}
