//! ClassificationService: a video and a task give scores.
//!
//! Invariant: conversion only; what a classification is, [`crate::serving`] knows.

use std::time::Instant;

use tonic::{Request, Response, Status, Streaming};

use super::convert::names;
use super::convert::spec::of_duration;
use super::spool::Spool;
use super::stack::deadline::Deadline;
use super::uploads::{checked, next};
use super::{Api, status};
use crate::fair::Class;
use crate::ids::TenantId;
use crate::proto::v1;
use crate::proto::v1::classification_service_server::ClassificationService;
use crate::serving::{Answer, Question, SampledFrame, Video};
use crate::video::Input;

/// Labels that are returned when the caller does not say.
const TOP_K: usize = 5;

#[tonic::async_trait]
impl ClassificationService for Api {
    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_request::Source;
        let deadline = deadline(&request);
        let (parts, tenant, classify) = self.enter(request)?;
        let options = classify.options.unwrap_or_default();
        let question = question(tenant, &classify.task, &options, deadline)?;
        let video = match classify.source {
            Some(Source::Video(name)) => Video::Stored(names::video(&name, "video")?),
            Some(Source::Content(bytes)) => Video::Given(Input::Bytes(bytes)),
            None => return Err(status::invalid("source", "required: video or content")),
        };
        let answer = parts.serving.classify(&question, video).await?;
        parts.metrics.classified(&answer.version);
        Ok(Response::new(response(answer, &options)))
    }

    async fn classify_upload(
        &self,
        request: Request<Streaming<v1::ClassifyUploadRequest>>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_upload_request::Payload;
        let deadline = deadline(&request);
        let (parts, tenant, mut stream) = self.enter(request)?;
        let first = next(&mut stream).await?.and_then(|first| first.payload);
        let Some(Payload::Header(header)) = first else {
            return Err(status::stream("the first message has to be the header"));
        };
        let options = header.options.unwrap_or_default();
        let question = question(tenant, &header.task, &options, deadline)?;
        // A wrong name is said before the video is sent; the version is read again when the video is there.
        parts.serving.check(&question).await?;
        let limit = parts.library.config().upload_bytes;
        let mut spool = Spool::new(&parts.pools, parts.spool.clone(), limit).await?;
        while let Some(message) = next(&mut stream).await? {
            let Some(Payload::Chunk(chunk)) = message.payload else {
                return Err(status::stream("chunks have to follow the header"));
            };
            spool.write(checked(chunk)?).await?;
        }
        let (input, _room) = spool.into_input();
        let video = Video::Given(input);
        let answer = parts.serving.classify(&question, video).await?;
        parts.metrics.classified(&answer.version);
        Ok(Response::new(response(answer, &options)))
    }
}

fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let deadline = request.extensions().get::<Deadline>();
    deadline.map(|Deadline(at)| at.into_std())
}

fn question(
    tenant: TenantId,
    task: &str,
    options: &v1::ClassifyOptions,
    deadline: Option<Instant>,
) -> Result<Question, Status> {
    let task = names::task(task, "task")?;
    let version = match options.version.as_str() {
        "" => None,
        name => Some(names::version_of(&tenant, &task, name, "options.version")?),
    };
    Ok(Question {
        tenant,
        task,
        version,
        deadline,
        class: class(options.priority)?,
    })
}

fn class(priority: i32) -> Result<Class, Status> {
    match v1::Priority::try_from(priority) {
        Ok(v1::Priority::Unspecified | v1::Priority::Interactive) => Ok(Class::Interactive),
        Ok(v1::Priority::Batch) => Ok(Class::Batch),
        Err(_) => Err(status::invalid("options.priority", "unknown")),
    }
}

fn response(answer: Answer, options: &v1::ClassifyOptions) -> v1::ClassifyResponse {
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
    };
    let views = answer.scores.views.iter().filter(|_| options.per_view);
    let view = |scores: &Vec<f64>| v1::ViewScores {
        scores: scores.iter().map(|&score| score as f32).collect(),
    };
    v1::ClassifyResponse {
        version: answer.version.to_string(),
        predictions: answer
            .scores
            .best(count)
            .into_iter()
            .map(prediction)
            .collect(),
        views: views.map(view).collect(),
        frames: answer.frames.into_iter().map(frame).collect(),
        timings: Some(v1::Timings {
            decode: Some(of_duration(answer.decode)),
            queue: Some(of_duration(answer.queue)),
            device: Some(of_duration(answer.device)),
        }),
    }
}

fn frame(frame: SampledFrame) -> v1::SampledFrame {
    v1::SampledFrame {
        index: frame.index,
        time: Some(of_duration(frame.time)),
    }
}
