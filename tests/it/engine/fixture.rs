//! A small backbone, adapter sets that differ from each other, versions in memory, and a running engine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use frameshift::device;
use frameshift::engine::{
    self, Config, Desired, Free, Handle, Parts, Role, Stored, Unavailable, Versions,
};
use frameshift::fair::Equal;
use frameshift::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use frameshift::model::{AdapterSet, Backbone, BackboneConfig};
use frameshift::rng::Stream;
use frameshift::shutdown::{self, Drain};
use frameshift::spec::{AdapterConfig, Digest, Head, Precision};
use frameshift::telemetry::Metrics;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, broadcast};

use crate::model::place;

pub(crate) const CLASSES: usize = 3;

/// Capacity of the channel of notices.
const NOTICES: usize = 64;

pub(crate) fn config() -> BackboneConfig {
    BackboneConfig {
        image_size: 8,
        patch_size: 4,
        width: 32,
        layers: 3,
        mlp_width: 48,
        ..crate::model::small()
    }
}

/// Returns a backbone of random weights, in the place of the tests.
pub(crate) fn backbone() -> Arc<Backbone> {
    let config = config();
    let mut stream = Stream::new(7, "test backbone");
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let centre = if name.contains("ln_") && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        let count = shape.iter().product();
        let values = (0..count).map(|_| centre + stream.range(-0.2, 0.2));
        let values: Vec<f32> = values.collect();
        (name, (shape, values))
    });
    let tensors = tensors.collect();
    let of = (config, Digest([1; 32]));
    let made = Backbone::from_tensors_on("test", of, tensors, Precision::F32, &place());
    Arc::new(made.unwrap())
}

pub(crate) const ADAPTER: AdapterConfig = AdapterConfig {
    adapter_width: 5,
    adapter_layers: None,
    adapter_kernel_size: [3, 1, 1],
    adapter_pre_attn: false,
    adapter_pre_mlp: true,
    head: Head::Mean,
};

