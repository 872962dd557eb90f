//! Tasks and versions over a real store and real records: publication, loading, damage, announcements, swaps.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameshift::ids::{AdapterVersion, TenantId, VersionRef};
use frameshift::metadata::{self, Claim, JobTimes, PageRequest, Published};
use frameshift::registry::{Config, Error, Form, Publication, Registry};
use frameshift::spec::{
    AdapterConfig, Confusion, Digest, Evaluation, JobState, LabelSet, Precision,
};
use frameshift::store::{self, Faults, Store};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest as _, Sha256};

use crate::metadata::fixture;
use crate::metadata::{Backend, backends};

struct Setting {
    registry: Registry,
    records: fixture::Store,
    faults: Faults,
    directory: tempfile::TempDir,
    backend: Backend,
}

impl Setting {
    async fn new() -> Self {
        let (_, backend) = backends().await.remove(0);
        let directory = tempfile::tempdir().expect("a folder");
        let faults = Faults::default();
        let store = Store::open(directory.path())
            .expect("a store")
            .with_faults(faults.clone());
        let records = Arc::clone(&backend.store);
        Self {
            registry: Registry::new(Config::default(), store, Arc::clone(&records)),
            records,
            faults,
            directory,
            backend,
        }
    }

    /// Returns a second registry over the same parts, with nothing in memory.
    fn reopened(&self) -> Registry {
        let store = Store::open(self.directory.path()).expect("a store");
        Registry::new(Config::default(), store, Arc::clone(&self.records))
    }

    /// Returns a registry over the same parts that keeps no files in memory.
    fn without_files(&self) -> Registry {
        let store = Store::open(self.directory.path()).expect("a store");
        let config = Config {
            cache_bytes: 0,
            ..Config::default()
        };
        Registry::new(config, store, Arc::clone(&self.records))
    }

    /// Returns a job of task `t`, ready to be published.
    async fn publishing(&self, tenant: &TenantId) -> Claim {
        fixture::submit(&self.records, tenant, "t").await;
        let claim = fixture::claim(&self.records).await;
        fixture::advance(&self.records, &claim, JobState::Publishing).await;
        claim
    }

    async fn published(&self, tenant: &TenantId, value: f32) -> Published {
        let claim = self.publishing(tenant).await;
        self.registry
            .publish(&claim.lease, publication(value))
            .await
            .expect("published")
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.directory.path().to_owned()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found
    }
}

fn tensors(value: f32) -> Vec<u8> {
    let bytes = value.to_le_bytes().repeat(6);
    let view = TensorView::new(Dtype::F32, vec![2, 3], &bytes).expect("a tensor");
    let old = HashMap::from([("old".to_owned(), "metadata".to_owned())]);
    safetensors::serialize([("fc.weight", view)], Some(old)).expect("serialised")
}

pub(crate) fn publication(value: f32) -> Publication {
    Publication {
        labels: LabelSet::new(vec!["left".into(), "f64:\"7\"".into()]).expect("labels"),
        adapter: AdapterConfig::LINEAR_PROBE,
        backbone_digest: Digest([1; 32]),
        parameters: 6,
        precision: Precision::F32,
        parent: None,
        evaluation: Evaluation {
            examples: 24,
            top1: 23.0 / 24.0,
            top5: 1.0,
            loss: 0.1 + 0.2,
            confusion: Confusion::from_rows(&[12, 0, 1, 11]).expect("a square"),
            problem: None,
            independent: None,
        },
        calibration: None,
        loss_curve: vec![1.0 / 3.0],
        validation_curve: Vec::new(),
        step: 20,
        seed: 7,
        training_time: Duration::from_millis(1500),
        times: JobTimes::default(),
        skipped_clips: 0,
        reason: None,
        has_test: false,
        tensors: tensors(value),
    }
}

fn reference(published: &Published) -> VersionRef {
    VersionRef {
        tenant: published.version.tenant.clone(),
        task: published.version.task.clone(),
        version: published.version.version,
    }
}

