//! ClassificationService: a video and tasks give scores, or features.
//!
//! Invariant: conversion only; [`crate::serving`] defines what a classification is.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::auth::Allowed;
use super::convert::names;
use super::convert::spec::of_duration;
use super::spool::{Room, Spool};
use super::stack::deadline::Deadline;
use super::uploads::{checked, next};
use super::{Api, Parts, embed, frames, status, windows};
use crate::fair::Class;
use crate::ids::TenantId;
use crate::proto::v1;
use crate::proto::v1::classification_service_server::ClassificationService;
use crate::registry::Key;
use crate::serving::{self, Answer, Caller, Choice, SampledFrame, Video};
use crate::video::Input;

/// Labels that are returned when the caller does not say.
const TOP_K: usize = 5;
/// Metadata of a request whose value decides which version of a split answers it.
const KEY: &str = "x-frameshift-key";
/// Longest value of the metadata [`KEY`], in bytes.
const KEY_BYTES: usize = 256;
/// Most tasks of one request.
const TASKS: usize = 32;

/// What each choice answered.
type Answers = Vec<Result<Answer, serving::Error>>;

#[tonic::async_trait]
impl ClassificationService for Api {
    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_request::Source;
        let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
        let key = request_key(&request)?;
        let (parts, tenant, classify) = self.enter(request)?;
        let options = classify.options.unwrap_or_default();
        let caller = Caller {
            key,
            ..caller(tenant, deadline, options.priority)?
        };
        let chosen = Chosen::new(&caller, &classify.task, &classify.tasks, &options)?;
        chosen.check(&allowed)?;
        let video = match classify.source {
            Some(Source::Video(name)) => Video::Stored(names::video(&name, "video")?),
            Some(Source::Content(bytes)) => Video::Given(Input::Bytes(bytes)),
            None => return Err(status::invalid("source", "required: video or content")),
        };
        let answers = parts.serving.classify(&caller, &chosen.choices, video);
        let answers = counted(parts, answers.await?);
        Ok(Response::new(chosen.response(answers, &options)?))
    }

    async fn classify_upload(
        &self,
        request: Request<Streaming<v1::ClassifyUploadRequest>>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_upload_request::Payload;
        let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
        let key = request_key(&request)?;
        let (parts, tenant, mut stream) = self.enter(request)?;
        let first = next(&mut stream).await?.and_then(|first| first.payload);
        let Some(Payload::Header(header)) = first else {
            return Err(status::stream("the first message has to be the header"));
        };
        let options = header.options.unwrap_or_default();
        let caller = Caller {
            key,
            ..caller(tenant, deadline, options.priority)?
        };
        let chosen = Chosen::new(&caller, &header.task, &header.tasks, &options)?;
        chosen.check(&allowed)?;
        // What cannot be answered is said before the video is sent; the versions are read again when the video is there.
        let checked = parts.serving.check(&caller, &chosen.choices).await;
        if let Some(errors) = all_failed(checked) {
            return Ok(Response::new(chosen.response(errors, &options)?));
        }
        let chunk = |message: v1::ClassifyUploadRequest| match message.payload {
            Some(Payload::Chunk(chunk)) => Some(chunk),
            Some(Payload::Header(_)) | None => None,
        };
        let (input, _room) = spooled(parts, &mut stream, chunk).await?;
        let video = Video::Given(input);
        let answers = parts.serving.classify(&caller, &chosen.choices, video);
        let answers = counted(parts, answers.await?);
        Ok(Response::new(chosen.response(answers, &options)?))
    }

    type ClassifyFramesStream = frames::Answers;

    async fn classify_frames(
        &self,
        request: Request<Streaming<v1::ClassifyFramesRequest>>,
    ) -> Result<Response<Self::ClassifyFramesStream>, Status> {
        let answers = Box::pin(frames::classify_frames(self, request));
        answers.await.map(Response::new)
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        embed::embed(self, request).await.map(Response::new)
    }

    async fn embed_upload(
        &self,
        request: Request<Streaming<v1::EmbedUploadRequest>>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        embed::embed_upload(self, request).await.map(Response::new)
    }

    type ClassifyWindowsStream = windows::Messages;

    async fn classify_windows(
        &self,
        request: Request<v1::ClassifyWindowsRequest>,
    ) -> Result<Response<Self::ClassifyWindowsStream>, Status> {
        windows::classify_windows(self, request).await
    }

    type ClassifyWindowsUploadStream = windows::Messages;

    async fn classify_windows_upload(
        &self,
        request: Request<Streaming<v1::ClassifyWindowsUploadRequest>>,
    ) -> Result<Response<Self::ClassifyWindowsUploadStream>, Status> {
        Box::pin(windows::classify_windows_upload(self, request)).await
    }
}

