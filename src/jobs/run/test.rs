//! The test split: evaluated once, with the published weights, after the version is visible.
//!
//! Invariant: nothing that is trained or published depends on the test split; what is wrong with it leaves the job SUCCEEDED.

use std::collections::HashMap;
use std::sync::Arc;

use super::Run;
use super::survey::PAGE;
use crate::blocking::blocking;
use crate::ids::{AdapterVersion, VersionRef};
use crate::jobs::dataset::{Clips, Example, Truths};
use crate::jobs::evaluation::Forwards;
use crate::jobs::failure::Failure;
use crate::metadata::{EvaluationMetrics, Event, JobResult, JobUpdate};
use crate::model::AdapterSet;
use crate::spec::{Evaluation, LabelKind, LabelMeans, LabelSet, Split};

/// Videos that are named when they cannot be read.
const NAMED: usize = 10;

/// What the published weights are evaluated with.
pub(super) struct Subject<'a> {
    pub(super) clips: &'a Clips,
    pub(super) forwards: Forwards,
    pub(super) labels: &'a LabelSet,
}

/// The test split of the snapshot, as far as it can be evaluated.
#[derive(Default)]
struct Tests {
    examples: Vec<Example>,
    truths: Truths,
    /// Examples whose label the version does not have.
    unknown: u64,
    /// Examples whose videos do not exist any more.
    gone: u64,
}

impl Run {
    /// Evaluates the test split of a job whose version was published in an earlier claim, and ends the job.
    pub(super) async fn test_again(&mut self) -> Result<(), Failure> {
        let parts = self.context.parts.clone();
        let tenant = self.lease.tenant.clone();
        let result = self.job.result.as_ref();
        let Some(number) = result.and_then(|result| AdapterVersion::new(result.version)) else {
            return Err(Failure::Panicked);
        };
        let name = VersionRef {
            tenant: tenant.clone(),
            task: self.job.task.clone(),
            version: number,
        };
        let task = || async { Ok(parts.registry.get_task(&tenant, &name.task).await?) };
        let task = self.journal.patiently(task).await?;
        let loaded = || async { Ok(parts.registry.load(&name).await?) };
        let loaded = self.journal.patiently_moving(loaded).await?;
        let labels = loaded.record.manifest.labels.clone();
        let adapter = loaded.record.manifest.adapter;
        let backbone = Arc::clone(&parts.backbone);
        let classes = labels.len();
        let set = blocking(move || {
            AdapterSet::from_safetensors(&loaded.bytes, backbone.config(), adapter, classes)
        });
        let set = Arc::new(set.await??);
        let clips = self.clips(&task)?;
        let num_frames = usize::from(task.sampling.num_frames.get());
        let demand = self.demand_of(adapter, classes, num_frames)?;
        let subject = Subject {
            clips: &clips,
            forwards: self.forwards_of(num_frames, demand, Truths::default()),
            labels: &labels,
        };
        // Its training and its publication are behind it.
        for _ in 0..3 {
            self.advance(JobUpdate::default()).await?;
        }
        Box::pin(self.test(subject, &set)).await
    }

    /// Evaluates the test split with the published weights, and ends the job.
    pub(super) async fn test(
        &mut self,
        subject: Subject<'_>,
        set: &Arc<AdapterSet>,
    ) -> Result<(), Failure> {
        let labels = subject.labels.len();
        let measured = self.unless_stopped(self.measure_tests(&subject, set)).await;
        let (evaluation, told) = match measured {
            Ok(measured) => measured,
            Err(failure) => {
                let problem = self.spoiled(failure)?;
                let told = format!("the test split cannot be evaluated: {problem}");
                let evaluation = Evaluation {
                    problem: Some(problem),
                    ..Evaluation::default()
                };
                (evaluation, Some(told))
            }
        };
        if let Some(text) = told {
            self.tell(true, text).await?;
        }
        let event = self
            .job
            .result
            .as_ref()
            .filter(|_| evaluation.problem.is_none());
        let event = event.map(|result| Event::Evaluation(metrics(result, &evaluation, labels)));
        let metadata = &self.context.parts.metadata;
        let finish = async || {
            let (evaluation, event) = (evaluation.clone(), event.clone());
            Ok(metadata.finish_job(&self.lease, evaluation, event).await?)
        };
        let job = self.journal.patiently(finish).await?;
        tracing::info!(job = %self.lease.job, test_top1 = evaluation.top1, "job succeeded");
        self.context.ended(&job).await;
        Ok(())
    }