#[tokio::test]
async fn a_published_version_loads_as_it_was_written_and_says_what_it_is() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let mut desired = setting.registry.subscribe();
    let published = setting.published(&a, 1.5).await;
    assert_eq!(published.job.state, JobState::Succeeded);
    let result = published.job.result.as_ref().expect("a result");
    assert_eq!(
        (result.version, result.seed, result.training_micros),
        (1, 7, 1_500_000)
    );
    assert_eq!(
        desired.recv().await.expect("announced"),
        (a.clone(), fixture::task_id("t"))
    );

    let version = reference(&published);
    for registry in [setting.registry.clone(), setting.reopened()] {
        let loaded = registry.load(&version).await.expect("loaded");
        assert_eq!(
            loaded.record.sha256,
            Digest(Sha256::digest(&loaded.bytes).into())
        );
        assert_eq!(loaded.record.size_bytes, loaded.bytes.len() as u64);
        let file = SafeTensors::deserialize(&loaded.bytes).expect("safetensors");
        assert_eq!(
            file.tensor("fc.weight").expect("there").data(),
            1.5_f32.to_le_bytes().repeat(6)
        );
        let (_, header) = SafeTensors::read_metadata(&loaded.bytes).expect("a header");
        let says = header.metadata().clone().expect("metadata");
        assert_eq!(says["job"], published.job.id.to_string());
        assert_eq!(says["labels"], r#"["left","f64:\"7\""]"#);
        assert_eq!(says["backbone_digest"], Digest([1; 32]).to_string());
        assert_eq!(
            says["dataset_digest"],
            published.job.dataset_digest.to_string()
        );
        assert_eq!(says["format_version"], "1");
        assert!(!says.contains_key("old"));
    }
    let page = PageRequest::first();
    let listed = setting
        .registry
        .list_versions(&a, &fixture::task_id("t"), &page)
        .await;
    // A listing omits the confusion matrix.
    let mut expected = published.version;
    expected.manifest.evaluation.confusion = Confusion::default();
    assert_eq!(listed.expect("listed").items, [expected]);
}

#[tokio::test]
async fn a_damaged_version_is_never_handed_out() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let version = reference(&setting.published(&a, 1.0).await);
    let file = setting.files().remove(0);
    let mut bytes = std::fs::read(&file).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, bytes).expect("damaged");
    match setting.reopened().load(&version).await {
        Err(Error::Store(error @ store::Error::Digest { .. })) => {
            assert!(
                error.to_string().contains("a/tasks/t/versions/1/"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(&file).expect("removed");
    assert!(matches!(
        setting.reopened().load(&version).await,
        Err(Error::Store(store::Error::NotFound { .. }))
    ));
}

#[tokio::test]
async fn weights_that_were_loaded_before_are_read_and_compared_again_where_no_file_is_kept() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let version = reference(&setting.published(&a, 1.0).await);
    let registry = setting.without_files();
    let loaded = registry.load(&version).await.expect("loaded");
    let (form, bytes) = registry.load_weights(&version).await.expect("loaded");
    assert_eq!((form, &bytes), (Form::from(&*loaded.record), &loaded.bytes));
    let again = registry.load_weights(&version).await.expect("loaded");
    assert_eq!(again, (form, bytes.clone()));

    let file = setting.files().remove(0);
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, damaged).expect("damaged");
    let refused = registry.load_weights(&version).await;
    assert!(
        matches!(refused, Err(Error::Store(store::Error::Digest { .. }))),
        "{refused:?}"
    );
    std::fs::write(&file, &bytes).expect("mended");
    registry.load_weights(&version).await.expect("loaded");

    let other = setting.reopened();
    let deleted = other.delete_task(&a, &version.task, None).await;
    deleted.expect("deleted");
    let missing = registry.load_weights(&version).await;
    assert!(
        missing.as_ref().is_err_and(Error::is_missing),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_publication_that_fails_at_the_blob_shows_nothing_and_can_be_repeated() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let claim = setting.publishing(&a).await;
    setting.faults.fail_write(1);
    let failed = setting
        .registry
        .publish(&claim.lease, publication(1.0))
        .await;
    assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
    let page = PageRequest::first();
    let task = fixture::task_id("t");
    let listed = setting
        .registry
        .list_versions(&a, &task, &page)
        .await
        .expect("listed");
    assert!(listed.items.is_empty() && setting.files().is_empty());
    let published = setting
        .registry
        .publish(&claim.lease, publication(1.0))
        .await;
    assert_eq!(
        published.expect("published").version.version,
        AdapterVersion::FIRST
    );
}

#[tokio::test]
async fn a_worker_that_lost_its_job_publishes_nothing() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let old = setting.publishing(&a).await;
    assert_eq!(setting.backend.restart(Duration::ZERO).await, []);
    let new = fixture::claim(&setting.records).await;
    fixture::advance(&setting.records, &new, JobState::Publishing).await;
    let refused = setting.registry.publish(&old.lease, publication(1.0)).await;
    assert!(
        matches!(
            refused,
            Err(Error::Metadata(metadata::Error::LeaseLost { .. }))
        ),
        "{refused:?}"
    );
    setting
        .registry
        .publish(&new.lease, publication(2.0))
        .await
        .expect("published");
    let late = setting.registry.publish(&old.lease, publication(1.0)).await;
    assert!(matches!(
        late,
        Err(Error::Metadata(metadata::Error::LeaseLost { .. }))
    ));
}

#[tokio::test]
async fn what_is_no_version_is_refused_before_it_is_stored() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let claim = setting.publishing(&a).await;
    let mut malformed = publication(1.0);
    malformed.tensors.truncate(40);
    assert!(matches!(
        setting.registry.publish(&claim.lease, malformed).await,
        Err(Error::Malformed { .. })
    ));
    let mut diverged = publication(1.0);
    diverged.loss_curve.push(f64::NAN);
    assert!(matches!(
        setting.registry.publish(&claim.lease, diverged).await,
        Err(Error::Invalid(_))
    ));
    assert!(setting.files().is_empty());
}