/// Returns a set's file with random weights in (-scale, scale), none of them 0.
pub(crate) fn stored(seed: u64, adapter: AdapterConfig, scale: f32) -> Stored {
    let backbone = backbone();
    let mut stream = Stream::new(seed, "test set");
    let fresh = AdapterSet::fresh(backbone.config(), adapter, CLASSES, &stream).unwrap();
    let file = fresh.to_safetensors(BTreeMap::new()).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    // Sorted by name, since the file's own order is not always the same.
    let named: BTreeMap<_, _> = file.tensors().into_iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in named {
        let count: usize = view.shape().iter().product();
        let bytes = (0..count).flat_map(|_| (stream.range(-1.0, 1.0) * scale).to_le_bytes());
        tensors.insert(name, (view.shape().to_vec(), bytes.collect::<Vec<u8>>()));
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    Stored {
        sha256: Digest(Sha256::digest(&bytes).into()),
        bytes: bytes.into(),
        adapter,
        classes: CLASSES,
        backbone: backbone.digest(),
    }
}

/// Returns a clip of random planes.
pub(crate) fn clip(seed: u64, frames: usize) -> Arc<[f32]> {
    let mut stream = Stream::new(seed, "test clip");
    let values = frames * config().frame_len();
    (0..values).map(|_| stream.range(-2.0, 2.0)).collect()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(crate) fn version(owner: &str, task: &str, number: u32) -> VersionRef {
    VersionRef {
        tenant: tenant(owner),
        task: task.parse().unwrap(),
        version: AdapterVersion::new(number).unwrap(),
    }
}

/// Tasks and versions in memory that follow the registry's rules: a version's file never changes, only a desired version can be moved to or fail, and
/// a version that already serves is not pending when it is requested again.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Mutex<Shelves>>, broadcast::Sender<(TenantId, TaskId)>);

#[derive(Default)]
struct Shelves {
    files: HashMap<VersionRef, Stored>,
    tasks: HashMap<(TenantId, TaskId), Task>,
    loads: HashMap<VersionRef, usize>,
    outages: usize,
    /// Number of further queries about a task that fail.
    silences: usize,
    /// Each load takes a permit, when there is a gate.
    gate: Option<Arc<Semaphore>>,
    /// Versions that are to stay in memory, and their bytes.
    pinned: Vec<(VersionRef, u64)>,
    /// Versions whose file was damaged.
    damaged: HashSet<VersionRef>,
    /// Number of questions for the numbers of a task's versions.
    questions: usize,
    /// Number of reads of one task, and of all tasks with something to do and of all that are pinned.
    reads: [usize; 2],
}

#[derive(Default)]
struct Task {
    desired: Option<AdapterVersion>,
    serving: Option<AdapterVersion>,
    error: Option<String>,
}

fn task_of(version: &VersionRef) -> (TenantId, TaskId) {
    (version.tenant.clone(), version.task.clone())
}

impl Shelves {
    /// Returns the version's task, if the version is its desired one.
    fn desiring(&mut self, version: &VersionRef) -> Option<&mut Task> {
        let task = self.tasks.get_mut(&task_of(version))?;
        (task.desired == Some(version.version)).then_some(task)
    }
}

fn desired((tenant, id): &(TenantId, TaskId), task: &Task) -> Option<Desired> {
    let version = VersionRef {
        tenant: tenant.clone(),
        task: id.clone(),
        version: task.desired?,
    };
    let failed = task.error.is_some();
    let role = Role::Main;
    Some(Desired {
        version,
        role,
        failed,
        is_elsewhere: false,
        is_due: task.desired != task.serving,
        is_pinned: false,
    })
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self(Arc::default(), broadcast::channel(NOTICES).0)
    }

    /// Publishes a version; the first one creates its task.
    pub(crate) fn put(&self, version: &VersionRef, stored: Stored) {
        let mut shelves = self.0.lock().unwrap();
        let before = shelves.files.insert(version.clone(), stored);
        assert!(before.is_none(), "{version} is immutable");
        shelves.tasks.entry(task_of(version)).or_default();
    }

    /// Damages a version's file.
    pub(crate) fn damage(&self, version: &VersionRef) {
        self.0.lock().unwrap().damaged.insert(version.clone());
    }

    /// Restores a version's file.
    pub(crate) fn mend(&self, version: &VersionRef) {
        self.0.lock().unwrap().damaged.remove(version);
    }

    /// Makes loads wait at a gate from now on, which lets one through for each permit.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().gate = Some(gate.clone());
        gate
    }

    /// Wants these versions to stay in memory.
    pub(crate) fn pin(&self, pinned: &[(VersionRef, u64)]) {
        self.0.lock().unwrap().pinned = pinned.to_vec();
    }

    /// Makes the next `questions` queries about tasks fail temporarily.
    pub(crate) fn fall_silent(&self, questions: usize) {
        self.0.lock().unwrap().silences = questions;
    }

    /// Makes the next `loads` loads fail temporarily.
    pub(crate) fn fail(&self, loads: usize) {
        self.0.lock().unwrap().outages = loads;
    }

    /// The number of loads of a version that have begun.
    pub(crate) fn loads(&self, version: &VersionRef) -> usize {
        let shelves = self.0.lock().unwrap();
        shelves.loads.get(version).copied().unwrap_or(0)
    }

    /// Makes a version the desired one, as SetServing does.
    pub(crate) fn desire(&self, version: &VersionRef) {
        let mut shelves = self.0.lock().unwrap();
        let task = shelves.tasks.get_mut(&task_of(version)).expect("a task");
        task.desired = Some(version.version);
        task.error = None;
        drop(shelves);
        let _ = self.1.send(task_of(version));
    }

    /// The number of questions for the numbers of a task's versions.
    pub(crate) fn questions(&self) -> usize {
        self.0.lock().unwrap().questions
    }

    /// The number of reads of one task, and of all tasks.
    pub(crate) fn reads(&self) -> [usize; 2] {
        self.0.lock().unwrap().reads
    }

    pub(crate) fn serving(&self, task: &str) -> Option<VersionRef> {
        let shelves = self.0.lock().unwrap();
        shelves.tasks.iter().find_map(|((tenant, id), own)| {
            let version = own.serving.filter(|_| id.as_str() == task)?;
            Some(VersionRef {
                tenant: tenant.clone(),
                task: id.clone(),
                version,
            })
        })
    }

    /// Returns why a desired version was refused.
    pub(crate) fn refused(&self, version: &VersionRef) -> Option<String> {
        self.0.lock().unwrap().desiring(version)?.error.clone()
    }

    /// Deletes a task.
    pub(crate) fn delete(&self, version: &VersionRef) {
        self.delete_silently(version);
        let _ = self.1.send(task_of(version));
    }

    /// Deletes a task without a notice, as if the notice had been lost.
    pub(crate) fn delete_silently(&self, version: &VersionRef) {
        let mut shelves = self.0.lock().unwrap();
        let task = task_of(version);
        shelves.files.retain(|own, _| task_of(own) != task);
        shelves.tasks.remove(&task);
    }

    /// Loses a version, as a failover of the database does, and makes this one the desired one.
    pub(crate) fn lose(&self, lost: &VersionRef, desired: &VersionRef) {
        self.0.lock().unwrap().files.remove(lost);
        self.desire(desired);
    }

    /// Sends so many notices about an unknown task that subscribers lose some.
    pub(crate) fn flood(&self) {
        for _ in 0..=NOTICES {
            self.notice();
        }
    }

    /// Sends a notice about an unknown task, after which all of them are looked at.
    pub(crate) fn notice(&self) {
        let _ = self.1.send((tenant("nobody"), "none".parse().unwrap()));
    }
}

