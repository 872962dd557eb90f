//! What a swap of a task's version asks of the records. Only builds that check themselves count statements.

use frameshift::ids::TenantId;
use frameshift::metadata::{
    ChangePage, ImportStart, ImportTarget, ImportedVersion, NewVersion, TaskRecord, VersionRecord,
    statements,
};
use frameshift::spec::{Digest, LabelSet};

use super::*;

/// What a swap asks the records for: the parts, in the order of a swap, and how many statements each may take.
struct Swap<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    taken: Vec<(&'static str, u64, u64)>,
}

impl Swap<'_> {
    async fn part<T>(
        &mut self,
        name: &'static str,
        most: u64,
        work: impl Future<Output = frameshift::metadata::Result<T>>,
    ) -> T {
        // Every test has a process of its own, and nothing else asks its database.
        let before = statements();
        let done = work.await.expect(name);
        self.taken.push((name, statements() - before, most));
        done
    }

    /// Imports a version and moves to it, as a server does that has the records alone.
    async fn run(&mut self, target: &ImportTarget, like: &VersionRecord) {
        let (store, tenant, task) = (self.store, self.tenant, &target.task);
        let cursor = store.changes_since(None, 10).await.expect("a place").cursor;
        let _: TaskRecord = self.part("the task", 1, store.get_task(tenant, task)).await;
        let start = self
            .part("a number", 6, store.reserve_import(tenant, target))
            .await;
        let ImportStart::Number(version) = start else {
            panic!("{start:?}");
        };
        let new = NewVersion {
            version,
            manifest: like.manifest.clone(),
            sha256: like.sha256,
            size_bytes: like.size_bytes,
        };
        let import = store.import_version(tenant, target, new);
        let imported: ImportedVersion = self.part("the import", 12, import).await;
        assert!(imported.is_desired);
        let since = store.changes_since(Some(cursor.clone()), 10);
        let page: ChangePage = self.part("the feed", 4, since).await;
        assert_eq!(page.changes.len(), 1);
        self.part("its versions", 1, store.version_range(tenant, task))
            .await;
        let pending = self.part("what is due", 1, store.pending_tasks()).await;
        assert_eq!(pending.len(), 1);
        self.part("the version", 1, store.get_version(tenant, task, version))
            .await;
        let moved = store.move_serving(tenant, task, version);
        assert!(self.part("the move", 7, moved).await);
    }
}

contract! {
    async fn a_swap_takes_few_statements(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let like = publish(store, &claim(store).await).await.version;
        let target = ImportTarget {
            task: task_id("t"),
            create: None,
            etag: None,
            request: None,
            sha256: Digest([3; 32]),
            labels: LabelSet::new(vec!["left".into(), "right".into()]).ok(),
        };
        let mut swap = Swap { store, tenant: &a, taken: Vec::new() };
        swap.run(&target, &like).await;
        eprintln!("statements: {:?}", swap.taken);
        for (name, taken, most) in swap.taken {
            assert!((1..=most).contains(&taken), "{name}: {taken} statements, at most {most}");
        }
    }
}
