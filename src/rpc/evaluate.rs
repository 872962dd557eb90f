//! EvaluateVersion: the stream of a version's evaluation on a split of a data set.
//!
//! Invariant: conversion only; one group of clips is on its way at a time, so that a caller who does not read holds the evaluation back.

use std::pin::Pin;

use futures::{Stream, stream};
use tonic::{Request, Status};

use super::convert::{evaluation, names, spec};
use super::{Api, classify, status};
use crate::fair::Class;
use crate::proto::v1;
use crate::proto::v1::evaluate_version_response::{Clips, Event, Result as Shown, Started};
use crate::serving::{
    Answer, Caller, Error, Evaluated, Evaluator, Judged, Progress, Scope, Verdict,
};
use crate::spec::{Digest, LabelSet};
use crate::telemetry::Metrics;

/// Labels of a clip that are shown by default.
const TOP_K: usize = 5;
/// Cells of the confusion matrix up to which every group of clips has a token; with more cells, only one group in many has.
const SMALL: usize = 1024;
const SELDOM: u64 = 64;
/// Largest token, in bytes: one of some 500,000 cells. A larger one is neither given nor read.
const TOKEN_BYTES: usize = 8 << 20;

/// Stream of the messages of an evaluation.
pub(super) type Evaluation =
    Pin<Box<dyn Stream<Item = Result<v1::EvaluateVersionResponse, Status>> + Send>>;

/// Answers EvaluateVersion.
pub(super) async fn evaluate(
    api: &Api,
    request: Request<v1::EvaluateVersionRequest>,
) -> Result<Evaluation, Status> {
    let deadline = classify::deadline(&request);
    let (parts, tenant, asked) = api.enter(request)?;
    let version = names::version(&tenant, &asked.version, "version")?;
    let (dataset, number) = names::dataset_at(&asked.dataset, "dataset")?;
    let is_all = asked.classify && asked.split() == v1::Split::Unspecified;
    let split = match is_all {
        true => None,
        false => Some(spec::split(asked.split, "split")?),
    };
    let top_k = match usize::try_from(asked.top_k) {
        Ok(0) => TOP_K,
        Ok(count) => count,
        Err(_) => usize::MAX,
    };
    let progress = match asked.resume_token.is_empty() {
        true => None,
        false => Some(token(&asked.resume_token)?),
    };
    let digest = match &progress {
        // What was begun goes on with the examples that it began with.
        Some(progress) => {
            let digest = progress.subject.dataset;
            parts.library.open_snapshot(&tenant, digest).await?;
            digest
        }
        None => {
            let library = &parts.library;
            library.snapshot_at(&tenant, &dataset, number).await?.digest
        }
    };
    let caller = Caller {
        tenant,
        deadline,
        class: Class::Batch,
        key: None,
    };
    let scope = Scope {
        dataset: digest,
        split,
        classifies: asked.classify,
    };
    let evaluator = parts
        .serving
        .evaluate(caller, version, scope, progress)
        .await?;
    let running = Running {
        evaluator: Some(evaluator),
        metrics: parts.metrics.clone(),
        top_k,
        digest,
        groups: 0,
        has_begun: false,
    };
    let messages = stream::try_unfold(running, |mut running| async move {
        let event = running.next().await?;
        Ok(event.map(|event| {
            let message = v1::EvaluateVersionResponse { event: Some(event) };
            (message, running)
        }))
    });
    Ok(Box::pin(messages))
}

fn token(bytes: &[u8]) -> Result<Progress, Status> {
    if bytes.len() > TOKEN_BYTES {
        let problem = format!("{} bytes, of at most {TOKEN_BYTES}", bytes.len());
        return Err(status::invalid("resume_token", problem));
    }
    serde_json::from_slice(bytes)
        .map_err(|_| status::invalid("resume_token", "not one of this server's"))
}

/// Returns a token, or an empty one when it is too large to be taken back.
fn given(token: Vec<u8>) -> Vec<u8> {
    match token.len() <= TOKEN_BYTES {
        true => token,
        false => Vec::new(),
    }
}

