//! A file on its way to a version: what it says, whether it fits, and what the version will say.
//!
//! Invariant: the manifest is checked before the tensors, so that a set of another backbone is refused for its backbone and not for its shape.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Error, Exchange, Result};
use crate::ids::{AdapterVersion, RequestId, TaskId, TenantId, VersionRef};
use crate::metadata::{NewTask, TaskRecord, VersionManifest};
use crate::model::exchange::{self, Imported};
use crate::model::load::Archive;
use crate::model::{Backbone, BackboneConfig};
use crate::registry::{Import, manifest_of};
use crate::spec::{
    AdapterConfig, ClipSampling, Digest, Evaluation, Invalid, LabelKind, LabelSet, Precision,
};

/// Characters of the text about an object that is passed over: its key and class are the file's words, of any length.
const PASSED_CHARS: usize = 300;

/// An import as its caller asks for it.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The task that gets the version.
    pub task: TaskId,
    /// Row i of the head is label i; what the file says when absent.
    pub labels: Option<LabelSet>,
    /// Whether the labels exclude one another; what the file says when absent.
    pub label_kind: Option<LabelKind>,
    /// What the file's sha256 has to be.
    pub sha256: Option<Digest>,
    /// The backbone that the file is of.
    pub backbone: Option<Digest>,
    /// When present, must be the task's.
    pub etag: Option<String>,
    /// For idempotency.
    pub request: Option<RequestId>,
    /// Whether the task is made when it is not there.
    pub create: bool,
    /// How clips are sampled; when given, what the task and the file say has to agree. A task that is made without it samples as the file says, else by
    /// `default_sampling`.
    pub sampling: Option<ClipSampling>,
    /// How clips of a task are sampled when nobody says.
    pub default_sampling: ClipSampling,
}

/// Labels of the version that serves or is about to.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The version.
    pub version: AdapterVersion,
    /// Labels of the version.
    pub labels: LabelSet,
}

/// Where an import goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// To a task that is there, and whose labels it keeps unless others are given.
    Task(Box<TaskRecord>, Option<Box<Serving>>),
    /// To a task that is made with the version.
    New,
}

/// The bytes of a file that came in.
#[derive(Debug)]
pub enum Contents {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file that has no name.
    File(Arc<File>),
}

/// The task, and whether the backbone that the caller says is the resident one.
pub(super) async fn begin(
    exchange: &Exchange,
    tenant: &TenantId,
    wanted: &ImportRequest,
) -> Result<Target> {
    let target = match exchange.registry.get_task(tenant, &wanted.task).await {
        Ok(task) => {
            check_sampling(wanted.sampling, &task)?;
            let serving = serving(exchange, &task).await?;
            Target::Task(Box::new(task), serving.map(Box::new))
        }
        Err(error) if error.is_missing() && wanted.create => Target::New,
        Err(error) => return Err(error.into()),
    };
    check_backbone(&exchange.backbone, wanted.backbone)?;
    Ok(target)
}

/// The labels that a task has: those of the version that serves or is about to.
async fn serving(exchange: &Exchange, task: &TaskRecord) -> Result<Option<Serving>> {
    let Some(version) = task.serving.or(task.desired) else {
        return Ok(None);
    };
    let own = VersionRef {
        tenant: task.tenant.clone(),
        task: task.id.clone(),
        version,
    };
    let record = exchange.registry.get_version(&own).await?;
    let labels = record.manifest.labels;
    Ok(Some(Serving { version, labels }))
}

/// Refuses a sampling that was given and is not the task's.
fn check_sampling(given: Option<ClipSampling>, task: &TaskRecord) -> Result<()> {
    let own = &task.sampling;
    match given {
        Some(given) if given != *own => {
            let id = &task.id;
            let problem = format!(
                "tasks/{id} takes {own}, the header says {given}; sampling cannot change: import into another task"
            );
            Err(Invalid::new("header.sampling", problem).into())
        }
        Some(_) | None => Ok(()),
    }
}

