//! A small backbone, adapter sets that differ from one another, versions in memory, and a running engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use frameshift::device;
use frameshift::engine::{self, Config, Desired, Handle, Parts, Stored, Unavailable, Versions};
use frameshift::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use frameshift::model::{Activation, AdapterSet, Backbone, BackboneConfig};
use frameshift::rng::Stream;
use frameshift::shutdown::{self, Drain};
use frameshift::spec::{AdapterConfig, Digest, Normalization};
use frameshift::telemetry::Metrics;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tokio::sync::broadcast;

pub(crate) const CLASSES: usize = 3;

pub(crate) fn config() -> BackboneConfig {
    BackboneConfig {
        image_size: 8,
        patch_size: 4,
        width: 32,
        layers: 3,
        heads: 2,
        mlp_width: 48,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

/// A backbone of random weights.
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
    Arc::new(Backbone::from_tensors("test", config, Digest([1; 32]), tensors).unwrap())
}

pub(crate) const ADAPTER: AdapterConfig = AdapterConfig {
    adapter_width: 5,
    adapter_layers: None,
    adapter_kernel_size: [3, 1, 1],
    adapter_pre_attn: false,
    adapter_pre_mlp: true,
};

/// A set's file with random weights in (-scale, scale), none of them 0.
pub(crate) fn stored(seed: u64, adapter: AdapterConfig, scale: f32) -> Stored {
    let backbone = backbone();
    let mut stream = Stream::new(seed, "test set");
    let fresh = AdapterSet::fresh(backbone.config(), adapter, CLASSES, &stream).unwrap();
    let file = fresh.to_safetensors(BTreeMap::new()).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    // By name: the file's own order is not always the same.
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
    Stored {
        bytes: safetensors::serialize(views, None).unwrap().into(),
        adapter,
        classes: CLASSES,
        backbone: backbone.digest(),
    }
}

/// A clip of random planes.
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

/// Versions in memory, as the registry would give them.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Mutex<Shelves>>, broadcast::Sender<(TenantId, TaskId)>);

#[derive(Default)]
struct Shelves {
    files: HashMap<VersionRef, Stored>,
    loads: HashMap<VersionRef, usize>,
    outages: usize,
    desired: Vec<Desired>,
    serving: Vec<VersionRef>,
    refused: Vec<(VersionRef, String)>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self(Arc::default(), broadcast::channel(64).0)
    }

    pub(crate) fn put(&self, version: &VersionRef, stored: Stored) {
        self.0.lock().unwrap().files.insert(version.clone(), stored);
    }

    /// The next so many loads fail for a passing reason.
    pub(crate) fn fail(&self, loads: usize) {
        self.0.lock().unwrap().outages = loads;
    }

    pub(crate) fn loads(&self, version: &VersionRef) -> usize {
        let shelves = self.0.lock().unwrap();
        shelves.loads.get(version).copied().unwrap_or(0)
    }

    /// Asks for a version to serve.
    pub(crate) fn desire(&self, version: &VersionRef) {
        let mut shelves = self.0.lock().unwrap();
        let same = |own: &Desired| own.version.task == version.task;
        shelves.desired.retain(|own| !same(own));
        shelves.desired.push(Desired {
            version: version.clone(),
            failed: false,
        });
        drop(shelves);
        let _ = self.1.send((version.tenant.clone(), version.task.clone()));
    }

    pub(crate) fn serving(&self, task: &str) -> Option<VersionRef> {
        let shelves = self.0.lock().unwrap();
        let own = |version: &&VersionRef| version.task.as_str() == task;
        shelves.serving.iter().find(own).cloned()
    }

    /// Why a version was refused.
    pub(crate) fn refused(&self, version: &VersionRef) -> Option<String> {
        let shelves = self.0.lock().unwrap();
        let own = |(refused, _): &&(VersionRef, String)| refused == version;
        shelves.refused.iter().find(own).map(|(_, why)| why.clone())
    }

    /// Deletes a task.
    pub(crate) fn delete(&self, version: &VersionRef) {
        let mut shelves = self.0.lock().unwrap();
        shelves.files.retain(|own, _| own.task != version.task);
        drop(shelves);
        let _ = self.1.send((version.tenant.clone(), version.task.clone()));
    }
}

#[async_trait]
impl Versions for Shelf {
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        *shelves.loads.entry(version.clone()).or_default() += 1;
        if shelves.outages > 0 {
            shelves.outages -= 1;
            let reason = "the store is away".to_owned();
            return Err(Unavailable::Failed { reason });
        }
        let file = shelves.files.get(version).cloned();
        file.ok_or(Unavailable::Missing)
    }

    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.1.subscribe()
    }

    async fn exists(&self, tenant: &TenantId, task: &TaskId) -> Result<bool, Unavailable> {
        let shelves = self.0.lock().unwrap();
        let mut versions = shelves.files.keys();
        Ok(versions.any(|own| own.tenant == *tenant && own.task == *task))
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        Ok(self.0.lock().unwrap().desired.clone())
    }

    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        let before = shelves.desired.len();
        shelves.desired.retain(|own| own.version != *version);
        if shelves.desired.len() == before {
            return Ok(false);
        }
        shelves.serving.retain(|own| own.task != version.task);
        shelves.serving.push(version.clone());
        Ok(true)
    }

    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable> {
        let mut shelves = self.0.lock().unwrap();
        for own in &mut shelves.desired {
            own.failed |= own.version == *version;
        }
        shelves.refused.push((version.clone(), why.to_owned()));
        Ok(true)
    }
}

/// A running engine.
pub(crate) struct Running {
    pub(crate) engine: Handle,
    pub(crate) device: device::Handle,
    pub(crate) backbone: Arc<Backbone>,
    pub(crate) shelf: Shelf,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) service: tokio::task::JoinHandle<Result<(), engine::Unfit>>,
}

impl Running {
    /// An engine that is ready.
    pub(crate) async fn start(config: Config) -> Self {
        let metrics = Metrics::new();
        let (device, _) = device::start(device::Config::default(), metrics.clone()).unwrap();
        let backbone = backbone();
        let shelf = Shelf::new();
        let parts = Parts {
            registry: shelf.clone(),
            device: device.clone(),
            backbone: backbone.clone(),
            metrics: metrics.clone(),
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

    /// Classifies one clip, as one request would.
    pub(crate) async fn one(
        &self,
        version: &VersionRef,
        clip: Arc<[f32]>,
    ) -> Result<Vec<f32>, engine::Error> {
        let permit = self.engine.admit(&version.tenant, 1)?;
        let answer = self.engine.classify(permit, version, vec![clip], None);
        Ok(answer.await?.logits.remove(0))
    }

    /// Waits until the device is between two slices, so that its counters are those of everything that was answered.
    pub(crate) fn settled(&self) -> device::Stats {
        drop(self.device.pause());
        self.device.stats()
    }
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|value| value.to_bits()).collect()
}
