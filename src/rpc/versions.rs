//! The streams of versions: a file comes in and becomes one, and one goes out as a file.
//!
//! Invariant: a chunk is handed on before the next one is read; a file is checked, off the async threads, before a version of it exists.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, stream};
use sha2::{Digest as _, Sha256};
use tonic::{Status, Streaming};

use super::convert::{names, records, sha256, spec};
use super::spool::{Held, Spool};
use super::uploads::{checked, next};
use super::{CHUNK_BYTES, Parts, status};
use crate::ids::{RequestId, TaskId, TenantId, VersionRef};
use crate::metadata::{NewTask, TaskRecord, VersionManifest, VersionRecord};
use crate::model::exchange::{self, Imported};
use crate::model::load::Archive;
use crate::proto::v1;
use crate::registry::{Import, manifest_of};
use crate::spec::{ClipSampling, Digest, Evaluation, LabelSet, Precision};

/// How often an import holds its tensors at once: as they were read, as a set, as a file without and with its manifest, and on their way to the store.
const IMPORT_COPIES: u64 = 5;

/// A header and chunks.
pub(super) type Exported =
    Pin<Box<dyn Stream<Item = Result<v1::ExportAdapterVersionResponse, Status>> + Send>>;

/// What an import's header says.
struct Wanted {
    task: TaskId,
    labels: Option<LabelSet>,
    sha256: Option<Digest>,
    backbone: Option<Digest>,
    etag: Option<String>,
    request: Option<RequestId>,
    create: bool,
    sampling: Option<ClipSampling>,
}

impl Wanted {
    fn new(header: v1::ImportAdapterVersionHeader) -> Result<Self, Status> {
        let labels = match header.labels.as_slice() {
            [] => None,
            _ => {
                let labels = LabelSet::new(header.labels);
                Some(labels.map_err(|bad| status::invalid("header.labels", bad.problem))?)
            }
        };
        let sampling = header
            .sampling
            .map(|own| spec::sampling(Some(own), "header.sampling"));
        Ok(Self {
            task: names::task(&header.parent, "header.parent")?,
            labels,
            sha256: sha256(&header.sha256, "header.sha256")?,
            backbone: sha256(&header.backbone_digest, "header.backbone_digest")?,
            etag: (!header.etag.is_empty()).then_some(header.etag),
            request: names::request(&header.request_id)?,
            create: header.create_task,
            sampling: sampling.transpose()?,
        })
    }
}

/// ImportAdapterVersion.
pub(super) async fn import(
    parts: &Parts,
    tenant: &TenantId,
    mut stream: Streaming<v1::ImportAdapterVersionRequest>,
) -> Result<VersionRecord, Status> {
    use v1::import_adapter_version_request::Payload;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let wanted = Wanted::new(header)?;
    // A wrong name or a wrong backbone is said before the file is sent.
    let task = find_task(parts, tenant, &wanted).await?;
    let resident = parts.backbone.digest();
    if let Some(said) = wanted.backbone.filter(|said| *said != resident) {
        return Err(exchange::Error::Backbone {
            expected: resident,
            got: said,
        }
        .into());
    }
    let limit = parts.library.config().upload_bytes;
    let mut spool = Spool::new(&parts.pools, parts.spool.clone(), limit).await?;
    let mut sha = Sha256::new();
    while let Some(message) = next(&mut stream).await? {
        let Some(Payload::Chunk(chunk)) = message.payload else {
            return Err(status::stream("chunks have to follow the header"));
        };
        let chunk = checked(chunk)?;
        sha.update(&chunk);
        spool.write(chunk).await?;
    }
    let got = Digest(sha.finalize().into());
    if let Some(expected) = wanted.sha256.filter(|expected| *expected != got) {
        return Err(status::sha256_mismatch(expected, got));
    }
    let memory = &parts.pools.memory;
    // A large file waits until it has the pool for itself: it may hold a whole backbone, of which nothing is read into memory at once.
    let copies = IMPORT_COPIES
        .saturating_mul(spool.size())
        .min(memory.bytes());
    let (held, _room) = spool.into_held();
    let _memory = memory.take(copies).await?;
    let file = read(parts, held).await?;
    if let Some(manifest) = &file.manifest
        && manifest.backbone_digest != resident
    {
        let got = manifest.backbone_digest;
        return Err(exchange::Error::Backbone {
            expected: resident,
            got,
        }
        .into());
    }
    let task = match task {
        Some(task) => task,
        None => create_task(parts, tenant, &wanted, &file).await?,
    };
    let import = prepare(parts, wanted, &task, file).await?;
    Ok(parts.registry.import(tenant, &task.id, import).await?)
}

