//! The change feed: every change of a task is in it once, in the order of the commits, and a reader that missed some is told.

use frameshift::metadata::{ChangePage, ChangeRecord, Config, Database, MetadataStore, TaskUpdate};

use super::contract;
use super::fixture::{self, Store};

async fn end(store: &Store) -> frameshift::metadata::Cursor {
    store.changes_since(None, 10).await.expect("read").cursor
}

async fn since(store: &Store, cursor: &frameshift::metadata::Cursor) -> ChangePage {
    store
        .changes_since(Some(cursor.clone()), 100)
        .await
        .expect("read")
}

fn changed(tenant: &str, task: &str) -> ChangeRecord {
    ChangeRecord {
        tenant: fixture::tenant(tenant),
        task: fixture::task_id(task),
        is_deleted: false,
    }
}

fn deleted(tenant: &str, task: &str) -> ChangeRecord {
    ChangeRecord {
        is_deleted: true,
        ..changed(tenant, task)
    }
}

contract! {
    async fn a_task_that_changes_is_in_the_feed_once_with_its_newest_change(store: Store) {
        let (a, b) = (fixture::tenant("a"), fixture::tenant("b"));
        let begin = end(store).await;
        for (tenant, name) in [(&a, "s"), (&a, "t"), (&b, "t")] {
            store.create_task(tenant, fixture::task(name), None).await.expect("created");
        }
        let page = since(store, &begin).await;
        assert_eq!(page.changes, [changed("a", "s"), changed("a", "t"), changed("b", "t")]);
        assert!(page.is_last && !page.is_gap);
        assert_eq!(since(store, &page.cursor).await.changes, []);

        let update = TaskUpdate { auto_serve: Some(false), ..TaskUpdate::default() };
        store.update_task(&a, &fixture::task_id("t"), update, None).await.expect("updated");
        store.delete_task(&a, &fixture::task_id("s"), None).await.expect("deleted");
        let later = since(store, &page.cursor).await;
        assert_eq!(later.changes, [changed("a", "t"), deleted("a", "s")]);
        // Who reads from the beginning sees each task once.
        let all = since(store, &begin).await;
        assert_eq!(all.changes, [changed("b", "t"), changed("a", "t"), deleted("a", "s")]);
        for end in [all.cursor, later.cursor] {
            assert_eq!(since(store, &end).await.changes, []);
        }
    }

    async fn a_deleted_video_is_a_change_of_its_tenants_videos(store: Store) {
        let (a, b) = (fixture::tenant("a"), fixture::tenant("b"));
        let videos = [fixture::video(store, &a).await, fixture::video(store, &b).await];
        let begin = end(store).await;
        assert_eq!(since(store, &begin).await.videos, []);
        store.delete_video(&a, videos[0].id, false).await.expect("deleted");
        let page = since(store, &begin).await;
        assert_eq!((page.videos, page.changes), (vec![a], vec![]));
        assert_eq!(since(store, &page.cursor).await.videos, []);
    }

    async fn a_version_its_move_and_its_failure_are_changes_of_its_task(store: Store) {
        let a = fixture::tenant("a");
        let task = fixture::task_id("t");
        fixture::trainable(store, &a, "t").await;
        let mut cursor = end(store).await;
        let claim = {
            fixture::submit(store, &a, "t").await;
            fixture::claim(store).await
        };
        assert_eq!(since(store, &cursor).await.changes, [], "a job is no change of its task");
        let version = fixture::publish(store, &claim).await.version.version;
        let mut news = async |what: &str| {
            let page = since(store, &cursor).await;
            assert_eq!(page.changes, [changed("a", "t")], "{what}");
            cursor = page.cursor;
        };
        news("published").await;
        assert!(store.serving_failed(&a, &task, version, "no").await.expect("noted"));
        news("failed").await;
        assert!(store.move_serving(&a, &task, version).await.expect("moved"));
        news("moved").await;
        assert!(store.note_serving(&a, &task, version, Some("damaged")).await.expect("noted"));
        news("noted").await;
        assert!(!store.note_serving(&a, &task, version, Some("damaged")).await.expect("asked"));
        let etag = store.get_task(&a, &task).await.expect("found").etag;
        assert_eq!(since(store, &cursor).await.changes, [], "nothing new, nothing changed");
        store.set_desired(&a, &task, &version.into(), &etag).await.expect("set");
        let news = async |what: &str| {
            assert_eq!(since(store, &cursor).await.changes, [changed("a", "t")], "{what}");
        };
        news("asked for anew").await;
    }

    async fn what_was_refused_is_no_change(store: Store) {
        let a = fixture::tenant("a");
        let task = fixture::task_id("t");
        store.create_task(&a, fixture::task("t"), None).await.expect("created");
        let begin = end(store).await;
        store.create_task(&a, fixture::task("t"), None).await.expect_err("there already");
        store.update_task(&a, &task, TaskUpdate::default(), Some("stale")).await.expect_err("stale");
        store.delete_task(&a, &fixture::task_id("u"), None).await.expect_err("not there");
        assert!(!store.move_serving(&a, &task, "7".parse().expect("a number")).await.expect("asked"));
        assert_eq!(since(store, &begin).await.changes, []);
    }

    async fn the_feed_is_read_page_by_page(store: Store) {
        let a = fixture::tenant("a");
        let begin = end(store).await;
        for i in 0..5 {
            store.create_task(&a, fixture::task(&format!("t{i}")), None).await.expect("created");
        }
        let (mut cursor, mut seen) = (begin, Vec::new());
        for _ in 0..100 {
            let page = store.changes_since(Some(cursor), 2).await.expect("read");
            cursor = page.cursor;
            seen.extend(page.changes.into_iter().map(|change| change.task.to_string()));
            if page.is_last {
                break;
            }
        }
        assert_eq!(seen, ["t0", "t1", "t2", "t3", "t4"]);
    }

    async fn serving_versions_are_listed_with_their_backbones_page_by_page(store: Store) {
        for (tenant, task) in [("a", "s"), ("a", "t"), ("b", "s")] {
            let tenant = fixture::tenant(tenant);
            fixture::trainable(store, &tenant, task).await;
            fixture::submit(store, &tenant, task).await;
            let claim = fixture::claim(store).await;
            let version = fixture::publish(store, &claim).await.version.version;
            let id = fixture::task_id(task);
            assert!(store.move_serving(&tenant, &id, version).await.expect("moved"));
        }
        let all = store.serving_versions(None, 10).await.expect("listed");
        let names: Vec<_> = all
            .iter()
            .map(|own| format!("{}/{}", own.version.tenant, own.version))
            .collect();
        assert_eq!(names, ["a/tasks/s/versions/1", "a/tasks/t/versions/1", "b/tasks/s/versions/1"]);
        let digest = frameshift::spec::Digest([1; 32]);
        assert!(all.iter().all(|own| own.backbone_digest == digest && own.is_desired));
        let first = &all[0].version;
        let after = Some((&first.tenant, &first.task));
        let page = store.serving_versions(after, 1).await.expect("listed");
        assert_eq!(page, all[1..2]);
    }
}

