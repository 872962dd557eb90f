//! Records as the API shows them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Status;

use super::evaluation::{of_evaluation, of_listed_evaluation};
use super::spec::{
    of_adapter, of_duration, of_head, of_hyper, of_label_kind, of_sampling, of_split, of_state,
    of_time, signed, split,
};
use super::{names, splits};
use crate::engine::ResidencyRecord;
use crate::ids::AdapterVersion;
use crate::library::Difference;
use crate::metadata::{
    ComparedHead, DatasetRecord, DatasetVersionRecord, EvaluationMetrics, Event, EventRecord,
    ExampleRecord, JobRecord, JobResult, JobTimes, LabelCount, StepMetrics, TaskRecord,
    UploadRecord, VersionRecord, VideoProbe, VideoRecord,
};
use crate::proto::v1;
use crate::rpc::status;
use crate::spec::{
    Calibration, Evaluation, ExampleLabels, FrameOrder, LabelSet, MAX_EXAMPLE_LABELS,
    ReliabilityBin, Split, normal_label,
};
use crate::telemetry::now_micros;

/// The digest of no data set: that of an imported version.
const NO_DATASET: [u8; 32] = [0; 32];

/// Converts a video's record.
pub(in crate::rpc) fn of_video(record: VideoRecord) -> v1::Video {
    v1::Video {
        name: format!("videos/{}", record.id),
        display_name: record.display_name,
        size_bytes: signed(record.size_bytes),
        sha256: record.sha256.0.to_vec().into(),
        probe: Some(of_probe(record.probe)),
        create_time: Some(of_time(record.create_time)),
    }
}

fn of_probe(probe: VideoProbe) -> v1::VideoProbe {
    let reference_frames = probe.frames_in(FrameOrder::Reference);
    v1::VideoProbe {
        container: probe.container,
        codec: probe.codec,
        width: probe.width,
        height: probe.height,
        frames: probe.frames,
        duration: Some(of_duration(Duration::from_micros(probe.duration_micros))),
        frame_rate: probe.frame_rate,
        rotation_degrees: probe.rotation_degrees,
        mirrored: probe.mirrored,
        reference_frames,
        warnings: probe.warnings,
    }
}

/// Converts an upload's record.
pub(in crate::rpc) fn of_upload(record: UploadRecord) -> v1::Upload {
    v1::Upload {
        name: format!("uploads/{}", record.id),
        display_name: record.display_name,
        committed_bytes: signed(record.committed_bytes),
        video: record.video.map(of_video),
        create_time: Some(of_time(record.create_time)),
        expire_time: record.expire_time.map(of_time),
    }
}

/// Converts a data set's record.
pub(in crate::rpc) fn of_dataset(record: DatasetRecord) -> v1::Dataset {
    v1::Dataset {
        name: format!("datasets/{}", record.id),
        examples: signed(record.examples),
        labels: signed(record.labels),
        display_name: record.display_name,
        label_kind: of_label_kind(record.label_kind).into(),
        counts: record.counts.into_iter().map(of_label_count).collect(),
        create_time: Some(of_time(record.create_time)),
    }
}

/// Converts a version of a data set.
pub(in crate::rpc) fn of_dataset_version(record: DatasetVersionRecord) -> v1::DatasetVersion {
    v1::DatasetVersion {
        name: format!("datasets/{}/versions/{}", record.dataset, record.number),
        note: record.note,
        examples: signed(record.snapshot.examples),
        digest: record.snapshot.digest.0.to_vec().into(),
        create_time: Some(of_time(record.create_time)),
    }
}

/// Converts a difference between two versions of a data set.
pub(in crate::rpc) fn of_difference(own: Difference) -> v1::DatasetChange {
    let video = own.video;
    let example = |(labels, split): (ExampleLabels, Split)| {
        of_example(ExampleRecord {
            video,
            labels,
            split,
        })
    };
    v1::DatasetChange {
        video: format!("videos/{video}"),
        before: own.before.map(example),
        after: own.after.map(example),
    }
}

