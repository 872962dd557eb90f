//! A small backbone for the engine's own tests, and tests of batches that fail as a whole.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc};

use super::queue::{Clip, Part, Queue};
use super::residency::{Loader, Pin, Residency, tests::listed};
use super::swap::renewing;
use super::weights::Weights;
use super::worker::Batches;
use super::{Config, Desired, Error, Free, Stored, Unavailable, Versions};
use crate::device;
use crate::fair::{Class, Equal};
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::model::{Activation, AdapterSet, Backbone, BackboneConfig, Pictures, Readout};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Digest, Normalization};
use crate::telemetry::Metrics;

/// Returns a backbone of this width with random weights.
pub(super) fn backbone(width: usize) -> Arc<Backbone> {
    let config = BackboneConfig {
        image_size: 8,
        patch_size: 4,
        width,
        layers: 2,
        heads: 2,
        mlp_width: 24,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    };
    let mut stream = Stream::new(7, "test backbone");
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| stream.range(-0.2, 0.2)).collect();
        (name, (shape, values))
    });
    let tensors = tensors.collect();
    Arc::new(Backbone::from_tensors("test", config, Digest([1; 32]), tensors).unwrap())
}

/// Returns a fresh set for a backbone.
pub(super) fn set(backbone: &Backbone) -> Arc<AdapterSet> {
    let adapter = AdapterConfig {
        adapter_width: 4,
        adapter_pre_mlp: true,
        ..AdapterConfig::LINEAR_PROBE
    };
    let stream = Stream::new(1, "test set");
    Arc::new(AdapterSet::fresh(backbone.config(), adapter, 2, &stream).unwrap())
}

pub(super) fn version(tenant: &str) -> VersionRef {
    VersionRef {
        tenant: tenant.parse().unwrap(),
        task: "t".parse().unwrap(),
        version: AdapterVersion::FIRST,
    }
}

/// Returns a table of sets within a budget; tests add the sets themselves.
pub(super) fn residency(budget: u64, device: device::Handle) -> Residency {
    let loader = Loader {
        weights: Arc::new(Equal),
        versions: Arc::new(Nothing::default()),
        backbone: backbone(8),
        device,
        clips: Arc::default(),
    };
    Residency::new(budget, loader, Metrics::new())
}

/// Source without any versions, which counts the claims of proofs.
#[derive(Default)]
struct Nothing {
    claims: AtomicU32,
}

#[async_trait]
impl Versions for Nothing {
    async fn load(&self, _: &VersionRef) -> Result<Stored, Unavailable> {
        Err(Unavailable::Missing)
    }

    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        broadcast::channel(1).1
    }

    async fn desired(&self, _: &TenantId, _: &TaskId) -> Result<Vec<Desired>, Unavailable> {
        Err(Unavailable::Missing)
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        Ok(Vec::new())
    }

    async fn pinned(&self) -> Result<Vec<(VersionRef, u64)>, Unavailable> {
        Ok(Vec::new())
    }

    async fn numbers(
        &self,
        _: &TenantId,
        _: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>, Unavailable> {
        Ok(None)
    }

    async fn claim(&self, _: &VersionRef, _: bool) -> Result<bool, Unavailable> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    async fn moved(&self, _: &VersionRef) -> Result<bool, Unavailable> {
        Ok(false)
    }

    async fn failed(&self, _: &VersionRef, _: &str) -> Result<bool, Unavailable> {
        Ok(false)
    }

    async fn noted(&self, _: &VersionRef, _: Option<&str>) -> Result<bool, Unavailable> {
        Ok(false)
    }
}

pub(super) fn clip(pin: &Pin, request: u64) -> (Clip, mpsc::Receiver<Part>) {
    let (reply, parts) = mpsc::channel(1);
    let clip = Clip {
        tenant: pin.version.tenant.clone(),
        request,
        place: 0,
        pictures: Pictures::Clip(vec![0.5; 3 * 8 * 8].into()),
        frames: 1,
        weights: Weights::Version(pin.clone()),
        readout: Readout::Logits,
        deadline: None,
        is_light: false,
        entered: Instant::now(),
        reply,
    };
    (clip, parts)
}

#[tokio::test(start_paused = true)]
async fn a_load_that_takes_long_keeps_its_proof() {
    let versions = Nothing::default();
    let load = async {
        tokio::time::sleep(Duration::from_secs(95)).await;
        true
    };
    assert!(renewing(&versions, &version("a"), load).await);
    assert_eq!(versions.claims.load(Ordering::SeqCst), 9);
}

#[tokio::test]
async fn a_batch_that_fails_is_taken_apart_to_find_the_set_at_fault() {
    let (device, _) = device::start(device::Config::default(), Metrics::new()).unwrap();
    let residency = residency(1000, device.clone());
    let (good, foreign) = (backbone(8), backbone(16));
    let mut pins = Vec::new();
    for (tenant, backbone) in [("a", &good), ("b", &foreign), ("c", &good)] {
        pins.push(listed(&residency, &version(tenant), set(backbone), 10).await);
    }
    let queue = Arc::new(Queue::new(
        &Config::default(),
        &good,
        Arc::new(Equal),
        Metrics::new(),
    ));
    let mut answers = Vec::new();
    for (request, pin) in (0..).zip(&pins) {
        let (clip, parts) = clip(pin, request);
        queue.push((&pin.version.tenant, Class::Interactive), vec![clip]);
        answers.push(parts);
    }
    let batches = Batches::new(queue.clone(), Arc::new(good), Arc::new(Free));
    device.set_source(Box::new(batches));
    let mut results = Vec::new();
    for mut parts in answers {
        results.push(parts.recv().await.unwrap().result);
    }
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(
        matches!(&results[1], Err(Error::Failed { .. })),
        "{:?}",
        results[1]
    );
    // One batch of all three clips, then three batches of one clip.
    drop(device.pause());
    assert_eq!(device.stats().batches, 4);
    // Only a warm-up decides about a set, and it runs twice before it fails the set.
    assert!(pins.iter().all(|pin| pin.refused().is_none()));
    let suspects = residency.suspects().await;
    assert!(matches!(&suspects[..], [own] if own.id == pins[1].id));
    for pin in pins.iter().cloned() {
        residency.examine(pin).await;
    }
    let refused: Vec<bool> = pins.iter().map(|pin| pin.refused().is_some()).collect();
    assert_eq!(refused, [false, true, false]);
}
