//! Snapshots that nobody trains on leave the database for blobs, and come back when they are read.

use frameshift::ids::DatasetId;
use frameshift::metadata::{Actor, Error as RecordError, ExampleRecord, Outages};
use frameshift::spec::Split;
use frameshift::store::{self, layout};
use futures::future::join_all;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// More than are read or written at a time.
const EXAMPLES: usize = 1203;

/// A library over each database.
async fn settings() -> Vec<Setting> {
    let config = || Config {
        orphan_age: Duration::ZERO,
        orphan_share: 100,
        ..Config::default()
    };
    let all = backends().await.into_iter();
    all.map(|(name, backend)| {
        eprintln!("backend: {name}");
        Setting::over(backend, config())
    })
    .collect()
}

fn name() -> DatasetId {
    fixture::dataset_id("t")
}

impl Setting {
    /// A data set of many examples.
    async fn filled(&self) {
        fixture::trainable(&self.records, &tenant(), "t").await;
        let mut examples = Vec::new();
        for number in 0..EXAMPLES {
            let video = fixture::video(&self.records, &tenant()).await;
            let split = [Split::Train, Split::Validation, Split::Test][number % 3];
            examples.push(fixture::example(
                video.id,
                &format!("label {}", number % 7),
                split,
            ));
        }
        for some in examples.chunks(500) {
            let added = self.records.add_examples(&tenant(), &name(), some).await;
            added.expect("added");
        }
    }