/// Converts the count of the examples of one label in one split.
pub(in crate::rpc) fn of_label_count(count: LabelCount) -> v1::LabelCount {
    v1::LabelCount {
        label: count.label,
        split: of_split(count.split).into(),
        examples: signed(count.examples),
    }
}

/// Converts an example of a request; `index` is its place there.
pub(in crate::rpc) fn example(
    example: &v1::Example,
    index: usize,
) -> Result<ExampleRecord, Status> {
    let field = |name: &str| format!("examples[{index}].{name}");
    Ok(ExampleRecord {
        video: names::video(&example.video, &field("video"))?,
        labels: example_labels(example, &field)?,
        split: split(example.split, &field("split"))?,
    })
}

/// The labels of an example in the form in which labels are compared: `label`, `labels` or both.
fn example_labels(
    example: &v1::Example,
    field: &impl Fn(&str) -> String,
) -> Result<ExampleLabels, Status> {
    let normal = |label: &String, name: &str| {
        normal_label(label).map_err(|invalid| status::invalid(&field(name), invalid.problem))
    };
    let mut labels = Vec::with_capacity(example.labels.len() + 1);
    if !example.label.is_empty() {
        labels.push(normal(&example.label, "label")?);
    }
    // More are refused below, and need not be looked at.
    for (place, label) in (example.labels.iter().enumerate()).take(MAX_EXAMPLE_LABELS + 1) {
        labels.push(normal(label, &format!("labels[{place}]"))?);
    }
    ExampleLabels::of(labels.iter().map(String::as_str))
        .map_err(|invalid| status::invalid(&field("labels"), invalid.problem))
}

/// Converts an example.
pub(in crate::rpc) fn of_example(record: ExampleRecord) -> v1::Example {
    v1::Example {
        video: format!("videos/{}", record.video),
        label: record.labels.only().unwrap_or_default().to_owned(),
        labels: record.labels.iter().map(str::to_owned).collect(),
        split: of_split(record.split).into(),
    }
}

/// Converts a task's record.
pub(in crate::rpc) fn of_task(record: TaskRecord) -> v1::Task {
    v1::Task {
        name: format!("tasks/{}", record.id),
        adapter: Some(of_adapter(&record.adapter)),
        sampling: Some(of_sampling(&record.sampling)),
        auto_serve: Some(record.auto_serve),
        serving_version: names::of_version(&record.id, record.serving),
        desired_version: names::of_version(&record.id, record.desired),
        serving_error: record.serving_error.clone().unwrap_or_default(),
        split: splits::of_record(&record),
        previous: record
            .previous
            .as_ref()
            .map(|plan| splits::of_plan(&record.id, plan)),
        pinned: record.pinned,
        display_name: record.display_name,
        etag: record.etag,
        create_time: Some(of_time(record.create_time)),
        head: match record.auto_head {
            true => v1::Head::Auto,
            false => of_head(record.adapter.head),
        }
        .into(),
    }
}

/// Converts a version's record.
pub(in crate::rpc) fn of_version(record: VersionRecord) -> v1::AdapterVersion {
    let manifest = record.manifest;
    let parent = manifest.parent.and_then(AdapterVersion::new);
    v1::AdapterVersion {
        name: names::of_version(&record.task, Some(record.version)),
        evaluation: Some(of_evaluation(&manifest.evaluation, &manifest.labels)),
        test_evaluation: (record.test.as_ref()).map(|test| of_evaluation(test, &manifest.labels)),
        label_kind: of_label_kind(manifest.labels.kind()).into(),
        labels: manifest.labels.into(),
        adapter: Some(of_adapter(&manifest.adapter)),
        sampling: Some(of_sampling(&manifest.sampling)),
        backbone_digest: manifest.backbone_digest.0.to_vec().into(),
        sha256: record.sha256.0.to_vec().into(),
        size_bytes: signed(record.size_bytes),
        parameters: signed(manifest.parameters),
        precision: manifest.precision.to_string(),
        job: match manifest.job.as_str() {
            "" => String::new(),
            job => format!("jobs/{job}"),
        },
        dataset_digest: match manifest.dataset_digest.0 {
            NO_DATASET => bytes::Bytes::new(),
            digest => digest.to_vec().into(),
        },
        parent: names::of_version(&record.task, parent),
        create_time: Some(of_time(record.create_time)),
        head: of_head(manifest.adapter.head).into(),
        passed_over: Vec::new(),
        calibration: manifest.calibration.as_ref().map(of_calibration),
    }
}