/// Reads a file and checks it against its task. Also returns what of the file was passed over.
pub(super) fn prepare(
    backbone: &Backbone,
    wanted: ImportRequest,
    target: Target,
    contents: Contents,
) -> Result<(Import, Vec<String>)> {
    let (archive, sha256) = open(contents, wanted.sha256)?;
    let passed_over = passed_over(&archive);
    let manifest = manifest(&archive)?;
    check_backbone(backbone, manifest.as_ref().map(|own| own.backbone_digest))?;
    let config = backbone.config();
    let set = exchange::read(archive, config, backbone.digest())?;
    let mut known = None;
    let (create, adapter, sampling) = match target {
        Target::Task(task, serving) => {
            check_shape(&set, manifest.as_ref(), &task, config)?;
            known = serving;
            let adapter = match is_chosen(&set, &task) {
                true => set.adapter,
                false => task.adapter,
            };
            (None, adapter, task.sampling)
        }
        Target::New => {
            let task = new_task(&wanted, &set, manifest.as_ref())?;
            task.adapter.validate().map_err(Error::Task)?;
            task.sampling.validate().map_err(Error::Task)?;
            let geometry = config.geometry();
            let fits = geometry.check(&task.adapter, &task.sampling);
            fits.map_err(Error::Task)?;
            let (adapter, sampling) = (task.adapter, task.sampling);
            (Some(task), adapter, sampling)
        }
    };
    let kind = label_kind(wanted.label_kind, manifest.as_ref())?;
    let given = wanted.labels.map(|labels| labels.of_kind(kind));
    let labels = labels(
        given.clone(),
        manifest.as_ref(),
        known.as_deref(),
        set.classes,
    )?;
    let labels = labels.of_kind(kind);
    let own = manifest.as_ref().map_or(adapter, |own| own.adapter);
    let file = set.into_file(config, own).map_err(exchange::Error::from)?;
    let (tensors, parameters) = file;
    let manifest = match manifest {
        Some(own) => VersionManifest {
            parameters,
            labels,
            ..own
        },
        None => VersionManifest {
            labels,
            adapter,
            sampling,
            backbone_digest: backbone.digest(),
            tensors_sha256: Digest([0; 32]),
            parameters,
            precision: Precision::F32,
            job: String::new(),
            dataset_digest: Digest([0; 32]),
            parent: None,
            evaluation: Evaluation::default(),
            calibration: None,
        },
    };
    let import = Import {
        manifest,
        tensors,
        create,
        etag: wanted.etag,
        request: wanted.request,
        sha256,
        labels: given,
    };
    Ok((import, passed_over))
}

/// Returns the objects of a file that are not read although somebody may miss them.
fn passed_over(archive: &Archive) -> Vec<String> {
    let torch = archive.torch();
    let passed = torch.iter().flat_map(|torch| &torch.passed);
    let short = |text: String| text.chars().take(PASSED_CHARS).collect();
    passed.map(|object| short(object.to_string())).collect()
}

fn check_backbone(backbone: &Backbone, got: Option<Digest>) -> Result<()> {
    let expected = backbone.digest();
    match got {
        Some(got) if got != expected => Err(Error::Backbone { expected, got }),
        Some(_) | None => Ok(()),
    }
}

fn open(contents: Contents, promised: Option<Digest>) -> Result<(Archive, Digest)> {
    let got = digest(&contents)?;
    if let Some(expected) = promised
        && got != expected
    {
        return Err(Error::Sha256Mismatch { expected, got });
    }
    let label = exchange::label();
    let archive = match contents {
        Contents::Memory(bytes) => Archive::in_memory(&label.to_string_lossy(), bytes),
        Contents::File(file) => Archive::unnamed(label, &file),
    };
    Ok((archive.map_err(exchange::Error::from)?, got))
}

fn digest(contents: &Contents) -> Result<Digest> {
    let mut sha = Sha256::new();
    match contents {
        Contents::Memory(bytes) => sha.update(bytes),
        Contents::File(file) => {
            let mut piece = vec![0; 1 << 20];
            let mut offset = 0;
            loop {
                let read = file.read_at(&mut piece, offset).map_err(Error::Read)?;
                if read == 0 {
                    break;
                }
                sha.update(&piece[..read]);
                offset += read as u64;
            }
        }
    }
    Ok(Digest(sha.finalize().into()))
}

/// What the file says of itself.
fn manifest(archive: &Archive) -> Result<Option<VersionManifest>> {
    let wrong = |problem: String| Invalid::new("payload", format!("its manifest: {problem}"));
    let texts = exchange::texts(archive);
    let inside: BTreeMap<String, String>;
    let metadata = match texts.get(exchange::MANIFEST_KEY) {
        Some(text) => {
            inside = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            &inside
        }
        None => &texts,
    };
    let manifest = manifest_of(metadata);
    Ok(manifest.map_err(|bad| wrong(format!("{}: {}", bad.field, bad.problem)))?)
}