    async fn rows(&self, digest: Digest) -> Option<Vec<ExampleRecord>> {
        match fixture::examples_of(&self.records, &tenant(), digest).await {
            Ok(rows) => Some(rows),
            Err(RecordError::NotFound {
                kind: Kind::Snapshot,
                ..
            }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn archived(&self) -> u64 {
        self.library.tidy().await.expect("tidied").archived
    }

    async fn version(&self) -> Digest {
        let made = self.library.create_version(&tenant(), &name(), "").await;
        made.expect("made").snapshot.digest
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        let key = layout::snapshot(&tenant(), digest);
        self.directory.path().join(key.as_str())
    }

    async fn read(&self) -> Result<(), Error> {
        let read = self.library.snapshot_at(&tenant(), &name(), Some(1)).await;
        read.map(drop)
    }
}

#[tokio::test]
async fn the_examples_of_a_version_are_in_a_blob_while_nobody_reads_them() {
    for setting in settings().await {
        setting.filled().await;
        let digest = setting.version().await;
        let whole = setting.rows(digest).await.expect("rows");
        assert_eq!(whole.len(), EXAMPLES + 2);
        setting.backend.pass(2 * DAY);
        assert_eq!(setting.archived().await, 0, "a release before may need it");
        setting.backend.pass(6 * DAY);
        assert_eq!(setting.archived().await, 1);
        assert_eq!(setting.rows(digest).await, None);
        let size = std::fs::metadata(setting.blob(digest))
            .expect("a blob")
            .len();
        assert!(size < 20 * whole.len() as u64, "{size}");

        setting.read().await.expect("read");
        assert_eq!(setting.rows(digest).await.as_ref(), Some(&whole));
        setting.backend.pass(6 * DAY);
        assert_eq!(setting.archived().await, 0);
        assert!(setting.rows(digest).await.is_some(), "it was read");
        // The blob is there already.
        setting.backend.pass(2 * DAY);
        assert_eq!(setting.archived().await, 0);
        assert_eq!(setting.rows(digest).await, None);
        let found = setting.library.collect_orphans(i64::MAX).await;
        assert_eq!(found.expect("looked").orphans, 0, "a record names the blob");
        setting.read().await.expect("read");
        assert_eq!(setting.rows(digest).await, Some(whole));

        // Who trains on it keeps it.
        let mut job = fixture::new_job("t");
        job.dataset_version = Some(1);
        let job = setting.records.submit_job(&tenant(), job, None).await;
        let job = job.expect("submitted");
        assert_eq!(job.dataset_digest, digest);
        setting.backend.pass(20 * DAY);
        setting.archived().await;
        assert!(setting.rows(digest).await.is_some(), "a job reads it");
        let cancelled = setting.records.cancel_job(&tenant(), job.id).await;
        cancelled.expect("cancelled");
        setting.archived().await;
        assert_eq!(setting.rows(digest).await, None);

        // Nothing is left once nothing names it.
        let deleted = setting.library.delete_version(&tenant(), &name(), 1).await;
        deleted.expect("deleted");
        setting.backend.pass(100 * DAY);
        setting.archived().await;
        let found = setting.library.collect_orphans(i64::MAX).await;
        assert_eq!(found.expect("looked").moved, 1);
        assert!(!setting.blob(digest).exists());
    }
}

#[tokio::test]
async fn of_many_who_read_a_version_one_stores_its_rows_again() {
    for setting in settings().await {
        setting.filled().await;
        let digest = setting.version().await;
        let whole = setting.rows(digest).await;
        setting.backend.pass(8 * DAY);
        assert_eq!(setting.archived().await, 1);
        let outages = Outages::default();
        let library = Library::new(
            Config::default(),
            Store::open(setting.directory.path()).expect("a store"),
            outages.wrap(Arc::clone(&setting.records)),
            setting.prober.clone(),
        );
        let (owner, name) = (tenant(), name());
        let read = || library.snapshot_at(&owner, &name, Some(1));
        for ended in join_all((0..8).map(|_| read())).await {
            assert_eq!(ended.expect("read").digest, digest);
        }
        assert_eq!(outages.calls("refill_snapshot"), 2, "a call for each page");
        assert_eq!(setting.rows(digest).await, whole);
    }
}

#[tokio::test]
async fn a_snapshot_that_is_known_stays_as_long_as_one_that_was_just_taken() {
    for setting in settings().await {
        fixture::trainable(&setting.records, &tenant(), "t").await;
        let take = async || {
            let taken = setting.library.snapshot_at(&tenant(), &name(), None).await;
            taken.expect("taken").digest
        };
        let digest = take().await;
        setting.backend.pass(DAY - 2 * HOUR);
        assert_eq!(take().await, digest);
        setting.backend.pass(DAY - 2 * HOUR);
        setting.archived().await;
        assert!(setting.rows(digest).await.is_some(), "it may be read");
        // The same for a version of it, with the time that a version has.
        assert_eq!(setting.version().await, digest);
        setting.backend.pass(7 * DAY - HOUR);
        assert_eq!(setting.archived().await, 0);
        setting.backend.pass(2 * HOUR);
        assert_eq!(setting.archived().await, 1);
    }
}

#[tokio::test]
async fn what_a_job_read_is_kept_with_the_job() {
    for setting in settings().await {
        setting.filled().await;
        let job = fixture::submit(&setting.records, &tenant(), "t").await;
        let whole = setting.rows(job.dataset_digest).await.expect("rows");
        let cancelled = setting.records.cancel_job(&tenant(), job.id).await;
        cancelled.expect("cancelled");
        setting.backend.pass(2 * DAY);
        assert_eq!(setting.archived().await, 1);
        assert_eq!(setting.rows(job.dataset_digest).await, None);
        let found = setting.library.snapshot_of_job(&tenant(), job.id).await;
        assert_eq!(found.expect("found"), job.dataset_digest);
        assert_eq!(setting.rows(job.dataset_digest).await, Some(whole));
        let other = fixture::tenant("other");
        let found = setting.library.snapshot_of_job(&other, job.id).await;
        assert!(found.is_err());
    }
}

#[tokio::test]
async fn examples_stay_rows_until_their_blob_is_whole() {
    for setting in settings().await {
        setting.filled().await;
        let digest = setting.version().await;
        let whole = setting.rows(digest).await;
        setting.backend.pass(8 * DAY);
        setting.faults.fail_write(1);
        let failed = setting.library.tidy().await;
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        assert_eq!(setting.rows(digest).await, whole);
        assert_eq!(setting.archived().await, 1);
        assert_eq!(setting.rows(digest).await, None);
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_copied_keeps_no_other_from_going() {
    for setting in settings().await {
        let other = fixture::tenant("other");
        let mut digests = Vec::new();
        for tenant in [&tenant(), &other] {
            fixture::trainable(&setting.records, tenant, "t").await;
            let job = fixture::submit(&setting.records, tenant, "t").await;
            let cancelled = setting.records.cancel_job(tenant, job.id).await;
            cancelled.expect("cancelled");
            digests.push(job.dataset_digest);
        }
        setting.backend.pass(2 * DAY);
        setting.faults.fail_write(1);
        let failed = setting.library.tidy().await;
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        assert!(setting.rows(digests[0]).await.is_some(), "it is in no blob");
        let of_other = fixture::examples_of(&setting.records, &other, digests[1]).await;
        assert!(of_other.is_err(), "it is in a blob");
        assert_eq!(setting.archived().await, 1);
        assert_eq!(setting.rows(digests[0]).await, None);
    }
}

#[tokio::test]
async fn a_damaged_blob_is_told_and_read_once_it_is_whole_again() {
    for setting in settings().await {
        setting.filled().await;
        let digest = setting.version().await;
        let whole = setting.rows(digest).await;
        setting.backend.pass(8 * DAY);
        assert_eq!(setting.archived().await, 1);
        let blob = setting.blob(digest);
        let bytes = std::fs::read(&blob).expect("a blob");
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        std::fs::write(&blob, &damaged).expect("written");
        let refused = setting.read().await;
        assert!(
            matches!(refused, Err(Error::Store(store::Error::Digest { .. }))),
            "{refused:?}"
        );
        std::fs::remove_file(&blob).expect("removed");
        let refused = setting.read().await;
        assert!(
            matches!(refused, Err(Error::Store(store::Error::NotFound { .. }))),
            "{refused:?}"
        );
        assert_eq!(setting.rows(digest).await, None);
        std::fs::write(&blob, &bytes).expect("written");
        setting.read().await.expect("read");
        assert_eq!(setting.rows(digest).await, whole);
    }
}

#[tokio::test]
async fn blobs_of_snapshots_go_with_their_tenant() {
    for setting in settings().await {
        setting.filled().await;
        let digest = setting.version().await;
        setting.backend.pass(8 * DAY);
        assert_eq!(setting.archived().await, 1);
        let actor = Actor {
            principal: "test".into(),
            source: String::new(),
            request_id: String::new(),
        };
        let begun = setting.records.begin_erasure(&tenant(), &actor).await;
        begun.expect("begun");
        setting.library.erase().await.expect("begun");
        assert!(!setting.blob(digest).exists());
    }
}