#[async_trait]
impl Versions for Shelf {
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable> {
        let gate = {
            let mut shelves = self.0.lock().unwrap();
            *shelves.loads.entry(version.clone()).or_default() += 1;
            shelves.gate.clone()
        };
        if let Some(gate) = gate {
            gate.acquire().await.expect("the gate stays").forget();
        }
        let mut shelves = self.0.lock().unwrap();
        if shelves.outages > 0 {
            shelves.outages -= 1;
            let reason = "the store is away".to_owned();
            return Err(Unavailable::Failed { reason });
        }
        let file = shelves.files.get(version).cloned();
        if file.is_some() && shelves.damaged.contains(version) {
            let reason = "its sha256 is another".to_owned();
            return Err(Unavailable::Damaged { reason });
        }
        file.ok_or(Unavailable::Missing)
    }

    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.1.subscribe()
    }

    async fn desired(&self, tenant: &TenantId, task: &TaskId) -> Result<Vec<Desired>, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        shelves.reads[0] += 1;
        if shelves.silences > 0 {
            shelves.silences -= 1;
            let reason = "the database is away".to_owned();
            return Err(Unavailable::Failed { reason });
        }
        let id = (tenant.clone(), task.clone());
        let task = shelves.tasks.get(&id).ok_or(Unavailable::Missing)?;
        Ok(desired(&id, task).into_iter().collect())
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        shelves.reads[1] += 1;
        let pending = shelves.tasks.iter();
        let pending = pending.filter(|(_, task)| task.desired != task.serving);
        Ok(pending.filter_map(|(id, task)| desired(id, task)).collect())
    }

    async fn pinned(&self) -> Result<Vec<(VersionRef, u64)>, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        shelves.reads[1] += 1;
        Ok(shelves.pinned.clone())
    }

    async fn numbers(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        shelves.questions += 1;
        let own = (tenant.clone(), task.clone());
        let files = shelves.files.keys();
        let own = files.filter(|version| task_of(version) == own);
        let numbers: BTreeSet<_> = own.map(|version| version.version).collect();
        let ends = numbers.first().zip(numbers.last());
        Ok(ends.map(|(oldest, newest)| *oldest..=*newest))
    }

    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        let Some(task) = shelves.desiring(version) else {
            return Ok(false);
        };
        task.serving = task.desired;
        task.error = None;
        Ok(true)
    }

    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        let Some(task) = shelves.desiring(version) else {
            return Ok(false);
        };
        task.error = Some(why.to_owned());
        Ok(true)
    }

    async fn noted(&self, version: &VersionRef, _: Option<&str>) -> Result<bool, Unavailable> {
        // The tasks of a shelf have one version each; splits are tested with the registry.
        Err(Unavailable::Failed {
            reason: format!("{version} is no member of a split"),
        })
    }
}