    /// The metrics on the test split, and what its owner is told about them.
    async fn measure_tests(
        &self,
        Subject {
            clips,
            forwards,
            labels,
        }: &Subject<'_>,
        set: &Arc<AdapterSet>,
    ) -> Result<(Evaluation, Option<String>), Failure> {
        let tests = self.tests(clips, labels).await?;
        let forwards = Forwards {
            truths: tests.truths.clone(),
            ..forwards.clone()
        };
        let (evaluation, unreadable) = forwards
            .evaluate_readable(clips, &tests.examples, set)
            .await?;
        // A record cannot hold what is no number.
        if !evaluation.loss.is_finite() {
            return Ok(without_numbers());
        }
        let mut told = Vec::new();
        if tests.unknown > 0 {
            told.push(format!(
                "clips with a label that the version does not have: {}",
                tests.unknown
            ));
        }
        if tests.gone > 0 {
            told.push(format!(
                "clips whose videos do not exist any more: {}",
                tests.gone
            ));
        }
        if !unreadable.is_empty() {
            let named = unreadable.iter().take(NAMED);
            let named: Vec<String> = named
                .map(|own| format!("video {}: {}", own.video, own.why))
                .collect();
            told.push(format!(
                "videos that cannot be read: {} ({}{})",
                unreadable.len(),
                named.join("; "),
                if unreadable.len() > NAMED {
                    "; …"
                } else {
                    ""
                }
            ));
        }
        let told = (!told.is_empty())
            .then(|| format!("the test split is evaluated in part: {}", told.join("; ")));
        Ok((evaluation, told))
    }

    async fn tests(&self, clips: &Clips, labels: &LabelSet) -> Result<Tests, Failure> {
        let mut tests = Tests::default();
        let mut sets: HashMap<Box<[u32]>, u32> = HashMap::new();
        let known = labels.by_name();
        let mut after = None;
        loop {
            let mut page = self.page(after).await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map(|example| example.video);
            page.retain(|example| example.split == Split::Test);
            let videos: Vec<_> = page.iter().map(|example| example.video).collect();
            let records = match videos.is_empty() {
                true => Default::default(),
                false => clips.records(&videos).await?,
            };
            for example in page {
                let Some(rows) = known.of(&example.labels) else {
                    tests.unknown += 1;
                    continue;
                };
                let class = match labels.kind() {
                    LabelKind::Single => rows.first().copied().unwrap_or_default(),
                    LabelKind::Multi => {
                        let next = u32::try_from(sets.len()).unwrap_or(u32::MAX);
                        *sets.entry(rows.into()).or_insert(next)
                    }
                };
                match records.get(&example.video) {
                    Some(record) => tests.examples.push(clips.example(record, class)),
                    None => tests.gone += 1,
                }
            }
            if is_last {
                tests.truths = match labels.kind() {
                    LabelKind::Single => Truths::single(labels.len()),
                    LabelKind::Multi => Truths::multi(labels.len(), by_number(sets)),
                };
                return Ok(tests);
            }
        }
    }
}

/// No metrics, because the scores are no numbers, and what the owner is told.
fn without_numbers() -> (Evaluation, Option<String>) {
    let problem = "the version's scores of a test clip are not numbers";
    let evaluation = Evaluation {
        problem: Some(problem.to_owned()),
        ..Evaluation::default()
    };
    let told = format!("the test split cannot be evaluated: {problem}");
    (evaluation, Some(told))
}

/// Sets of rows by their numbers.
fn by_number(sets: HashMap<Box<[u32]>, u32>) -> Vec<Box<[u32]>> {
    let mut rows: Vec<(Box<[u32]>, u32)> = sets.into_iter().collect();
    rows.sort_unstable_by_key(|own| own.1);
    rows.into_iter().map(|own| own.0).collect()
}

fn metrics(result: &JobResult, evaluation: &Evaluation, labels: usize) -> EvaluationMetrics {
    let means = LabelMeans::of(evaluation, labels);
    EvaluationMetrics {
        split: Split::Test,
        step: result.step,
        epoch: epoch(result),
        examples: evaluation.examples,
        loss: evaluation.loss,
        top1: evaluation.top1,
        is_best: false,
        training_loss: None,
        training_accuracy: None,
        mean_class_accuracy: means.recall,
        macro_f1: means.f1,
        map: evaluation.independent.as_ref().map(|own| own.map),
    }
}

/// Epoch of the published weights, when the job evaluated them then; else the last one.
fn epoch(result: &JobResult) -> u32 {
    let curve = result.validation_curve.iter();
    let own = curve.filter(|point| point.step == result.step);
    let last = u32::try_from(result.loss_curve.len()).unwrap_or(u32::MAX);
    own.map(|point| point.epoch).next_back().unwrap_or(last)
}