fn check_shape(
    set: &Imported,
    manifest: Option<&VersionManifest>,
    task: &TaskRecord,
    backbone: &BackboneConfig,
) -> Result<()> {
    let is_same =
        |a: &AdapterConfig, b: &AdapterConfig| Imported::is_same_shape(a, b, backbone.layers);
    if !is_same(&set.adapter, &task.adapter) && !is_chosen(set, task) {
        let problem = format!("the file has {}, the task {}", set.adapter, task.adapter);
        return Err(Invalid::new("payload", problem).into());
    }
    let Some(own) = manifest else { return Ok(()) };
    if own.sampling != task.sampling {
        let problem = format!(
            "the version in the file takes {}, the task {}; sampling cannot change: import into another task",
            own.sampling, task.sampling
        );
        return Err(Invalid::new("payload", problem).into());
    }
    if !is_same(&own.adapter, &set.adapter) {
        let problem = format!(
            "the file's manifest says {}, its tensors are {}",
            own.adapter, set.adapter
        );
        return Err(Invalid::new("payload", problem).into());
    }
    Ok(())
}

/// Whether a file has a head alone, and goes to a task whose jobs choose between its adapters and such heads.
fn is_chosen(set: &Imported, task: &TaskRecord) -> bool {
    task.auto_head && !set.adapter.has_sites()
}

/// Whether nobody named the labels: they are the rows' numbers.
fn is_numbered(labels: &LabelSet) -> bool {
    let mut rows = labels.as_slice().iter().enumerate();
    rows.all(|(row, label)| *label == row.to_string())
}

fn new_task(
    wanted: &ImportRequest,
    set: &Imported,
    manifest: Option<&VersionManifest>,
) -> Result<NewTask> {
    let said = manifest.map(|own| own.sampling);
    if let (Some(given), Some(said)) = (wanted.sampling, said)
        && given != said
    {
        let problem = format!(
            "the version in the file takes {said}, the header says {given}: leave sampling out"
        );
        return Err(Invalid::new("header.sampling", problem).into());
    }
    let sampling = said.or(wanted.sampling).unwrap_or(wanted.default_sampling);
    Ok(NewTask {
        id: wanted.task.clone(),
        display_name: String::new(),
        adapter: manifest.map_or(set.adapter, |own| own.adapter),
        sampling,
        auto_serve: true,
        auto_head: false,
    })
}

/// Whether the labels exclude one another: as the file says, else as the caller does.
fn label_kind(wanted: Option<LabelKind>, manifest: Option<&VersionManifest>) -> Result<LabelKind> {
    let said = manifest.map(|own| own.labels.kind());
    match (wanted, said) {
        (Some(wanted), Some(said)) if wanted != said => {
            let problem = match said {
                LabelKind::Single => "the labels of the version in the file exclude one another",
                LabelKind::Multi => {
                    "the labels of the version in the file do not exclude one another"
                }
            };
            Err(Invalid::new("header.label_kind", problem).into())
        }
        (wanted, said) => Ok(said.or(wanted).unwrap_or_default()),
    }
}

/// The caller's labels, else the file's, else those that the task has, else the rows' numbers.
fn labels(
    wanted: Option<LabelSet>,
    manifest: Option<&VersionManifest>,
    serving: Option<&Serving>,
    classes: usize,
) -> Result<LabelSet> {
    const FIELD: &str = "header.labels";
    let own = wanted.or_else(|| manifest.map(|own| own.labels.clone()));
    let serving = serving.filter(|serving| !is_numbered(&serving.labels));
    let labels = match (own, serving) {
        (Some(labels), _) => labels,
        (None, Some(serving)) if serving.labels.len() == classes => serving.labels.clone(),
        (None, Some(Serving { version, labels })) => {
            let problem = format!(
                "required: version {version} of the task has {} labels, the file's head has {classes} rows",
                labels.len()
            );
            return Err(Invalid::new(FIELD, problem).into());
        }
        (None, None) => LabelSet::new((0..classes).map(|row| row.to_string()).collect())
            .map_err(|bad| Invalid::new(FIELD, bad.problem))?,
    };
    if labels.len() != classes {
        let noun = match labels.len() {
            1 => "label",
            _ => "labels",
        };
        let problem = format!(
            "{} {noun}, the head of the file has {classes} rows",
            labels.len()
        );
        return Err(Invalid::new(FIELD, problem).into());
    }
    Ok(labels)
}
