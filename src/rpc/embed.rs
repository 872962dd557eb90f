//! Embed and EmbedUpload: a video and a version, or the bare backbone, give features.
//!
//! Invariant: conversion only; [`crate::serving`] defines what features are.

use half::f16;
use tonic::{Request, Status, Streaming};

use super::auth::Allowed;
use super::classify::{caller, deadline, frame, spooled};
use super::convert::names;
use super::convert::spec::{below, of_duration, sampling};
use super::uploads::next;
use super::{Api, Parts, status};
use crate::proto::v1;
use crate::serving::{Caller, Choice, Embedding, FeatureRequest, Subject, Video};
use crate::spec::AdapterConfig;
use crate::video::Input;

/// Answers Embed.
pub(super) async fn embed(
    api: &Api,
    request: Request<v1::EmbedRequest>,
) -> Result<v1::EmbedResponse, Status> {
    use v1::embed_request::Source;
    let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
    let (parts, tenant, embed) = api.enter(request)?;
    let options = embed.options.unwrap_or_default();
    let caller = caller(tenant, deadline, options.priority)?;
    let shape = Shape::new(parts, &caller, (&embed.task, &embed.version), &options)?;
    shape.check(&allowed)?;
    let video = match embed.source {
        Some(Source::Video(name)) => Video::Stored(names::video(&name, "video")?),
        Some(Source::Content(bytes)) => Video::Given(Input::Bytes(bytes)),
        None => return Err(status::invalid("source", "required: video or content")),
    };
    let embedding = parts.serving.embed(&caller, &shape.wanted, video).await?;
    Ok(shape.response(parts, embedding))
}

/// Answers EmbedUpload.
pub(super) async fn embed_upload(
    api: &Api,
    request: Request<Streaming<v1::EmbedUploadRequest>>,
) -> Result<v1::EmbedResponse, Status> {
    use v1::embed_upload_request::Payload;
    let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
    let (parts, tenant, mut stream) = api.enter(request)?;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let options = header.options.unwrap_or_default();
    let caller = caller(tenant, deadline, options.priority)?;
    let shape = Shape::new(parts, &caller, (&header.task, &header.version), &options)?;
    shape.check(&allowed)?;
    // A wrong name is said before the video is sent; the version is read again when the video is there.
    parts.serving.check_embed(&caller, &shape.wanted).await?;
    let chunk = |message: v1::EmbedUploadRequest| match message.payload {
        Some(Payload::Chunk(chunk)) => Some(chunk),
        Some(Payload::Header(_)) | None => None,
    };
    let (input, _room) = spooled(parts, &mut stream, chunk).await?;
    let video = Video::Given(input);
    let embedding = parts.serving.embed(&caller, &shape.wanted, video).await?;
    Ok(shape.response(parts, embedding))
}

/// Features that a request asks for, and their form.
struct Shape {
    wanted: FeatureRequest,
    element: v1::ElementType,
    per_frame: bool,
}

impl Shape {
    fn new(
        parts: &Parts,
        caller: &Caller,
        (task, version): (&str, &str),
        options: &v1::EmbedOptions,
    ) -> Result<Self, Status> {
        let choice = match (task, version) {
            ("", "") => None,
            ("", version) => {
                let version = names::version(&caller.tenant, version, "version")?;
                let task = version.task.clone();
                let version = Some(version);
                Some(Choice { task, version })
            }
            (task, version) => {
                let task = names::task(task, "task")?;
                let version = (!version.is_empty())
                    .then(|| names::version_of(&caller.tenant, &task, version, "version"));
                let version = version.transpose()?;
                Some(Choice { task, version })
            }
        };
        let given = sampling(options.sampling, "options.sampling")?;
        let checked = parts.geometry.check(&AdapterConfig::LINEAR_PROBE, &given);
        checked.map_err(below("options"))?;
        let subject = match choice {
            None => Subject::Backbone(given),
            Some(choice) => Subject::Version(choice, options.sampling.map(|_| given)),
        };
        let element = v1::ElementType::try_from(options.r#type)
            .map_err(|_| status::invalid("options.type", "no such type"))?;
        let wanted = FeatureRequest {
            subject,
            final_norm: !options.before_final_norm,
            normalize: options.normalize,
        };
        Ok(Self {
            wanted,
            element,
            per_frame: options.per_frame,
        })
    }

    /// Refuses a task that the caller may not use.
    fn check(&self, allowed: &Allowed) -> Result<(), Status> {
        match &self.wanted.subject {
            Subject::Backbone(_) => allowed.check(None),
            Subject::Version(choice, _) => allowed.check(Some(&choice.task)),
        }
    }

    fn response(&self, parts: &Parts, embedding: Embedding) -> v1::EmbedResponse {
        let version = embedding.version.map(|version| version.to_string());
        let (views, width) = (&embedding.views, embedding.video.len());
        let count = views.first().map_or(0, |view| view.frames.len());
        let of_views = || {
            let rows: Vec<&[f32]> = views.iter().map(|view| &*view.pooled).collect();
            self.array(&[views.len(), width], &rows)
        };
        let of_frames = || {
            let rows = views.iter().flat_map(|view| &view.frames);
            let rows: Vec<&[f32]> = rows.map(Vec::as_slice).collect();
            self.array(&[views.len(), count, width], &rows)
        };
        v1::EmbedResponse {
            version: version.unwrap_or_default(),
            features: Some(self.array(&[width], &[&embedding.video])),
            views: self.per_frame.then(of_views),
            frames: self.per_frame.then(of_frames),
            sampled: embedding.frames.into_iter().map(frame).collect(),
            backbone_digest: parts.about.digest.0.to_vec().into(),
            timings: Some(v1::Timings {
                decode: Some(of_duration(embedding.decode)),
                queue: Some(of_duration(embedding.queue)),
                device: Some(of_duration(embedding.device)),
            }),
        }
    }

    /// Converts rows to one array of little-endian numbers, row after row.
    fn array(&self, shape: &[usize], rows: &[&[f32]]) -> v1::Array {
        use v1::ElementType;
        let values = rows.iter().copied().flatten();
        let (element, data) = match self.element {
            ElementType::Unspecified | ElementType::F32 => {
                let bytes = values.flat_map(|value| value.to_le_bytes()).collect();
                (ElementType::F32, bytes)
            }
            ElementType::F16 => {
                let bytes = |&value: &f32| f16::from_f32(value).to_le_bytes();
                (
                    ElementType::F16,
                    values.flat_map(bytes).collect::<Vec<u8>>(),
                )
            }
        };
        v1::Array {
            r#type: element.into(),
            shape: shape.iter().map(|&size| size as u32).collect(),
            data: data.into(),
        }
    }
}
