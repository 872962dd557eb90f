//! Snapshots of data sets that are taken and read in pages, data sets that are removed in batches, and what is remembered of videos.

use std::path::Path;
use std::time::Duration;

use frameshift::ids::TenantId;
use frameshift::metadata::{Config, Database, Error, Kind, PageRequest};
use frameshift::spec::{Digest, Split};
use sha2::{Digest as _, Sha256};
use sqlx::Connection;

use super::bulk;
use super::contract;
use super::fixture::*;

/// A database with a data set `many` of so many examples of two labels.
async fn many(folder: &Path, tenant: &TenantId, examples: u64) -> Store {
    let path = folder.join("metadata.sqlite");
    let store = Database::open(Config::at(path.clone()))
        .await
        .expect("a database");
    bulk::add_videos(&path, tenant, examples).await;
    let store: Store = std::sync::Arc::new(store);
    let id = dataset_id("many");
    store
        .create_dataset(tenant, &id, "".into(), None)
        .await
        .expect("created");
    for page in bulk::pages(examples, 2) {
        store.add_examples(tenant, &id, &page).await.expect("added");
    }
    store
}

/// Rows of examples of snapshots, whether they can be read or not.
async fn stored(folder: &Path) -> i64 {
    let mut conn = bulk::open(&folder.join("metadata.sqlite")).await;
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM snapshot_examples");
    let count = count.fetch_one(&mut conn).await.expect("counted");
    conn.close().await.expect("closed");
    count
}