fn of_calibration(own: &Calibration) -> v1::Calibration {
    let bin = |bin: &ReliabilityBin| v1::ReliabilityBin {
        examples: signed(bin.examples),
        confidence: bin.confidence,
        accuracy: bin.accuracy,
    };
    v1::Calibration {
        temperature: own.temperature,
        examples: signed(own.examples),
        raw_error: own.raw_error,
        error: own.error,
        bins: own.bins.iter().map(bin).collect(),
        unknown_below: own.unknown_below,
    }
}

/// Converts a version for a listing: without what grows with the square of its labels, so that a page fits into a message.
pub(in crate::rpc) fn of_listed_version(record: VersionRecord) -> v1::AdapterVersion {
    let mut version = of_version(record);
    let evaluations = [&mut version.evaluation, &mut version.test_evaluation];
    for evaluation in evaluations.into_iter().flatten() {
        evaluation.confusion = Vec::new();
        evaluation.confusion_cells = Vec::new();
        evaluation.labels = Vec::new();
    }
    version
}

/// Converts a job's record; `labels` are its version's, once it has one.
pub(in crate::rpc) fn of_job(record: JobRecord, labels: Option<&LabelSet>) -> v1::Job {
    let checkpoints = checkpoints(&record);
    let task = record.task;
    v1::Job {
        name: format!("jobs/{}", record.id),
        dataset: format!("datasets/{}", record.dataset),
        hyper_parameters: Some(of_hyper(&record.hyper_parameters)),
        state: of_state(record.state).into(),
        reason: record.reason.unwrap_or_default(),
        message: record.message.unwrap_or_default(),
        step: record.step,
        total_steps: record.total_steps,
        attempts: record.attempts,
        paused: record.is_paused,
        priority: record.priority,
        checkpoints,
        new_task: None,
        result: record.result.map(|result| v1::JobResult {
            version: names::of_version(&task, AdapterVersion::new(result.version)),
            ..of_result(result, labels)
        }),
        task: format!("tasks/{task}"),
        create_time: Some(of_time(record.create_time)),
        end_time: record.end_time.map(of_time),
    }
}

/// Where a job's time went; `None` when it was not measured: every job checks its data set.
fn of_times(times: JobTimes) -> Option<v1::JobTimes> {
    let shown = |micros| Some(of_duration(Duration::from_micros(micros)));
    (times.checks > 0).then(|| v1::JobTimes {
        checks: shown(times.checks),
        features: shown(times.features),
        clips: shown(times.clips),
        evaluations: shown(times.evaluations),
    })
}

/// The checkpoints from which a job can go on.
fn checkpoints(record: &JobRecord) -> Vec<v1::JobCheckpoint> {
    if record.state.is_final() {
        return Vec::new();
    }
    let shown = record.checkpoints().map(|own| v1::JobCheckpoint {
        step: own.step,
        best: own.is_best,
    });
    shown.collect()
}

fn of_result(result: JobResult, labels: Option<&LabelSet>) -> v1::JobResult {
    // Without labels it is a listing: then what grows with the square of their number is left out.
    let shown = |evaluation: &Evaluation| match labels {
        Some(labels) => of_evaluation(evaluation, labels),
        None => of_listed_evaluation(evaluation),
    };
    let (evaluation, test) = (shown(&result.evaluation), result.test.as_ref().map(shown));
    v1::JobResult {
        version: String::new(),
        evaluation: Some(evaluation),
        test_evaluation: test,
        loss_curve: result.loss_curve,
        validation_curve: (result.validation_curve.iter())
            .map(|point| v1::EvaluationPoint {
                step: point.step,
                epoch: point.epoch,
                loss: point.loss,
                top1: point.top1,
                mean_average_precision: point.map,
            })
            .collect(),
        step: result.step,
        dataset_digest: result.dataset_digest.0.to_vec().into(),
        backbone_digest: result.backbone_digest.0.to_vec().into(),
        seed: result.seed,
        parameters: signed(result.parameters),
        training_time: Some(of_duration(Duration::from_micros(result.training_micros))),
        times: of_times(result.times),
        skipped_clips: signed(result.skipped_clips),
    }
}