/// Returns the default configuration without a limit of a batch's time, so that the machine's speed does not matter.
pub(crate) fn patient() -> Config {
    Config {
        batch_time: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// An engine that is running.
pub(crate) struct Running {
    pub(crate) engine: Handle,
    pub(crate) device: device::Handle,
    pub(crate) backbone: Arc<Backbone>,
    pub(crate) shelf: Shelf,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) service: tokio::task::JoinHandle<Result<(), engine::Unfit>>,
}

/// The bytes that a set takes beside the backbone.
pub(crate) fn size(stored: &Stored) -> u64 {
    let set =
        AdapterSet::from_safetensors(&stored.bytes, &config(), stored.adapter, stored.classes);
    set.unwrap().beside(&backbone()).unwrap().bytes()
}

impl Running {
    /// Starts an engine with room for this many sets of the tests' size.
    pub(crate) async fn with_room_for(sets: u64, config: Config) -> Self {
        let residency_bytes = sets * size(&stored(0, ADAPTER, 0.3));
        Self::start(Config {
            residency_bytes,
            ..config
        })
        .await
    }

    /// The versions of a tenant whose sets are resident, without those that are quarantined.
    pub(crate) fn resident(&self, owner: &str) -> Vec<VersionRef> {
        let records = self.engine.residency(&tenant(owner)).into_iter();
        let resident = records.filter(|record| record.quarantine.is_none());
        resident.map(|record| record.version).collect()
    }

    /// Starts an engine and waits until it is ready.
    pub(crate) async fn start(config: Config) -> Self {
        let metrics = Metrics::new();
        let (device, _) = crate::model::device(&metrics);
        let backbone = backbone();
        let shelf = Shelf::new();
        let parts = Parts {
            registry: shelf.clone(),
            device: device.clone(),
            backbone: backbone.clone(),
            metrics: metrics.clone(),
            weights: Arc::new(Equal),
            account: Arc::new(Free),
        };
        let (engine, service) = engine::new(config, parts);
        let (drain, signal) = shutdown::channel();
        let service = tokio::spawn(service.run(signal));
        let mut ready = engine.ready();
        ready.wait_for(|ready| *ready).await.unwrap();
        Self {
            engine,
            device,
            backbone,
            shelf,
            metrics,
            drain,
            service,
        }
    }

    /// Classifies one clip in one request.
    pub(crate) async fn one(
        &self,
        version: &VersionRef,
        clip: Arc<[f32]>,
    ) -> Result<Vec<f32>, engine::Error> {
        let frames = clip.len().div_ceil(config().frame_len());
        let permit = self.engine.admit(&version.tenant, 1, frames)?;
        let answer = self.engine.classify(permit, version, vec![clip], None);
        Ok(answer.await?.logits.remove(0))
    }

    /// Waits until the device is between two slices, so that its counters include everything that was answered.
    pub(crate) fn settled(&self) -> device::Stats {
        drop(self.device.pause());
        self.device.stats()
    }
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|value| value.to_bits()).collect()
}
