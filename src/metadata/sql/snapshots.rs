//! Snapshots: what there is of them, read page by page.
//!
//! Invariant: a snapshot can be read when it is complete, and only then; one that was forgotten meanwhile is taken again.

use async_trait::async_trait;

use super::super::{
    DatasetVersionRecord, Error, ExampleRecord, Kind, Page, PageRequest, Result, SnapshotRecord,
    Snapshots,
};
use super::database::{Conn, query};
use super::rows::Columns;
use super::sources::{PAGE, Source, State};
use super::{Database, dataset_versions, datasets, decoded};
use crate::ids::{DatasetId, TenantId, VideoId};
use crate::spec::{Digest, LabelKind};

/// How often a snapshot is taken again that was forgotten while it was taken.
const TRIES: u32 = 3;

#[async_trait]
impl Snapshots for Database {
    async fn snapshot_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<SnapshotRecord> {
        let taken = take(self, tenant, dataset).await?;
        Ok(taken.record)
    }

    async fn snapshot_examples(
        &self,
        tenant: &TenantId,
        digest: Digest,
        after: Option<VideoId>,
        limit: u32,
    ) -> Result<Vec<ExampleRecord>> {
        let mut tx = self.list().await?;
        if !is_complete(&mut tx, tenant, digest).await? {
            return Err(missing(digest));
        }
        let sql = "SELECT video, label, split FROM snapshot_examples \
                   WHERE tenant = $1 AND digest = $2 AND video > $3 ORDER BY video LIMIT $4";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .bind(after.map(|video| video.to_string()).unwrap_or_default())
            .bind(limit)
            .fetch_all(&mut tx)
            .await?;
        found.iter().map(datasets::example).collect()
    }

    async fn snapshot_kind(&self, tenant: &TenantId, digest: Digest) -> Result<LabelKind> {
        let mut tx = self.read().await?;
        let sql = "SELECT label_kind FROM snapshots \
                   WHERE tenant = $1 AND digest = $2 AND forgotten = 0 AND complete = 1";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .fetch_optional(&mut tx)
            .await?;
        let row = found.ok_or_else(|| missing(digest))?;
        row.name("label_kind")
    }

    async fn undecoded(
        &self,
        tenant: &TenantId,
        sampling: Digest,
        videos: &[VideoId],
    ) -> Result<Vec<VideoId>> {
        decoded::unknown(self, tenant, sampling, videos).await
    }

    async fn remember_decoded(
        &self,
        tenant: &TenantId,
        sampling: Digest,
        videos: &[VideoId],
    ) -> Result<()> {
        decoded::remember(self, tenant, sampling, videos).await
    }

    async fn create_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        note: &str,
        limit: u32,
    ) -> Result<DatasetVersionRecord> {
        dataset_versions::create(self, tenant, dataset, note, limit).await
    }

    async fn get_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        number: u32,
    ) -> Result<DatasetVersionRecord> {
        let mut tx = self.read().await?;
        dataset_versions::get(&mut tx, tenant, dataset, number).await
    }

    async fn list_dataset_versions(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<DatasetVersionRecord>> {
        dataset_versions::list(self, tenant, dataset, page).await
    }

    async fn delete_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        number: u32,
    ) -> Result<()> {
        dataset_versions::delete(self, tenant, dataset, number).await
    }

    async fn sketches(
        &self,
        tenant: &TenantId,
        kind: Digest,
        videos: &[VideoId],
    ) -> Result<Vec<(VideoId, String)>> {
        decoded::sketches(self, tenant, kind, videos).await
    }

    async fn remember_sketches(
        &self,
        tenant: &TenantId,
        kind: Digest,
        sketches: &[(VideoId, String)],
    ) -> Result<()> {
        decoded::remember_sketches(self, tenant, kind, sketches).await
    }
}

pub(super) fn missing(digest: Digest) -> Error {
    Error::NotFound {
        kind: Kind::Snapshot,
        name: digest.to_string(),
    }
}

/// A snapshot, and which state of its data set it is.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) record: SnapshotRecord,
    /// `None` for a version's snapshot, which is current whatever the data set holds.
    state: Option<State>,
}

impl Taken {
    /// A snapshot that is kept.
    pub(super) fn kept(record: SnapshotRecord) -> Self {
        Self {
            record,
            state: None,
        }
    }

    /// Whether the snapshot can be read, asked in the transaction that begins to need it.
    pub(super) async fn is_there(&self, conn: &mut Conn, tenant: &TenantId) -> Result<bool> {
        is_complete(conn, tenant, self.record.digest).await
    }

    /// Whether the data set still holds what it held then.
    pub(super) async fn is_current(
        &self,
        conn: &mut Conn,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<bool> {
        let row = datasets::row(conn, tenant, dataset).await?;
        let now = State::of(&row)?;
        Ok(self.state.is_none_or(|then| then == now))
    }
}

/// Takes a snapshot of what a data set holds.
pub(super) async fn take(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
) -> Result<Taken> {
    for _ in 0..TRIES {
        let mut source = Source::open(store, tenant, dataset, PAGE).await?;
        let digest = source.digest().await?;
        if source.copy(store, digest).await? {
            let examples = source.examples;
            return Ok(Taken {
                record: SnapshotRecord { digest, examples },
                state: Some(source.state),
            });
        }
    }
    Err(Error::Unavailable(
        "a snapshot is forgotten faster than it is taken".into(),
    ))
}

/// Adds a page of examples, as JSON, but for those that are there.
pub(super) async fn add(
    conn: &mut Conn,
    tenant: &TenantId,
    digest: Digest,
    values: String,
) -> Result<()> {
    let sql = "INSERT INTO snapshot_examples (tenant, digest, video, label, split) \
               SELECT $1, $2, value ->> 0, value ->> 1, value ->> 2 FROM json_each($3) \
               WHERE true ON CONFLICT DO NOTHING";
    query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .bind(values)
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes a snapshot readable, unless it was forgotten meanwhile. Returns whether it is.
pub(super) async fn complete(conn: &mut Conn, tenant: &TenantId, digest: Digest) -> Result<bool> {
    let sql =
        "UPDATE snapshots SET complete = 1 WHERE tenant = $1 AND digest = $2 AND forgotten = 0";
    let completed = query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .execute(conn)
        .await?;
    Ok(completed > 0)
}

pub(super) async fn is_complete(
    conn: &mut Conn,
    tenant: &TenantId,
    digest: Digest,
) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM snapshots \
               WHERE tenant = $1 AND digest = $2 AND forgotten = 0 AND complete = 1) AS found";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .fetch_one(conn)
        .await?;
    row.flag("found")
}

#[cfg(test)]
mod tests;
