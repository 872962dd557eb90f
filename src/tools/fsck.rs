//! `frameshift fsck`: whether the records and the objects are whole and agree with one another.
//!
//! Invariant: findings are lines of JSON, memory does not grow with the number of objects, and nothing is changed without `--repair`; what is repaired
//! loses nothing: counts are made right, leases end, and objects that no record names move to the trash.

mod objects;
mod source;

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::metadata::{self, Contradiction};
use crate::store;
use crate::tools::show;
use objects::Objects;

pub use source::State;

/// Arguments of `frameshift fsck`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Reads every object and compares it with the sha256 of its record
    #[arg(long)]
    pub deep: bool,
    /// Corrects counts, ends leases that are too long, and moves objects that no record names to the trash; with a data directory, only while no server
    /// uses it
    #[arg(long)]
    pub repair: bool,
    /// The server's data directory [default: what the server's own configuration says]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The server's configuration file [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reasons why the check is not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no database.
    #[error("{} is no data directory: it has no metadata.sqlite", directory.display())]
    NoDatabase {
        /// The folder.
        directory: PathBuf,
    },
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the database")]
    Open(#[from] metadata::OpenError),
    /// The database cannot be read.
    #[error("cannot read the records")]
    Metadata(#[from] metadata::Error),
    /// An object cannot be read, for another reason than that it is missing.
    #[error("cannot read the objects")]
    Store(#[from] store::Error),
}

/// Exit code of a check that could not be completed.
pub const INCOMPLETE: u8 = 2;

/// What a check found and did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Objects that records name.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Findings.
    pub findings: u64,
    /// Findings that were repaired.
    pub repaired: u64,
}

impl Report {
    /// The process's exit code: 0 when nothing is wrong, or nothing any more, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.findings > self.repaired)
    }

    fn found(&mut self, finding: Value, is_repaired: bool) {
        self.findings += 1;
        self.repaired += u64::from(is_repaired);
        let mut finding = finding;
        if is_repaired && let Some(fields) = finding.as_object_mut() {
            fields.insert("repaired".into(), true.into());
        }
        show(finding);
    }
}

/// Checks a server's state.
///
/// # Errors
/// When something could not be looked at; what was found until then has been printed.
pub fn run<'a>(state: State, arguments: &'a Args) -> BoxFuture<'a, Result<Report, Error>> {
    // Boxed, so that it is compiled with this crate alone.
    Box::pin(check(state, arguments))
}

async fn check(state: State, arguments: &Args) -> Result<Report, Error> {
    let mut source = state.open(arguments.repair).await?;
    let mut report = Report::default();
    let objects = Objects {
        store: source.objects.clone(),
        is_deep: arguments.deep,
        repairs: arguments.repair,
    };
    objects.named(&mut source, &mut report).await?;
    objects.unnamed(&source, &mut report).await?;
    records(&source, arguments.repair, &mut report).await?;
    let is_clean = report.exit_code() == 0;
    let was_held = source.objects.is_collector_held().await?;
    if is_clean && was_held {
        source.objects.release_collector().await?;
    }
    let Report {
        objects,
        bytes,
        findings,
        repaired,
    } = report;
    show(json!({
        "summary": {
            "objects": objects,
            "bytes": bytes,
            "findings": findings,
            "repaired": repaired,
            "deep": arguments.deep,
            "collector": if was_held && !is_clean { "held" } else { "runs" },
        }
    }));
    Ok(report)
}

/// Looks for records that contradict one another.
async fn records(source: &source::Source, repairs: bool, report: &mut Report) -> Result<(), Error> {
    let found = source.database.contradictions().await?;
    let is_repairable = |contradiction: &Contradiction| {
        matches!(
            contradiction,
            Contradiction::LeaseTooLong { .. }
                | Contradiction::Usage { .. }
                | Contradiction::Examples { .. }
        )
    };
    let repaired = repairs && found.iter().any(is_repairable);
    if repaired {
        source.database.repair().await?;
    }
    for contradiction in &found {
        let is_repaired = repaired && is_repairable(contradiction);
        report.found(told(contradiction), is_repaired);
    }
    Ok(())
}

fn told(contradiction: &Contradiction) -> Value {
    match contradiction {
        Contradiction::NoVersion {
            tenant,
            task,
            version,
            is_serving,
        } => json!({
            "finding": if *is_serving { "serving_version_missing" } else { "desired_version_missing" },
            "tenant": tenant.as_str(),
            "task": task.as_str(),
            "version": version,
        }),
        Contradiction::UnreadableVersion {
            tenant,
            task,
            version,
            problem,
        } => json!({
            "finding": "version_unreadable",
            "tenant": tenant.as_str(),
            "task": task.as_str(),
            "version": version,
            "problem": problem,
        }),
        Contradiction::LeaseTooLong {
            tenant,
            job,
            lease_end,
        } => json!({
            "finding": "lease_too_long",
            "tenant": tenant.as_str(),
            "job": job.to_string(),
            "lease_end_micros": lease_end,
        }),
        Contradiction::Usage {
            tenant,
            videos,
            bytes,
            tasks,
            versions,
        } => json!({
            "finding": "usage_differs",
            "tenant": tenant.as_str(),
            "not_counted": {"videos": videos, "bytes": bytes, "tasks": tasks, "versions": versions},
        }),
        Contradiction::Examples {
            tenant,
            dataset,
            not_counted,
        } => json!({
            "finding": "example_count_differs",
            "tenant": tenant.as_str(),
            "dataset": dataset.as_str(),
            "not_counted": not_counted,
        }),
        Contradiction::Labels {
            tenant,
            dataset,
            label,
        } => json!({
            "finding": "label_counts_differ",
            "tenant": tenant.as_str(),
            "dataset": dataset,
            "label": label,
        }),
    }
}

/// Makes the error of a file or folder.
fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}
