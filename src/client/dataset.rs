//! `frameshift dataset`: labelled folders become data sets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::{StreamExt, stream};

use super::annotations::{self, Labelled};
use super::cli::Connection;
use super::output::{Output, Progress};
use super::{Client, Error, json, resource, upload};
use crate::proto::v1;
use crate::spec::Split;

/// Arguments of `dataset`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with data sets.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Uploads a folder's labelled videos as a new data set
    Create {
        /// Its id
        id: String,
        /// Folder: <split>/<label>/<video>, or with the annotation lists of Kinetics (csv) or Something-Something v2 (json)
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Uploads at once
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
        concurrency: u8,
    },
    /// Shows a data set and its counts
    Show {
        /// Its id
        id: String,
    },
    /// Lists data sets
    List,
    /// Deletes a data set; its videos stay
    Delete {
        /// Its id
        id: String,
    },
}

/// Examples of one AddExamples call.
const EXAMPLES: usize = 500;

/// Runs a subcommand.
///
/// # Errors
/// When a file or the server refuses.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    match &args.command {
        Command::Create {
            id,
            from,
            concurrency,
        } => {
            let found = annotations::find(from)?;
            for entry in &found.missing {
                output.note(&format!("no video for {entry}, left out"));
            }
            create(
                &client,
                id,
                &found.examples,
                usize::from(*concurrency),
                output,
            )
            .await
        }
        Command::Show { id } => {
            let name = resource("datasets", id);
            let request = v1::GetDatasetRequest { name };
            show(
                &client.datasets().get_dataset(request).await?.into_inner(),
                output,
            );
            Ok(())
        }
        Command::List => list(&client, output).await,
        Command::Delete { id } => {
            let name = resource("datasets", id);
            let request = v1::DeleteDatasetRequest { name };
            client.datasets().delete_dataset(request).await?;
            Ok(())
        }
    }
}

async fn create(
    client: &Client,
    id: &str,
    examples: &[Labelled],
    concurrency: usize,
    output: Output,
) -> Result<(), Error> {
    let request = v1::CreateDatasetRequest {
        dataset_id: id.to_owned(),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..Default::default()
    };
    let dataset = client
        .datasets()
        .create_dataset(request)
        .await?
        .into_inner();
    let progress = output.count(examples.len() as u64, "uploading");
    let silent = Output::new(true).bytes(0, "");
    let mut uploads = stream::iter(examples)
        .map(|example| one(client, example, &silent))
        .buffered(concurrency);
    let mut refused = 0;
    let mut batch = Vec::new();
    while let Some(done) = uploads.next().await {
        progress.add(1);
        match done {
            Ok(example) => batch.push(example),
            Err((example, error)) => {
                // A server that has gone refuses all the others, too.
                if matches!(error.exit_code(), 69 | 75 | 77) {
                    return Err(error);
                }
                refused += 1;
                progress.line(&format!("{}: {error}", example.path.display()));
            }
        }
        if batch.len() == EXAMPLES {
            add(client, &dataset.name, std::mem::take(&mut batch), &progress).await?;
        }
    }
    if !batch.is_empty() {
        add(client, &dataset.name, batch, &progress).await?;
    }
    progress.finish();
    let request = v1::GetDatasetRequest { name: dataset.name };
    show(
        &client.datasets().get_dataset(request).await?.into_inner(),
        output,
    );
    if refused > 0 {
        return Err(Error::SomeRefused {
            refused,
            total: examples.len(),
        });
    }
    Ok(())
}

async fn one<'a>(
    client: &Client,
    example: &'a Labelled,
    progress: &Progress,
) -> Result<v1::Example, (&'a Labelled, Error)> {
    let video = upload::file(client, &example.path, progress)
        .await
        .map_err(|error| (example, error))?;
    let split = match example.split {
        Split::Train => v1::Split::Train,
        Split::Validation => v1::Split::Validation,
        Split::Test => v1::Split::Test,
    };
    Ok(v1::Example {
        video: video.name,
        label: example.label.clone(),
        split: split.into(),
    })
}

async fn add(
    client: &Client,
    dataset: &str,
    examples: Vec<v1::Example>,
    progress: &Progress,
) -> Result<(), Error> {
    let request = v1::AddExamplesRequest {
        name: dataset.to_owned(),
        examples,
    };
    let dataset = client.datasets().add_examples(request).await?.into_inner();
    progress.say(&format!("{} examples", dataset.examples));
    Ok(())
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    let mut page_token = String::new();
    loop {
        let request = v1::ListDatasetsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.datasets().list_datasets(request).await?.into_inner();
        for dataset in &page.datasets {
            output.result(
                || format!("{}  {} examples", dataset.name, dataset.examples),
                || json::dataset(dataset),
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn show(dataset: &v1::Dataset, output: Output) {
    output.result(|| table(dataset), || json::dataset(dataset));
}

fn table(dataset: &v1::Dataset) -> String {
    let mut labels: BTreeMap<&str, [i64; 3]> = BTreeMap::new();
    for count in &dataset.counts {
        let row = labels.entry(&count.label).or_default();
        match count.split() {
            v1::Split::Unspecified => {}
            v1::Split::Train => row[0] = count.examples,
            v1::Split::Validation => row[1] = count.examples,
            v1::Split::Test => row[2] = count.examples,
        }
    }
    let mut text = format!(
        "{}  {} examples\n{:<40} {:>8} {:>10} {:>8}",
        dataset.name, dataset.examples, "label", "train", "validation", "test"
    );
    for (label, [train, validation, test]) in labels {
        text += &format!("\n{label:<40} {train:>8} {validation:>10} {test:>8}");
    }
    text
}