#[tokio::test]
async fn the_desired_version_becomes_the_serving_one_by_compare_and_swap() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    fixture::trainable(&setting.records, &a, "t").await;
    let registry = &setting.registry;
    let one = reference(&setting.published(&a, 1.0).await);
    let two = reference(&setting.published(&a, 2.0).await);
    assert!(!registry.serving_moved(&one).await.expect("asked"));
    assert_eq!(registry.pending().await.expect("asked").len(), 1);
    assert!(registry.serving_moved(&two).await.expect("moved"));
    let task = registry.get_task(&a, &two.task).await.expect("found");
    assert_eq!(
        (task.serving, task.desired),
        (Some(two.version), Some(two.version))
    );
    let mut desired = registry.subscribe();
    let back = registry
        .set_serving(&a, &one.task, &one.version.into(), &task.etag)
        .await
        .expect("set");
    assert_eq!(
        (back.serving, back.desired),
        (Some(two.version), Some(one.version))
    );
    assert_eq!(desired.recv().await.expect("announced").0, a);
    assert!(
        registry
            .serving_failed(&one, "its logits are not finite")
            .await
            .expect("noted")
    );
    let task = registry.get_task(&a, &two.task).await.expect("found");
    assert_eq!(task.serving, Some(two.version));
    assert_eq!(
        task.serving_error.as_deref(),
        Some("its logits are not finite")
    );
    assert!(matches!(
        registry
            .set_serving(
                &a,
                &two.task,
                &two.version.into(),
                &back.etag.replace('-', "+")
            )
            .await,
        Err(Error::Metadata(metadata::Error::EtagMismatch { .. }))
    ));
}

#[tokio::test]
async fn a_deleted_task_takes_its_files_and_its_cached_versions_along() {
    let setting = Setting::new().await;
    let (a, b) = (fixture::tenant("a"), fixture::tenant("b"));
    fixture::trainable(&setting.records, &a, "t").await;
    fixture::trainable(&setting.records, &b, "t").await;
    let version = reference(&setting.published(&a, 1.0).await);
    let other = reference(&setting.published(&b, 1.0).await);
    setting.registry.load(&version).await.expect("loaded");
    setting
        .registry
        .delete_task(&a, &version.task, None)
        .await
        .expect("deleted");
    assert!(matches!(
        setting.registry.load(&version).await,
        Err(Error::Metadata(metadata::Error::NotFound { .. }))
    ));
    setting
        .registry
        .load(&other)
        .await
        .expect("another tenant's stays");
    assert_eq!(setting.files().len(), 1);
}

#[tokio::test]
async fn a_task_out_of_range_is_refused() {
    let setting = Setting::new().await;
    let a = fixture::tenant("a");
    let mut wide = fixture::task("t");
    wide.adapter.adapter_width = 5000;
    let mut named = fixture::task("t");
    named.display_name = "x".repeat(256);
    for bad in [wide, named] {
        assert!(matches!(
            setting.registry.create_task(&a, bad, None).await,
            Err(Error::Invalid(_))
        ));
    }
}