#[tokio::test]
async fn a_snapshot_that_is_interrupted_anywhere_is_not_read_by_half() {
    const EXAMPLES: u64 = 5_500;
    let (folder, other) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let (a, id) = (tenant("a"), dataset_id("many"));
    let undisturbed = many(other.path(), &a, EXAMPLES).await;
    let taken = undisturbed.snapshot_dataset(&a, &id).await.expect("taken");
    let whole = examples_of(&undisturbed, &a, taken.digest)
        .await
        .expect("read");
    assert_eq!(
        whole,
        bulk::pages(EXAMPLES, 2).flatten().collect::<Vec<_>>()
    );

    let store = many(folder.path(), &a, EXAMPLES).await;
    let mut halves = 0;
    for polls in (1..).map(|step| step * 2) {
        assert!(polls < 100_000, "it never ends");
        let mut taking = store.snapshot_dataset(&a, &id);
        let mut left = polls;
        // Dropped after so many polls, as a crash would end it.
        let ended = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            left -= 1;
            taking.as_mut().poll(context).map(Some)
        });
        let ended = ended.await;
        drop(taking);
        let read = examples_of(&store, &a, taken.digest).await;
        let rows = stored(folder.path()).await;
        if let Some(ended) = ended {
            assert_eq!(ended.expect("taken"), taken);
            assert_eq!((read.expect("read"), rows), (whole, EXAMPLES as i64));
            break;
        }
        match read {
            Ok(read) => assert_eq!(read, whole),
            Err(Error::NotFound {
                kind: Kind::Snapshot,
                ..
            }) => {
                halves += i32::from((1..EXAMPLES as i64).contains(&rows));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(halves > 0, "it was never cut between two pages");
}

#[tokio::test]
async fn a_snapshot_of_the_release_before_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metadata.sqlite");
    let old = folder.path().join("migrations");
    std::fs::create_dir(&old).expect("a folder");
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metadata/migrations/sqlite");
    for file in std::fs::read_dir(migrations).expect("readable") {
        let file = file.expect("readable");
        let name = file.file_name().into_string().expect("a name");
        if *name < *"0007" {
            std::fs::copy(file.path(), old.join(name)).expect("copied");
        }
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .expect("a database");
    let migrator = sqlx::migrate::Migrator::new(old).await.expect("migrations");
    migrator.run(&pool).await.expect("migrated");
    let a = tenant("a");
    bulk::add_videos(&path, &a, 250).await;
    let text: String = (1..=250)
        .map(|number| {
            let (video, sha256) = (bulk::video_id(number), Digest([0; 32]));
            format!("{video}\t{sha256}\tlabel\ttrain\n")
        })
        .collect();
    let digest = Digest(Sha256::digest(text).into());
    for sql in [
        "INSERT INTO datasets (tenant, id, display_name, create_time, labels, examples) VALUES (?, 'd', '', 1, 1, 250)",
        "INSERT INTO label_counts SELECT ?, 'd', 'label', 250, 0, 0",
        "INSERT INTO examples SELECT ?, 'd', id, 'label', 'train' FROM videos",
    ] {
        sqlx::query(sql)
            .bind("a")
            .execute(&pool)
            .await
            .expect("written");
    }
    for sql in [
        "INSERT INTO snapshots (tenant, digest, create_time) VALUES ('a', ?, 1)",
        "INSERT INTO snapshot_examples SELECT tenant, ?, video, label, split FROM examples",
    ] {
        let written = sqlx::query(sql)
            .bind(digest.0.to_vec())
            .execute(&pool)
            .await;
        written.expect("written");
    }
    pool.close().await;

    let store: Store =
        std::sync::Arc::new(Database::open(Config::at(path)).await.expect("it opens"));
    let examples = examples_of(&store, &a, digest).await.expect("read");
    let expected = (1..=250).map(|number| example(bulk::video_id(number), "label", Split::Train));
    assert_eq!(examples, expected.collect::<Vec<_>>());
    let taken = store
        .snapshot_dataset(&a, &dataset_id("d"))
        .await
        .expect("taken");
    assert_eq!((taken.digest, taken.examples), (digest, 250));
}

#[tokio::test]
async fn a_large_data_set_is_gone_at_once_and_its_rows_go_in_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, id) = (tenant("a"), dataset_id("many"));
    let store = many(folder.path(), &a, 1_800).await;
    let whole = store.get_dataset(&a, &id).await.expect("found");
    assert_eq!((whole.examples, whole.labels), (1_800, 2));
    store.delete_dataset(&a, &id).await.expect("deleted");
    let gone = |error: Error| {
        matches!(
            error,
            Error::NotFound {
                kind: Kind::Dataset,
                ..
            }
        )
    };
    let first = PageRequest::first();
    let more = bulk::pages(1, 2).next().expect("a page");
    assert!(store.get_dataset(&a, &id).await.is_err_and(gone));
    assert!(store.list_examples(&a, &id, &first).await.is_err_and(gone));
    assert!(
        store
            .list_label_counts(&a, &id, &first)
            .await
            .is_err_and(gone)
    );
    assert!(store.add_examples(&a, &id, &more).await.is_err_and(gone));
    assert!(store.snapshot_dataset(&a, &id).await.is_err_and(gone));
    assert!(store.delete_dataset(&a, &id).await.is_err_and(gone));
    assert_eq!(
        store.list_datasets(&a, &first).await.expect("listed").items,
        []
    );
    // Nothing that is left of it keeps a video.
    store
        .delete_video(&a, bulk::video_id(7), false)
        .await
        .expect("deleted");

    let removed = store.forget_datasets().await.expect("removed");
    assert!((1..=1_000).contains(&removed), "{removed} rows at once");
    // Its name is free, whatever is left.
    store
        .create_dataset(&a, &id, "".into(), None)
        .await
        .expect("created");
    let fresh = store.get_dataset(&a, &id).await.expect("found");
    assert_eq!((fresh.examples, fresh.labels, fresh.counts), (0, 0, vec![]));
    assert_eq!(store.forget_datasets().await.expect("asked"), 0);

    for page in bulk::pages(6, 2).chain(bulk::pages(1_800, 2).skip(1)) {
        store.add_examples(&a, &id, &page).await.expect("added");
    }
    store.delete_dataset(&a, &id).await.expect("deleted");
    let mut calls = 0;
    while store.forget_datasets().await.expect("removed") > 0 {
        calls += 1;
        assert!(calls < 1_000, "it never ends");
    }
    assert!(calls > 2, "not all at once: {calls}");
    let mut conn = bulk::open(&folder.path().join("metadata.sqlite")).await;
    let sql = "SELECT (SELECT COUNT(*) FROM examples) + (SELECT COUNT(*) FROM label_counts) + (SELECT COUNT(*) FROM datasets)";
    let left: i64 = sqlx::query_scalar(sql)
        .fetch_one(&mut conn)
        .await
        .expect("counted");
    assert_eq!(left, 0);
}