/// An evaluation under way, whose messages are sent.
struct Running {
    evaluator: Option<Evaluator>,
    metrics: Metrics,
    top_k: usize,
    digest: Digest,
    groups: u64,
    has_begun: bool,
}

impl Running {
    async fn next(&mut self) -> Result<Option<Event>, Status> {
        let Some(evaluator) = &mut self.evaluator else {
            return Ok(None);
        };
        if !self.has_begun {
            self.has_begun = true;
            return Ok(Some(Event::Started(Started {
                version: evaluator.subject().version.clone(),
                dataset_digest: self.digest.0.to_vec().into(),
                labels: evaluator.labels().as_slice().to_vec(),
                label_kind: spec::of_label_kind(evaluator.labels().kind()).into(),
            })));
        }
        if let Some(judged) = Box::pin(evaluator.next()).await? {
            self.groups += 1;
            let has_token = evaluator.cells() <= SMALL || self.groups.is_multiple_of(SELDOM);
            let resume_token = match has_token {
                true => serde_json::to_vec(&evaluator.progress()).map_err(status::internal)?,
                false => Vec::new(),
            };
            let labels = evaluator.labels().as_slice();
            judged.iter().for_each(|clip| metered(&self.metrics, clip));
            let shown = judged
                .into_iter()
                .map(|clip| of_judged(clip, labels, self.top_k));
            return Ok(Some(Event::Clips(Clips {
                clips: shown.collect(),
                resume_token: given(resume_token).into(),
            })));
        }
        let labels = evaluator.labels().clone();
        let Some(evaluator) = self.evaluator.take() else {
            return Ok(None);
        };
        Ok(Some(Event::Result(of_evaluated(
            &evaluator.finish(),
            &labels,
        ))))
    }
}

/// Counts a classification.
fn metered(metrics: &Metrics, clip: &Judged) {
    if let Verdict::Counted(answer, ..) | Verdict::Classified(answer) = &clip.outcome {
        metrics.classified(&answer.version, answer.queue + answer.device);
    }
}

fn of_judged(clip: Judged, labels: &[String], top_k: usize) -> v1::ClipEvaluation {
    let shown = v1::ClipEvaluation {
        video: format!("videos/{}", clip.video),
        label: clip.labels.only().unwrap_or_default().to_owned(),
        labels: clip.labels.iter().map(str::to_owned).collect(),
        ..Default::default()
    };
    let predictions = |answer: &Answer| {
        let prediction = |(index, score): (usize, f64)| v1::ScoredLabel {
            label: labels.get(index).cloned().unwrap_or_default(),
            label_index: u32::try_from(index).unwrap_or(u32::MAX),
            score: score as f32,
            selected: answer.selects(index, None),
        };
        let best = answer.scores.best(top_k);
        best.into_iter().map(prediction).collect()
    };
    match clip.outcome {
        Verdict::Counted(answer, _, place) => v1::ClipEvaluation {
            score: place.map_or(0.0, |place| place.score as f32),
            rank: place.map_or(0, |place| {
                u32::try_from(place.ahead + 1).unwrap_or(u32::MAX)
            }),
            predictions: predictions(&answer),
            ..shown
        },
        Verdict::Classified(answer) => v1::ClipEvaluation {
            predictions: predictions(&answer),
            unknown_label: true,
            ..shown
        },
        Verdict::UnknownLabel => v1::ClipEvaluation {
            unknown_label: true,
            ..shown
        },
        Verdict::Unreadable(error) => v1::ClipEvaluation {
            error: Some(unreadable(error)),
            ..shown
        },
    }
}

fn unreadable(error: Error) -> v1::ClipError {
    let v1::TaskError {
        code,
        reason,
        message,
        ..
    } = classify::told(&error.into());
    v1::ClipError {
        code,
        reason,
        message,
    }
}

fn of_evaluated(evaluated: &Evaluated, labels: &LabelSet) -> Shown {
    Shown {
        evaluation: Some(evaluation::of_evaluation(&evaluated.evaluation, labels)),
        unreadable: spec::signed(evaluated.unreadable),
        unknown_labels: spec::signed(evaluated.unknown_labels),
    }
}
