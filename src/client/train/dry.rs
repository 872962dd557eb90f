//! `frameshift train --dry-run`: what a job would do, according to the server that would run it.

use serde_json::json;
use tonic::Code;

use super::{Hyper, hyper_parameters};
use crate::client::output::Output;
use crate::client::tasks::{self, TaskShape};
use crate::client::{Client, Error, json as shown, resource};
use crate::proto::v1;

/// Shows the shape of the task, which need not exist, and the hyper-parameters as the server completes them.
pub(super) async fn show(
    client: &Client,
    (task, dataset): (&str, &str),
    (shape, hyper): (&TaskShape, &Hyper),
    output: Output,
) -> Result<(), Error> {
    let request = v1::GetTaskRequest { name: task.into() };
    let (own, new) = match client.tasks().get_task(request).await {
        Ok(found) => {
            let found = found.into_inner();
            tasks::check_shape(&found, shape)?;
            (found, None)
        }
        Err(status) if status.code() == Code::NotFound => (v1::Task::default(), Some(shape)),
        Err(status) => return Err(status.into()),
    };
    let mut job = ask(client, (task, dataset), (new, hyper)).await?;
    // A server of the release before does not say what the task would be.
    let asked = || new.map_or(own, tasks::shaped);
    let own = job.new_task.take().unwrap_or_else(asked);
    let (own, job) = (shown::task(&own), shown::job(&job));
    let text = || {
        let part = |name: &str, of: &serde_json::Value| {
            let value = of[name].clone();
            let text = serde_json::to_string_pretty(&value).unwrap_or_default();
            format!("{name} {text}")
        };
        let mut lines: Vec<String> = ["adapter", "head", "sampling"]
            .map(|name| part(name, &own))
            .into();
        lines.extend(["hyper_parameters", "total_steps"].map(|name| part(name, &job)));
        lines.join("\n")
    };
    let typed = || shown::typed("dry_run", json!({ "task": own, "job": job }));
    output.result(text, typed);
    Ok(())
}

/// The job that would be submitted, for a task that exists or for a new one of a shape.
///
/// # Errors
/// When the server would refuse it.
pub(super) async fn ask(
    client: &Client,
    (task, dataset): (&str, &str),
    (new, hyper): (Option<&TaskShape>, &Hyper),
) -> Result<v1::Job, Error> {
    let new_task = new.map(|shape| v1::Task {
        name: task.into(),
        ..tasks::shaped(shape)
    });
    let request = v1::SubmitJobRequest {
        task: task.into(),
        dataset: resource("datasets", dataset),
        hyper_parameters: Some(hyper_parameters(hyper)),
        validate_only: true,
        new_task,
        ..Default::default()
    };
    Ok(client.fine_tuning().submit_job(request).await?.into_inner())
}