#[tokio::test]
async fn a_reader_that_missed_a_deletion_is_told() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("metadata.sqlite");
    let sqlite = Database::open(Config::at(path.clone()))
        .await
        .expect("a database");
    let store: Store = std::sync::Arc::new(sqlite);
    let a = fixture::tenant("a");
    let begin = end(&store).await;
    for name in ["s", "t"] {
        let task = fixture::task(name);
        store.create_task(&a, task, None).await.expect("created");
    }
    let delete = async |name: &str| {
        let id = fixture::task_id(name);
        store.delete_task(&a, &id, None).await.expect("deleted");
    };
    delete("s").await;
    let file = format!("sqlite://{}", path.display());
    let other = sqlx::SqlitePool::connect(&file).await.expect("opened");
    // Two days pass.
    sqlx::query("UPDATE changes SET change_time = change_time - 172800000000")
        .execute(&other)
        .await
        .expect("aged");
    other.close().await;
    assert!(!since(&store, &begin).await.is_gap, "still on record");
    delete("t").await;
    let gap = since(&store, &begin).await;
    assert!(gap.is_gap && gap.is_last && gap.changes.is_empty());
    assert!(!since(&store, &gap.cursor).await.is_gap);

    // A place that an older copy of the database never reached is a gap, too.
    let (_, fresh) = super::backends().await.remove(0);
    assert!(since(&fresh.store, &gap.cursor).await.is_gap);
    let _: &dyn MetadataStore = &*store;
}