/// When the answer of a request is no longer wanted.
pub(super) fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let deadline = request.extensions().get::<Deadline>();
    deadline.map(|Deadline(at)| at.into_std())
}

/// Caller of a classification, its priority and its deadline.
pub(super) fn caller(
    tenant: TenantId,
    deadline: Option<Instant>,
    priority: i32,
) -> Result<Caller, Status> {
    let class = match v1::Priority::try_from(priority) {
        Ok(v1::Priority::Unspecified | v1::Priority::Interactive) => Class::Interactive,
        Ok(v1::Priority::Batch) => Class::Batch,
        Err(_) => return Err(status::invalid("options.priority", "unknown")),
    };
    Ok(Caller {
        tenant,
        deadline,
        class,
        key: None,
    })
}

/// Returns what decides which version of a split answers; `None` when the caller does not say.
pub(super) fn request_key<T>(request: &Request<T>) -> Result<Option<Key>, Status> {
    let mut given = request.metadata().get_all(KEY).iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let bytes = key.as_encoded_bytes();
    if !(1..=KEY_BYTES).contains(&bytes.len()) || given.next().is_some() {
        let problem = format!("expected one value of 1 to {KEY_BYTES} bytes");
        return Err(status::invalid(KEY, problem));
    }
    Ok(Some(Key::of("key", &[bytes])))
}

/// Counts the classifications among the answers.
fn counted(parts: &Parts, answers: Answers) -> Answers {
    for answer in answers.iter().flatten() {
        let took = answer.queue + answer.device;
        parts.metrics.classified(&answer.version, took);
    }
    answers
}

/// Reads the video of a stream whose header was read. Returns it with the room that it takes for as long as it is held.
pub(super) async fn spooled<M>(
    parts: &Parts,
    stream: &mut Streaming<M>,
    chunk: impl Fn(M) -> Option<Bytes>,
) -> Result<(Input, Room), Status> {
    let limit = parts.library.config().upload_bytes;
    let mut spool = Spool::new(&parts.pools, parts.spool.clone(), limit).await?;
    while let Some(message) = next(stream).await? {
        let Some(chunk) = chunk(message) else {
            return Err(status::stream("chunks have to follow the header"));
        };
        spool.write(checked(chunk)?).await?;
    }
    Ok(spool.into_input())
}

/// Returns the errors when every choice has one, else `None`.
fn all_failed(checked: Vec<Result<(), serving::Error>>) -> Option<Answers> {
    let failed = |checked: Result<(), serving::Error>| checked.err().map(Err);
    checked.into_iter().map(failed).collect()
}

/// The tasks of a request.
pub(super) struct Chosen {
    pub(super) choices: Vec<Choice>,
    /// Whether the answer has a result for each task.
    pub(super) are_many: bool,
}

impl Chosen {
    pub(super) fn new(
        caller: &Caller,
        task: &str,
        tasks: &[String],
        options: &v1::ClassifyOptions,
    ) -> Result<Self, Status> {
        let is_share = |share: &f64| (0.0..=1.0).contains(share);
        if let Some(below) = options.unknown_below.filter(|below| !is_share(below)) {
            let problem = format!("expected 0 to 1, got {below}");
            return Err(status::invalid("options.unknown_below", problem));
        }
        if let Some(threshold) = options.threshold.filter(|own| !is_share(own)) {
            let problem = format!("expected 0 to 1, got {threshold}");
            return Err(status::invalid("options.threshold", problem));
        }
        if tasks.is_empty() {
            let choice = choice(caller, task, &options.version)?;
            return Ok(Self {
                choices: vec![choice],
                are_many: false,
            });
        }
        let refuse = |problem: String| Err(status::invalid("tasks", problem));
        if !task.is_empty() {
            return refuse("either task or tasks".into());
        }
        if tasks.len() > TASKS {
            return refuse(format!("at most {TASKS}, got {}", tasks.len()));
        }
        if !options.version.is_empty() {
            let problem = "not with tasks, whose serving versions answer";
            return Err(status::invalid("options.version", problem));
        }
        let mut choices = Vec::with_capacity(tasks.len());
        let mut known = BTreeSet::new();
        for (place, name) in tasks.iter().enumerate() {
            let field = format!("tasks[{place}]");
            let task = names::task(name, &field)?;
            if !known.insert(task.clone()) {
                return Err(status::invalid(&field, format!("{name} comes twice")));
            }
            let version = None;
            choices.push(Choice { task, version });
        }
        let are_many = true;
        Ok(Self { choices, are_many })
    }