/// Converts an event of a job.
pub(in crate::rpc) fn of_event(record: EventRecord) -> v1::JobEvent {
    use v1::job_event::{Event as Shown, Message, StateChange};
    let event = match record.event {
        Event::State {
            state,
            reason,
            message,
        } => Shown::State(StateChange {
            state: of_state(state).into(),
            reason: reason.unwrap_or_default(),
            message: message.unwrap_or_default(),
        }),
        Event::Step(step) => Shown::Step(of_step(&step)),
        Event::Evaluation(evaluation) => Shown::Evaluation(of_metrics(&evaluation)),
        Event::Comparison(compared) => Shown::Comparison(of_comparison(&compared)),
        Event::Message { warning, text } => Shown::Message(Message { warning, text }),
    };
    v1::JobEvent {
        sequence: record.sequence,
        time: Some(of_time(record.time)),
        event: Some(event),
    }
}

/// Makes the message that says whether a job's version serves, after the event of a sequence number.
pub(in crate::rpc) fn of_serving(sequence: u64, serving: v1::job_event::Serving) -> v1::JobEvent {
    v1::JobEvent {
        sequence,
        time: Some(of_time(now_micros())),
        event: Some(v1::job_event::Event::Serving(serving)),
    }
}

/// Makes an event without content, after the event of a sequence number.
pub(in crate::rpc) fn no_event(sequence: u64) -> v1::JobEvent {
    v1::JobEvent {
        sequence,
        time: Some(of_time(now_micros())),
        event: None,
    }
}

fn of_comparison(compared: &[ComparedHead]) -> v1::job_event::Comparison {
    let of = |own: &ComparedHead| v1::job_event::ComparedHead {
        head: of_head(own.head).into(),
        has_adapters: own.has_adapters,
        parameters: signed(own.parameters),
        step: own.step,
        loss: own.loss,
        top1: own.top1,
        mean_average_precision: own.map,
        published: own.is_published,
    };
    v1::job_event::Comparison {
        heads: compared.iter().map(of).collect(),
    }
}

fn of_step(step: &StepMetrics) -> v1::job_event::StepMetrics {
    v1::job_event::StepMetrics {
        step: step.step,
        total_steps: step.total_steps,
        epoch: step.epoch,
        loss: step.loss,
        accuracy: step.accuracy,
        learning_rate: step.learning_rate,
        clips_per_second: step.clips_per_second,
        eta: Some(of_duration(Duration::from_micros(step.eta_micros))),
        device_bytes: signed(step.device_bytes),
    }
}

fn of_metrics(metrics: &EvaluationMetrics) -> v1::job_event::EvaluationMetrics {
    let (top1_low, top1_high) = metrics.interval();
    v1::job_event::EvaluationMetrics {
        split: of_split(metrics.split).into(),
        step: metrics.step,
        epoch: metrics.epoch,
        examples: signed(metrics.examples),
        loss: metrics.loss,
        top1: metrics.top1,
        top1_low,
        top1_high,
        best: metrics.is_best,
        training_loss: metrics.training_loss,
        training_accuracy: metrics.training_accuracy,
        mean_class_accuracy: metrics.mean_class_accuracy,
        macro_f1: metrics.macro_f1,
        mean_average_precision: metrics.map,
    }
}

/// Converts the state of a resident or quarantined adapter set.
pub(in crate::rpc) fn of_residency(record: &ResidencyRecord) -> v1::Residency {
    v1::Residency {
        version: record.version.to_string(),
        size_bytes: signed(record.bytes),
        last_used_time: Some(of_system_time(record.last_used)),
        pinned: record.is_pinned,
        quarantine_reason: record.quarantine.as_deref().unwrap_or_default().to_owned(),
    }
}

fn of_system_time(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    of_time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