/// The task; `None` when it is to be created.
async fn find_task(
    parts: &Parts,
    tenant: &TenantId,
    wanted: &Wanted,
) -> Result<Option<TaskRecord>, Status> {
    match parts.registry.get_task(tenant, &wanted.task).await {
        Ok(task) => Ok(Some(task)),
        Err(error) if error.is_missing() && wanted.create => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file that was read, and what it says of itself.
struct File {
    set: Imported,
    manifest: Option<VersionManifest>,
}

async fn read(parts: &Parts, held: Held) -> Result<File, Status> {
    let backbone = parts.backbone.clone();
    let work = move || {
        let label = exchange::label();
        let archive = match held {
            Held::Memory(bytes) => Archive::in_memory(&label.to_string_lossy(), bytes),
            Held::File(file) => Archive::unnamed(label, &file),
        };
        let archive = archive.map_err(exchange::Error::from)?;
        let set = exchange::read(archive, backbone.config(), backbone.digest())?;
        let inside: BTreeMap<String, String>;
        let metadata = match set.texts.get(exchange::MANIFEST_KEY) {
            Some(text) => {
                let wrong = |error: serde_json::Error| {
                    status::invalid("payload", format!("its manifest: {error}"))
                };
                inside = serde_json::from_str(text).map_err(wrong)?;
                &inside
            }
            None => &set.texts,
        };
        let manifest = manifest_of(metadata).map_err(|bad| {
            let problem = format!("its manifest: {}: {}", bad.field, bad.problem);
            status::invalid("payload", problem)
        })?;
        Ok(File { set, manifest })
    };
    blocking(work).await
}

async fn create_task(
    parts: &Parts,
    tenant: &TenantId,
    wanted: &Wanted,
    file: &File,
) -> Result<TaskRecord, Status> {
    let said = file.manifest.as_ref();
    let own = match said.map(|manifest| manifest.sampling).or(wanted.sampling) {
        Some(sampling) => sampling,
        None => spec::sampling(None, "header.sampling")?,
    };
    let adapter = said.map_or(file.set.adapter, |manifest| manifest.adapter);
    let geometry = parts.backbone.config().geometry();
    geometry
        .check(&adapter, &own)
        .map_err(spec::below("task"))?;
    let task = NewTask {
        id: wanted.task.clone(),
        display_name: String::new(),
        adapter,
        sampling: own,
        auto_serve: true,
    };
    match parts.registry.create_task(tenant, task, None).await {
        Ok(task) => Ok(task),
        // Somebody was faster: then it is checked like any other.
        Err(error) => match parts.registry.get_task(tenant, &wanted.task).await {
            Ok(task) => Ok(task),
            Err(_) => Err(error.into()),
        },
    }
}

/// Checks the file against the task, and what the version will say.
async fn prepare(
    parts: &Parts,
    wanted: Wanted,
    task: &TaskRecord,
    file: File,
) -> Result<Import, Status> {
    let File { set, manifest } = file;
    let config = parts.backbone.config();
    if !Imported::is_same_shape(&set.adapter, &task.adapter, config.layers) {
        let problem = format!(
            "the file has {:?}, the task is of {:?}",
            set.adapter, task.adapter
        );
        return Err(status::invalid("payload", problem));
    }
    let classes = set.classes;
    let own = manifest.as_ref().map(|manifest| manifest.labels.clone());
    let labels = match wanted.labels.or(own) {
        Some(labels) => labels,
        None => LabelSet::new((0..classes).map(|row| row.to_string()).collect())
            .map_err(|bad| status::invalid("header.labels", bad.problem))?,
    };
    if labels.len() != classes {
        let problem = format!("{} labels for a head of {classes} rows", labels.len());
        return Err(status::invalid("header.labels", problem));
    }
    if let Some(own) = &manifest
        && (own.sampling != task.sampling
            || !Imported::is_same_shape(&own.adapter, &set.adapter, config.layers))
    {
        let problem =
            "the file's manifest has another sampling or adapter configuration than the task";
        return Err(status::invalid("payload", problem));
    }
    let backbone = parts.backbone.clone();
    let adapter = manifest.as_ref().map_or(task.adapter, |own| own.adapter);
    let (parameters, tensors) = blocking(move || {
        let set = set
            .into_set(backbone.config(), adapter)
            .map_err(exchange::Error::from)?;
        let tensors = set
            .to_safetensors(BTreeMap::new())
            .map_err(exchange::Error::from)?;
        Ok((set.parameters(), tensors))
    })
    .await?;
    let fresh = || VersionManifest {
        labels: labels.clone(),
        adapter: task.adapter,
        sampling: task.sampling,
        backbone_digest: parts.backbone.digest(),
        tensors_sha256: Digest([0; 32]),
        parameters,
        precision: Precision::F32,
        job: String::new(),
        dataset_digest: Digest([0; 32]),
        parent: None,
        evaluation: Evaluation::default(),
    };
    let mut manifest = manifest.unwrap_or_else(fresh);
    manifest.parameters = parameters;
    manifest.labels = labels;
    Ok(Import {
        manifest,
        tensors,
        etag: wanted.etag,
        request: wanted.request,
    })
}

/// ExportAdapterVersion.
pub(super) async fn export(
    parts: &Parts,
    version: &VersionRef,
    format: i32,
) -> Result<Exported, Status> {
    let format = v1::ExportFormat::try_from(format)
        .map_err(|_| status::invalid("format", format!("unknown: {format}")))?;
    let loaded = parts.registry.load(version).await?;
    let record = (*loaded.record).clone();
    let bytes = match format {
        v1::ExportFormat::Unspecified | v1::ExportFormat::Safetensors => loaded.bytes,
        v1::ExportFormat::Pytorch => {
            let stored = loaded.bytes;
            let torch = blocking(move || exchange::to_torch(&stored).map_err(status::internal));
            torch.await?.into()
        }
    };
    let hashed = bytes.clone();
    let sha256: [u8; 32] = blocking(move || Ok(Sha256::digest(&hashed).into())).await?;
    use v1::export_adapter_version_response::Payload;
    let header = Payload::Header(v1::ExportAdapterVersionHeader {
        version: Some(records::of_version(record)),
        size_bytes: spec::signed(bytes.len() as u64),
        sha256: sha256.to_vec().into(),
    });
    let message = |payload| {
        Ok(v1::ExportAdapterVersionResponse {
            payload: Some(payload),
        })
    };
    let chunks = (0..bytes.len()).step_by(CHUNK_BYTES).map(move |begin| {
        let end = (begin + CHUNK_BYTES).min(bytes.len());
        Payload::Chunk(Bytes::slice(&bytes, begin..end))
    });
    Ok(Box::pin(stream::iter(
        std::iter::once(header).chain(chunks).map(message),
    )))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(status::internal)?
}
