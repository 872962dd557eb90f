//! The streams of versions: a file comes in and becomes one, and one goes out as a file.
//!
//! Invariant: conversion only, and a chunk is handed on before the next one is read; [`crate::exchange`] defines what a file has to be.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, stream};
use tonic::{Status, Streaming};

use super::convert::{names, records, sha256, spec};
use super::spool::{Held, Spool};
use super::uploads::{checked, next};
use super::{CHUNK_BYTES, Parts, status};
use crate::exchange::{self, Contents, Format, ImportRequest, Target};
use crate::ids::{TenantId, VersionRef};
use crate::proto::v1;
use crate::spec::{LabelSet, Scope, Scopes, normal_label};

/// How often an import holds its tensors at once: as they were read, as a set, as a file without and with its manifest, and on their way to the store.
const IMPORT_COPIES: u64 = 5;

/// How often an export holds its tensors at once: as they are stored, and as the file that is sent.
const EXPORT_COPIES: u64 = 2;

/// Stream of an export's header and chunks.
pub(super) type Exported =
    Pin<Box<dyn Stream<Item = Result<v1::ExportAdapterVersionResponse, Status>> + Send>>;

/// Answers ImportAdapterVersion. A task is made with the version only for a caller who may create tasks.
pub(super) async fn import(
    parts: &Parts,
    tenant: &TenantId,
    may_create: bool,
    mut stream: Streaming<v1::ImportAdapterVersionRequest>,
) -> Result<v1::AdapterVersion, Status> {
    use v1::import_adapter_version_request::Payload;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let wanted = wanted(header)?;
    // A wrong name or a wrong backbone is said before the file is sent.
    let target = parts.exchange.begin(tenant, &wanted).await?;
    if matches!(target, Target::New) && !may_create {
        return Err(status::scope_missing(Scopes::of(&[Scope::Write])));
    }
    let limit = parts.library.config().upload_bytes;
    let mut spool = Spool::new(&parts.pools, parts.spool.clone(), limit).await?;
    while let Some(message) = next(&mut stream).await? {
        let Some(Payload::Chunk(chunk)) = message.payload else {
            return Err(status::stream("chunks have to follow the header"));
        };
        spool.write(checked(chunk)?).await?;
    }
    let memory = &parts.pools.memory;
    // A large file waits until it has the pool for itself: it may hold a whole backbone, of which nothing is read into memory at once.
    let copies = IMPORT_COPIES
        .saturating_mul(spool.size())
        .min(memory.bytes());
    let (held, _room) = spool.into_held();
    let _memory = memory.take(copies).await?;
    let contents = match held {
        Held::Memory(bytes) => Contents::Memory(bytes),
        Held::File(file) => Contents::File(file),
    };
    let exchange = &parts.exchange;
    let imported = exchange.import(tenant, wanted, target, contents).await;
    let made = imported.map_err(|error| {
        let is_of_header = matches!(error, exchange::Error::Registry(_));
        let status = Status::from(error);
        if is_of_header {
            status::below("header")(status)
        } else {
            status
        }
    })?;
    Ok(v1::AdapterVersion {
        passed_over: made.passed_over,
        ..records::of_version(made.record)
    })
}

fn wanted(header: v1::ImportAdapterVersionHeader) -> Result<ImportRequest, Status> {
    let labels = match header.labels.as_slice() {
        [] => None,
        _ => Some(labels(&header.labels)?),
    };
    Ok(ImportRequest {
        task: names::task(&header.parent, "header.parent")?,
        labels,
        label_kind: match header.label_kind {
            0 => None,
            number => Some(spec::label_kind(number, "header.label_kind")?),
        },
        sha256: sha256(&header.sha256, "header.sha256")?,
        backbone: sha256(&header.backbone_digest, "header.backbone_digest")?,
        etag: (!header.etag.is_empty()).then_some(header.etag),
        request: names::request_of(&header.request_id, "header.request_id")?,
        create: header.create_task,
        sampling: match header.sampling {
            None => None,
            given @ Some(_) => Some(spec::sampling(given, "header.sampling")?),
        },
        default_sampling: spec::sampling(None, "header.sampling")?,
    })
}

/// Labels in the form in which labels are compared; each problem names its place.
fn labels(given: &[String]) -> Result<LabelSet, Status> {
    let mut labels = Vec::with_capacity(given.len());
    for (row, label) in given.iter().enumerate() {
        let field = || format!("header.labels[{row}]");
        let label = normal_label(label).map_err(|bad| status::invalid(&field(), bad.problem))?;
        labels.push(label);
    }
    LabelSet::new(labels).map_err(|bad| status::invalid("header.labels", bad.problem))
}

/// Answers ExportAdapterVersion.
pub(super) async fn export(
    parts: &Parts,
    version: &VersionRef,
    format: i32,
) -> Result<Exported, Status> {
    let format = match v1::ExportFormat::try_from(format) {
        Ok(v1::ExportFormat::Unspecified | v1::ExportFormat::Safetensors) => Format::Safetensors,
        Ok(v1::ExportFormat::Pytorch) => Format::Pytorch,
        Err(_) => return Err(status::invalid("format", format!("unknown: {format}"))),
    };
    let stored = parts.registry.get_version(version).await?.size_bytes;
    let memory = &parts.pools.memory;
    let copies = EXPORT_COPIES.saturating_mul(stored).min(memory.bytes());
    // Held until the last chunk is on its way, or the caller has left.
    let share = memory.take(copies).await?;
    let exported = parts.exchange.export(version, format).await?;
    let bytes = exported.bytes;
    use v1::export_adapter_version_response::Payload;
    let header = Payload::Header(v1::ExportAdapterVersionHeader {
        version: Some(records::of_version(exported.record)),
        size_bytes: spec::signed(bytes.len() as u64),
        sha256: exported.sha256.0.to_vec().into(),
    });
    let message = |payload| {
        Ok(v1::ExportAdapterVersionResponse {
            payload: Some(payload),
        })
    };
    let chunks = (0..bytes.len()).step_by(CHUNK_BYTES).map(move |begin| {
        let _held = &share;
        let end = (begin + CHUNK_BYTES).min(bytes.len());
        Payload::Chunk(Bytes::slice(&bytes, begin..end))
    });
    Ok(Box::pin(stream::iter(
        std::iter::once(header).chain(chunks).map(message),
    )))
}