contract! {
    async fn what_decodes_is_remembered_by_sampling_and_goes_with_the_video(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let ids: Vec<_> = videos.iter().map(|video| video.id).collect();
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let undecoded = async |sampling| store.undecoded(&a, sampling, &ids).await.expect("asked");
        assert_eq!(undecoded(one).await, ids);
        for _ in 0..2 {
            let remembered = store.remember_decoded(&a, one, &ids[..1]).await;
            remembered.expect("remembered");
        }
        assert_eq!(undecoded(one).await, ids[1..]);
        assert_eq!(undecoded(two).await, ids);
        // Forced out of its data set, it leaves a tombstone, which knows nothing.
        store.remember_decoded(&a, two, &ids).await.expect("remembered");
        store.delete_video(&a, ids[0], true).await.expect("deleted");
        assert_eq!(undecoded(one).await, ids);
        assert_eq!(undecoded(two).await, ids[..1]);
        let late = store.remember_decoded(&a, one, &ids).await;
        late.expect("what is gone is ignored");
        assert_eq!(undecoded(one).await, ids[..1]);
        let id = dataset_id("t");
        store.remove_examples(&a, &id, &ids[1..]).await.expect("removed");
        store.delete_video(&a, ids[1], false).await.expect("deleted");
        assert_eq!(undecoded(two).await, ids);
    }

    async fn a_sketch_is_kept_by_its_kind_and_goes_with_the_video(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let ids: Vec<_> = videos.iter().map(|video| video.id).collect();
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let known = async |kind| {
            let mut known = store.sketches(&a, kind, &ids).await.expect("read");
            known.sort();
            known
        };
        store.remember_decoded(&a, two, &ids).await.expect("remembered");
        assert_eq!((known(one).await, known(two).await), (vec![], vec![]));
        let own = vec![(ids[0], "aa".to_owned()), (ids[1], "bb".to_owned())];
        store.remember_sketches(&a, one, &own).await.expect("remembered");
        let other = [(ids[0], "cc".to_owned())];
        store.remember_sketches(&a, one, &other).await.expect("the first one stays");
        assert_eq!(known(one).await, own);
        let left = store.undecoded(&a, one, &ids).await.expect("asked");
        assert_eq!(left, ids[2..]);
        assert_eq!(store.sketches(&tenant("b"), one, &ids).await.expect("read"), []);
        store.delete_video(&a, ids[0], true).await.expect("deleted");
        assert_eq!(known(one).await, own[1..]);
        store.remember_sketches(&a, one, &own).await.expect("what is gone is ignored");
        assert_eq!(known(one).await, own[1..]);
    }

    async fn examples_of_a_version_are_kept_until_it_is_deleted(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = dataset_id("t");
        let made = store.create_dataset_version(&a, &id, "note", 2).await.expect("made");
        assert_eq!((made.number, made.note.as_str()), (1, "note"));
        let again = store.create_dataset_version(&a, &id, "other", 2).await.expect("the same");
        assert_eq!(again, made);
        assert!(store.get_dataset_version(&tenant("b"), &id, 1).await.is_err());
        let digest = made.snapshot.digest;
        let read = async || store.snapshot_examples(&a, digest, None, 10).await;
        while store.forget_snapshots(Duration::ZERO).await.expect("forgotten") > 0 {}
        assert_eq!(read().await.expect("kept").len() as u64, made.snapshot.examples);
        let video = read().await.expect("kept")[0].video;
        store.remove_examples(&a, &id, &[video]).await.expect("removed");
        let second = store.create_dataset_version(&a, &id, "", 2).await.expect("made");
        assert_eq!(second.number, 2);
        let third = example(video, "left", Split::Train);
        store.add_examples(&a, &id, &[third]).await.expect("added");
        let third = store.create_dataset_version(&a, &id, "", 2).await;
        assert!(matches!(third, Err(Error::TooManyVersions { limit: 2 })), "{third:?}");
        store.delete_dataset_version(&a, &id, 1).await.expect("deleted");
        assert!(store.delete_dataset_version(&a, &id, 1).await.is_err());
        while store.forget_snapshots(Duration::ZERO).await.expect("forgotten") > 0 {}
        assert!(matches!(read().await, Err(Error::NotFound { kind: Kind::Snapshot, .. })));
        let third = store.create_dataset_version(&a, &id, "", 2).await.expect("made");
        assert_eq!(third.number, 3, "a number is not given again");
        let page = store.list_dataset_versions(&a, &id, &PageRequest::first()).await;
        let numbers: Vec<u32> = page.expect("listed").items.iter().map(|own| own.number).collect();
        assert_eq!(numbers, [2, 3]);
        store.delete_dataset(&a, &id).await.expect("deleted");
        assert!(store.get_dataset_version(&a, &id, 2).await.is_err());
    }

    async fn many_videos_are_read_at_once(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let mut ids: Vec<_> = videos.iter().map(|video| video.id).collect();
        ids.push(new_video(1).id);
        let mut found = store.get_videos(&a, &ids).await.expect("read");
        found.sort_by_key(|video| video.id);
        assert_eq!(found, videos);
    }

    async fn a_job_reads_what_the_data_set_holds_when_it_is_submitted(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let first = submit(store, &a, "t").await;
        // Labels change places: the counts are the same, the snapshot is another.
        let swapped = [
            example(videos[0].id, "right", Split::Validation),
            example(videos[1].id, "left", Split::Train),
        ];
        store.add_examples(&a, &dataset_id("t"), &swapped).await.expect("changed");
        let second = submit(store, &a, "t").await;
        assert_ne!(first.dataset_digest, second.dataset_digest);
        let read = examples_of(store, &a, second.dataset_digest).await.expect("read");
        assert_eq!(read, swapped);
        let third = submit(store, &a, "t").await;
        assert_eq!(third.dataset_digest, second.dataset_digest);
    }

    async fn a_claim_tells_the_number_of_its_own_event(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        let events = store.list_events(&a, claim.job.id, 0, 10).await.expect("events");
        assert_eq!(events.last().map(|event| event.sequence), Some(claim.job.last_event));
    }
}
