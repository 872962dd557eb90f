//! `frameshift dataset versions`: versions of data sets, and what differs between two of them.

use clap::Subcommand;
use serde_json::{Value, json as object};

use crate::client::output::Output;
use crate::client::{Client, Error, json, pages, resource};
use crate::proto::v1;

/// What to do with versions.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keeps what the data set holds now as its next version
    Create {
        /// Data set id
        id: String,
        /// Note for people
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Lists versions, oldest first
    List {
        /// Data set id
        id: String,
    },
    /// Shows what was added, removed and changed between two versions, or since a version or a job
    Diff {
        /// Data set id
        id: String,
        /// Earlier version, or a job that read the data set then: jobs/ID
        #[arg(value_parser = earlier)]
        from: String,
        /// Later version; what the data set holds now when absent
        to: Option<u32>,
    },
    /// Deletes a version
    Delete {
        /// Data set id
        id: String,
        /// Version to delete
        number: u32,
    },
}

pub(super) async fn run(client: &Client, command: &Command, output: Output) -> Result<(), Error> {
    match command {
        Command::Create { id, note } => {
            let request = v1::CreateDatasetVersionRequest {
                name: resource("datasets", id),
                note: note.clone(),
            };
            let answer = client.datasets().create_dataset_version(request).await?;
            let version = answer.into_inner();
            output.result(|| line(&version), || value(&version));
            Ok(())
        }
        Command::List { id } => list(client, &resource("datasets", id), output).await,
        Command::Diff { id, from, to } => {
            let name = resource("datasets", id);
            let version = |number| format!("{name}/versions/{number}");
            let to = to.map_or_else(|| name.clone(), version);
            let from = match from.starts_with(JOB) {
                true => from.clone(),
                false => format!("{name}/versions/{from}"),
            };
            diff(client, (from, to), output).await
        }
        Command::Delete { id, number } => {
            let name = format!("{}/versions/{number}", resource("datasets", id));
            let request = v1::DeleteDatasetVersionRequest { name: name.clone() };
            client.datasets().delete_dataset_version(request).await?;
            output.result(|| format!("deleted {name}"), || json::deleted(&name));
            Ok(())
        }
    }
}

/// How a job is told from a version.
const JOB: &str = "jobs/";

fn earlier(text: &str) -> Result<String, String> {
    match text.starts_with(JOB) || text.parse::<u32>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("expected the number of a version, or jobs/ID".into()),
    }
}

async fn list(client: &Client, name: &str, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListDatasetVersionsRequest {
            name: name.to_owned(),
            page_size: 0,
            page_token,
        };
        let page = client.datasets().list_dataset_versions(request).await?;
        let page = page.into_inner();
        for version in &page.versions {
            output.result(|| line(version), || value(version));
        }
        Ok(page.next_page_token)
    })
    .await
}

async fn diff(client: &Client, (from, to): (String, String), output: Output) -> Result<(), Error> {
    let (mut added, mut removed, mut changed) = (0, 0, 0);
    pages::all(async |page_token| {
        let request = v1::ListDatasetChangesRequest {
            from: from.clone(),
            to: to.clone(),
            page_size: 1000,
            page_token,
        };
        let page = client.datasets().list_dataset_changes(request).await?;
        let page = page.into_inner();
        for own in &page.changes {
            match (&own.before, &own.after) {
                (None, _) => added += 1,
                (_, None) => removed += 1,
                (Some(_), Some(_)) => changed += 1,
            }
            output.result(|| described(own), || change(own));
        }
        Ok(page.next_page_token)
    })
    .await?;
    output.note(&format!(
        "{added} added, {removed} removed, {changed} changed"
    ));
    Ok(())
}

fn line(version: &v1::DatasetVersion) -> String {
    format!(
        "{}  {} examples  {}",
        version.name, version.examples, version.note
    )
}

fn value(version: &v1::DatasetVersion) -> Value {
    object!({
        "name": version.name,
        "note": version.note,
        "examples": version.examples,
        "digest": json::hex(&version.digest),
        "create_time": json::time(version.create_time.as_ref()),
    })
}

fn place(example: &v1::Example) -> String {
    let labels = example.labels.join(" + ");
    format!("{} {labels:?}", json::split_name(example.split()))
}

fn described(own: &v1::DatasetChange) -> String {
    let video = &own.video;
    match (&own.before, &own.after) {
        (Some(before), Some(after)) => format!("* {video}  {} → {}", place(before), place(after)),
        (Some(before), None) => format!("- {video}  {}", place(before)),
        (None, Some(after)) => format!("+ {video}  {}", place(after)),
        (None, None) => format!("  {video}"),
    }
}

fn change(own: &v1::DatasetChange) -> Value {
    let example = |own: &v1::Example| object!({ "label": own.label, "labels": own.labels, "split": json::split_name(own.split()) });
    json::typed(
        "change",
        object!({
            "video": own.video,
            "before": own.before.as_ref().map(example),
            "after": own.after.as_ref().map(example),
        }),
    )
}
