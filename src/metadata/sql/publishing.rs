//! The version that a job publishes: whether it is to serve at once, and the job's result.
//!
//! Invariant: a version serves by itself only where its task is what it was at the job's submission; a job's event says why it does not.

use std::collections::BTreeSet;

use super::super::{
    Event, JobRecord, JobResult, LABELS_CHANGED, NewVersion, Result, TaskRecord, Timestamp,
    TrainingSummary,
};
use super::database::{Conn, query};
use super::rows::{self, Columns};
use super::{events, serving, tasks, versions};
use crate::spec::{LabelKind, LabelSet};

/// What became of a version that a job made.
pub(super) enum Served {
    /// The version is its task's desired one now.
    Desired,
    /// The task does not serve new versions by itself, or was changed since the submission, which an event says.
    Unasked,
    /// The version is not served: the reason and what it means.
    Not(&'static str, String),
}

/// Makes a job's version its task's desired one, if the task wants that and is what it was at submission, and the labels stay.
pub(super) async fn ask_to_serve(
    conn: &mut Conn,
    job: &JobRecord,
    version: &NewVersion,
    now: Timestamp,
) -> Result<Served> {
    let task = tasks::get(conn, &job.tenant, &job.task).await?;
    if !task.auto_serve {
        return Ok(Served::Unasked);
    }
    let number = version.version;
    if task.etag != job.task_etag {
        let text = format!(
            "version {number} is not served: the task was changed since the job was submitted"
        );
        warn(conn, job, text, now).await?;
        return Ok(Served::Unasked);
    }
    if task.split.is_some() {
        let text = format!(
            "version {number} is not served by itself: the task's requests are shared out among versions, which SetServing changes"
        );
        warn(conn, job, text, now).await?;
        return Ok(Served::Unasked);
    }
    if let Some(problem) = labels_change(conn, job, &task, version).await? {
        let text = format!(
            "version {number} is not served by itself: {problem}; SetServing serves it, allow_label_change does so without being asked"
        );
        warn(conn, job, text.clone(), now).await?;
        return Ok(Served::Not(LABELS_CHANGED, text));
    }
    serving::desire(conn, &task, &number.into(), now).await?;
    Ok(Served::Desired)
}

/// Appends a warning to the events of a job.
async fn warn(conn: &mut Conn, job: &JobRecord, text: String, now: Timestamp) -> Result<()> {
    let warning = true;
    let event = Event::Message { warning, text };
    events::append(conn, &job.tenant, job.id, now, &event)
        .await
        .map(drop)
}

/// How a version's labels differ from those of the version that serves or is about to; `None` when they are the same in any order, nothing serves, or
/// the job may change them.
async fn labels_change(
    conn: &mut Conn,
    job: &JobRecord,
    task: &TaskRecord,
    version: &NewVersion,
) -> Result<Option<String>> {
    let Some(serving) = task.serving.or(task.desired) else {
        return Ok(None);
    };
    let sql = "SELECT allow_label_change FROM jobs WHERE tenant = $1 AND id = $2";
    let row = query(sql)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .fetch_one(&mut *conn)
        .await?;
    if row.flag("allow_label_change")? {
        return Ok(None);
    }
    let before = versions::get(conn, &job.tenant, &job.task, serving).await?;
    let (before, now) = (&before.manifest.labels, &version.manifest.labels);
    if before.kind() != now.kind() {
        return Ok(Some(match now.kind() {
            LabelKind::Single => format!(
                "its labels exclude one another, and those of the serving version {serving} do not"
            ),
            LabelKind::Multi => format!(
                "its labels do not exclude one another, and those of the serving version {serving} do"
            ),
        }));
    }
    let without = |own: &LabelSet, other: &LabelSet| {
        let other: BTreeSet<&String> = other.as_slice().iter().collect();
        let missing = own.as_slice().iter().find(|label| !other.contains(label));
        missing.cloned()
    };
    Ok(match (without(now, before), without(before, now)) {
        (None, None) => None,
        (Some(new), _) => Some(format!(
            "its label {new:?} is none of the serving version {serving}"
        )),
        (None, Some(lost)) => Some(format!(
            "it lacks the label {lost:?} of the serving version {serving}"
        )),
    })
}

/// Writes the result of a job whose version is published and whose test split is not measured yet.
pub(super) async fn set_result(
    conn: &mut Conn,
    job: &JobRecord,
    version: NewVersion,
    summary: &TrainingSummary,
) -> Result<()> {
    let result = JobResult {
        version: version.version.get(),
        evaluation: version.manifest.evaluation,
        loss_curve: summary.loss_curve.clone(),
        validation_curve: summary.validation_curve.clone(),
        step: summary.step,
        dataset_digest: version.manifest.dataset_digest,
        backbone_digest: version.manifest.backbone_digest,
        seed: summary.seed,
        parameters: version.manifest.parameters,
        training_micros: summary.training_micros,
        times: summary.times,
        test: None,
        skipped_clips: summary.skipped_clips,
    };
    write_result(conn, job, &result).await
}

/// Writes a job's result, and ends a pause that came before.
pub(super) async fn write_result(
    conn: &mut Conn,
    job: &JobRecord,
    result: &JobResult,
) -> Result<()> {
    // Nobody could resume the job any more.
    query("UPDATE jobs SET result = $1, paused = 0 WHERE tenant = $2 AND id = $3")
        .bind(rows::json("result", result)?)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
