//! `frameshift jobs`: lists, shows, watches and cancels jobs.

use std::collections::VecDeque;

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error, json, pages, resource, selection, train};
use crate::proto::v1;

/// Arguments of `jobs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// States of a job, as the command line writes them.
const STATES: [&str; 8] = [
    "queued",
    "validating",
    "running",
    "evaluating",
    "publishing",
    "succeeded",
    "failed",
    "cancelled",
];

/// Subcommands of `jobs`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Lists jobs, newest first
    List {
        /// Only jobs in this state
        #[arg(long, ignore_case = true, value_parser = STATES)]
        state: Option<String>,
        /// Only jobs of this task
        #[arg(long)]
        task: Option<String>,
        /// Number of jobs to list at most
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Shows a job and its result
    Show {
        /// Job id
        id: String,
    },
    /// Shows a job's progress until it ends
    Watch {
        /// Job id
        id: String,
        /// Skips events up to this sequence number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Asks a job to stop
    Cancel {
        /// Job id
        id: String,
    },
    /// Makes a job wait until it is resumed
    Pause {
        /// Job id
        id: String,
    },
    /// Lets a paused job continue
    Resume {
        /// Job id
        id: String,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses, or a watched job does not succeed.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    match &args.command {
        Command::List { state, task, limit } => {
            let task = task.as_ref().map(|task| resource("tasks", task));
            let wanted = |job: &v1::Job| {
                let own = json::state_name(job.state());
                state
                    .as_ref()
                    .is_none_or(|state| state.eq_ignore_ascii_case(own))
                    && task.as_ref().is_none_or(|task| *task == job.task)
            };
            list(&client, wanted, limit.unwrap_or(usize::MAX), output).await
        }
        Command::Show { id } => {
            let name = resource("jobs", id);
            let request = v1::GetJobRequest { name };
            let job = client.fine_tuning().get_job(request).await?.into_inner();
            output.result(|| describe(&job), || json::job(&job));
            Ok(())
        }
        Command::Watch { id, after } => {
            train::watch(&client, &resource("jobs", id), *after, output).await
        }
        Command::Cancel { id } => {
            let name = resource("jobs", id);
            let request = v1::CancelJobRequest { name };
            let job = client.fine_tuning().cancel_job(request).await?.into_inner();
            output.result(|| line(&job), || json::job(&job));
            Ok(())
        }
        Command::Pause { id } => {
            let name = resource("jobs", id);
            let request = v1::PauseJobRequest { name };
            let job = client.fine_tuning().pause_job(request).await?.into_inner();
            output.result(|| line(&job), || json::job(&job));
            Ok(())
        }
        Command::Resume { id } => {
            let name = resource("jobs", id);
            let request = v1::ResumeJobRequest { name };
            let job = client.fine_tuning().resume_job(request).await?.into_inner();
            output.result(|| line(&job), || json::job(&job));
            Ok(())
        }
    }
}

async fn list(
    client: &Client,
    wanted: impl Fn(&v1::Job) -> bool,
    limit: usize,
    output: Output,
) -> Result<(), Error> {
    // The API lists the oldest first; no more are kept than are shown.
    let mut newest = VecDeque::new();
    pages::all(async |page_token| {
        let request = v1::ListJobsRequest {
            page_size: 1000,
            page_token,
        };
        let page = client.fine_tuning().list_jobs(request).await?.into_inner();
        for job in page.jobs.into_iter().filter(&wanted) {
            newest.push_front(job);
            newest.truncate(limit);
        }
        Ok(page.next_page_token)
    })
    .await?;
    for job in &newest {
        output.result(|| line(job), || json::job(job));
    }
    Ok(())
}

fn line(job: &v1::Job) -> String {
    format!(
        "{}  {:<11} {}/{} steps  {} on {}",
        job.name,
        json::state_name(job.state()),
        job.step,
        job.total_steps,
        job.task,
        job.dataset
    )
}

/// A job and its result, in several lines.
pub fn describe(job: &v1::Job) -> String {
    let mut text = line(job);
    if !job.message.is_empty() {
        text += &format!("\n{}: {}", job.reason, job.message);
    }
    let Some(result) = &job.result else {
        return text;
    };
    text += &format!(
        "\nversion     {}\nparameters  {}\nseed        {}",
        result.version, result.parameters, result.seed
    );
    if let Some(time) = &result.training_time {
        text += &format!("\ntraining    {} s", time.seconds);
    }
    if let Some(times) = &result.times {
        let seconds = |time: Option<&prost_types::Duration>| time.map_or(0, |time| time.seconds);
        text += &format!(
            "; besides, checks {} s, features {} s, waiting for clips {} s, evaluations {} s",
            seconds(times.checks.as_ref()),
            seconds(times.features.as_ref()),
            seconds(times.clips.as_ref()),
            seconds(times.evaluations.as_ref())
        );
    }
    if result.skipped_clips > 0 {
        text += &format!(
            "\nleft out    {} training clips that could no longer be read",
            result.skipped_clips
        );
    }
    text += &measured("validation", result.evaluation.as_ref());
    text += &selection::curve(result);
    text += &measured("test", result.test_evaluation.as_ref());
    text
}

/// Metrics on a split; empty when there are none.
fn measured(split: &str, evaluation: Option<&v1::Evaluation>) -> String {
    let Some(evaluation) = evaluation.filter(|evaluation| evaluation.examples > 0) else {
        return String::new();
    };
    let map = evaluation.mean_average_precision;
    let map = map.map_or_else(String::new, |map| format!("mAP {map:.3}, "));
    let mut text = format!(
        "\n{split:<11} {map}top-1 {:.3}, top-5 {:.3}, loss {:.3} on {} videos",
        evaluation.top1, evaluation.top5, evaluation.loss, evaluation.examples
    );
    text += &format!(
        "\n            95 % interval of top-1 {:.3} to {:.3}, mean of classes {:.3}, macro F1 {:.3}",
        evaluation.top1_low,
        evaluation.top1_high,
        evaluation.mean_class_accuracy,
        evaluation.macro_f1
    );
    for label in &evaluation.labels {
        text += &of_label(label);
    }
    text
}

/// Metrics of one label, on a line of their own.
pub(super) fn of_label(label: &v1::LabelMetrics) -> String {
    let mut text = format!(
        "\n  {:<36} precision {:.3}  recall {:.3}",
        label.label, label.precision, label.recall
    );
    if let (Some(precision), Some(f1)) = (label.average_precision, label.f1) {
        text += &format!("  F1 {f1:.3}  AP {precision:.3}");
    }
    if let Some(threshold) = label.threshold {
        text += &format!("  threshold {threshold:.3}");
    }
    text + &format!("  {} videos", label.examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_are_those_of_the_api() {
        let named = |number| v1::JobState::try_from(number).map(json::state_name);
        let names: Vec<String> = (1..)
            .map_while(|number| named(number).ok())
            .map(str::to_lowercase)
            .collect();
        assert_eq!(names, STATES);
    }

    #[test]
    fn clips_that_were_left_out_are_shown() {
        let of = |skipped_clips| {
            let result = v1::JobResult {
                skipped_clips,
                ..Default::default()
            };
            describe(&v1::Job {
                result: Some(result),
                ..Default::default()
            })
        };
        assert!(
            of(2).contains("\nleft out    2 training clips"),
            "{}",
            of(2)
        );
        assert!(!of(0).contains("left out"));
    }
}
