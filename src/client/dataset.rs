//! `frameshift dataset`: labelled folders become data sets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error, json, pages, resource};
use crate::proto::v1;

mod copies;
mod fill;
mod versions;

/// Arguments of `dataset`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `dataset`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Uploads a folder's labelled videos as a data set; run again after an interruption, it uploads only what is missing
    Create(Folder),
    /// Uploads a folder's labelled videos into a data set that exists, except for those that it already has
    Add(Folder),
    /// Removes examples by the names of their videos; the videos stay
    Remove {
        /// Data set id
        id: String,
        /// Names of videos (videos/…)
        #[arg(required = true)]
        videos: Vec<String>,
    },
    /// Lists the examples of a data set
    Examples {
        /// Data set id
        id: String,
    },
    /// Shows a data set and its counts
    Show {
        /// Data set id
        id: String,
    },
    /// Creates, lists, compares and deletes versions, which never change; commands that read a data set take DATASET/versions/N
    Versions {
        /// The subcommand
        #[command(subcommand)]
        command: versions::Command,
    },
    /// Finds what makes a data set misleading: duplicates, leaks between splits, labels that properties of the files give away
    Check {
        /// Data set id
        id: String,
    },
    /// Lists data sets
    List,
    /// Deletes a data set; its videos stay
    Delete {
        /// Data set id
        id: String,
    },
}

/// A folder whose labelled videos go into a data set.
#[derive(Debug, clap::Args)]
pub struct Folder {
    /// Data set id, for example `gestures`
    pub id: String,
    /// Folder: <split>/<label>/<video>, or with annotation lists: Kinetics (csv), Something-Something v2 (json), lines of "path label", the split files of
    /// UCF101 or HMDB51, one table with a column "split", or a metadata.csv in the folder of each split
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Uploads at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// The labels do not exclude one another: in a list, a video may have several rows, and a row several labels with `;` or `|` between, or none; copies of
    /// a file in the folders of several labels are one video
    #[arg(long)]
    pub multi_label: bool,
}

/// Runs a subcommand.
///
/// # Errors
/// When a file or the server refuses.
pub async fn run(args: &Args) -> Result<(), Error> {
    let output = args.connection.output();
    let client = || args.connection.client();
    match &args.command {
        Command::Create(folder) => fill::create(client, folder, output).await,
        Command::Add(folder) => fill::add(client, folder, output).await,
        Command::Remove { id, videos } => {
            let name = resource("datasets", id);
            let videos = videos.iter().map(|video| resource("videos", video));
            let request = v1::RemoveExamplesRequest {
                name,
                videos: videos.collect(),
            };
            let answer = client().await?.datasets().remove_examples(request).await?;
            show(&answer.into_inner(), output);
            Ok(())
        }
        Command::Examples { id } => examples(&client().await?, id, output).await,
        Command::Show { id } => {
            show(
                &get(&client().await?, resource("datasets", id)).await?,
                output,
            );
            Ok(())
        }
        Command::Versions { command } => versions::run(&client().await?, command, output).await,
        Command::Check { id } => check(&client().await?, id, output).await,
        Command::List => list(&client().await?, output).await,
        Command::Delete { id } => {
            let name = resource("datasets", id);
            let request = v1::DeleteDatasetRequest { name: name.clone() };
            client().await?.datasets().delete_dataset(request).await?;
            output.result(
                || format!("{name} deleted; its videos stay"),
                || json::deleted(&name),
            );
            Ok(())
        }
    }
}

async fn examples(client: &Client, id: &str, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListExamplesRequest {
            name: resource("datasets", id),
            page_size: 1000,
            page_token,
        };
        let page = client.datasets().list_examples(request).await?.into_inner();
        for example in &page.examples {
            let split = json::split_name(example.split());
            output.result(
                || {
                    let labels = example.labels.join(" + ");
                    format!("{}  {split:<10}  {labels}", example.video)
                },
                || json::example(example),
            );
        }
        Ok(page.next_page_token)
    })
    .await
}

async fn check(client: &Client, id: &str, output: Output) -> Result<(), Error> {
    let name = resource("datasets", id);
    let request = v1::CheckDatasetRequest { name: name.clone() };
    let answer = client.datasets().check_dataset(request).await?.into_inner();
    output.result(
        || described(&name, &answer),
        || json::checked(&name, &answer),
    );
    Ok(())
}

/// What was found, for people.
fn described(name: &str, answer: &v1::CheckDatasetResponse) -> String {
    let examples = answer.examples;
    let unseen = match answer.unseen {
        0 => String::new(),
        unseen => format!(
            "\n{unseen} of them were not looked at yet for videos that look alike: a job does that before it trains"
        ),
    };
    if answer.findings.is_empty() {
        return format!("{name}: nothing suspicious in {examples} examples{unseen}");
    }
    let mut text = format!("{name}, {examples} examples:{unseen}");
    for finding in &answer.findings {
        text += &format!("\n- {}", finding.text);
        for named in finding.labels.iter().chain(&finding.videos) {
            text += &format!("\n    {named}");
        }
    }
    text
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
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
        Ok(page.next_page_token)
    })
    .await
}

/// A data set with the counts of all its labels.
async fn get(client: &Client, name: String) -> Result<v1::Dataset, Error> {
    let request = v1::GetDatasetRequest { name: name.clone() };
    let mut dataset = client.datasets().get_dataset(request).await?.into_inner();
    let mut request = v1::ListLabelCountsRequest {
        name,
        page_size: 1000,
        page_token: String::new(),
    };
    let mut counts = Vec::new();
    loop {
        let answer = client.datasets().list_label_counts(request.clone()).await?;
        let page = answer.into_inner();
        counts.extend(page.counts);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            dataset.counts = counts;
            return Ok(dataset);
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
    let kind = match dataset.label_kind() {
        v1::LabelKind::Unspecified | v1::LabelKind::Single => "",
        v1::LabelKind::Multi => ", which may have several labels",
    };
    let mut text = format!(
        "{}  {} examples{kind}\n{:<40} {:>8} {:>10} {:>8}",
        dataset.name, dataset.examples, "label", "train", "validation", "test"
    );
    for (label, [train, validation, test]) in labels {
        text += &format!("\n{label:<40} {train:>8} {validation:>10} {test:>8}");
    }
    text
}