    /// Refuses tasks that the caller may not use.
    pub(super) fn check(&self, allowed: &Allowed) -> Result<(), Status> {
        let mut tasks = self.choices.iter().map(|choice| &choice.task);
        tasks.try_for_each(|task| allowed.check(Some(task)))
    }

    fn response(
        &self,
        answers: Answers,
        options: &v1::ClassifyOptions,
    ) -> Result<v1::ClassifyResponse, Status> {
        let mut results = Vec::with_capacity(answers.len());
        // What is away for all tasks is the call's own status, which gRPC retries.
        let mut away = None;
        for (choice, answer) in self.choices.iter().zip(answers) {
            let task = format!("tasks/{}", choice.task);
            results.push(match answer {
                Ok(answer) => predictions(task, answer, options),
                Err(error) if !self.are_many => return Err(error.into()),
                Err(error) => {
                    let status = Status::from(error);
                    let error = Some(told(&status));
                    away = Some(status).filter(|status| status.code() == Code::Unavailable);
                    v1::TaskPredictions {
                        task,
                        error,
                        ..Default::default()
                    }
                }
            });
        }
        let is_away = |result: &v1::TaskPredictions| {
            let error = result.error.as_ref();
            error.is_some_and(|error| error.code == i32::from(Code::Unavailable))
        };
        match away {
            Some(status) if results.iter().all(is_away) => Err(status),
            _ if self.are_many => Ok(v1::ClassifyResponse {
                results,
                ..Default::default()
            }),
            _ => Ok(alone(results.pop().unwrap_or_default())),
        }
    }
}

/// The answer of the only task.
fn alone(only: v1::TaskPredictions) -> v1::ClassifyResponse {
    v1::ClassifyResponse {
        version: only.version,
        predictions: only.predictions,
        views: only.views,
        frames: only.frames,
        timings: only.timings,
        confidence: only.confidence,
        unknown: only.unknown,
        results: Vec::new(),
    }
}

/// A task and the version of it that is named, if any is.
fn choice(caller: &Caller, task: &str, version: &str) -> Result<Choice, Status> {
    let task = names::task(task, "task")?;
    let version = match version {
        "" => None,
        name => {
            let field = "options.version";
            Some(names::version_of(&caller.tenant, &task, name, field)?)
        }
    };
    Ok(Choice { task, version })
}

/// Converts a status to an error beside the answers of other tasks.
pub(super) fn told(status: &Status) -> v1::TaskError {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    v1::TaskError {
        code: status.code().into(),
        reason: reason.unwrap_or_default(),
        message: status.message().to_owned(),
        retry_delay: delay.map(of_duration),
    }
}

/// The answer of a task as the API shows it.
pub(super) fn predictions(
    task: String,
    answer: Answer,
    options: &v1::ClassifyOptions,
) -> v1::TaskPredictions {
    let count = match usize::try_from(options.top_k) {
        Ok(0) => TOP_K,
        Ok(count) => count,
        Err(_) => usize::MAX,
    };
    let labels = answer.labels.as_slice();
    let prediction = |(index, score): (usize, f64)| v1::Prediction {
        label: labels[index].clone(),
        label_index: index as u32,
        score: score as f32,
        selected: answer.selects(index, options.threshold),
    };
    let best = answer.scores.best(count);
    let predictions = best.into_iter().map(prediction).collect();
    let confidence = answer.confidence();
    let unknown = answer.is_unknown(options.unknown_below, options.threshold);
    let views = answer.scores.views.iter().filter(|_| options.per_view);
    let view = |scores: &Vec<f64>| v1::ViewScores {
        scores: scores.iter().map(|&score| score as f32).collect(),
    };
    v1::TaskPredictions {
        task,
        version: answer.version.to_string(),
        predictions,
        views: views.map(view).collect(),
        frames: answer.frames.into_iter().map(frame).collect(),
        timings: Some(v1::Timings {
            decode: Some(of_duration(answer.decode)),
            queue: Some(of_duration(answer.queue)),
            device: Some(of_duration(answer.device)),
        }),
        error: None,
        confidence,
        unknown,
    }
}

/// A sampled frame as the API shows it.
pub(super) fn frame(frame: SampledFrame) -> v1::SampledFrame {
    v1::SampledFrame {
        index: frame.index,
        time: Some(of_duration(frame.time)),
    }
}
