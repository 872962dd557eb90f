//! The rows that use cases lock before they decide on them.
//!
//! Invariant: every transaction takes its locks in one order, so that no two wait for each other: request, tenant, data sets, videos, task, snapshot,
//! upload, job, then what a duty is done under. Whatever is counted for a tenant is locked with the tenant.

use super::super::{Error, Kind, Result};
use super::database::{Conn, locking, query, sharing};
use super::rows::Columns as _;
use crate::ids::{DatasetId, JobId, TaskId, TenantId, UploadId, VideoId};

/// The first key of an operator.
pub(super) const BOOTSTRAP: &str = "bootstrap";

/// What a tenant stores and has under way: its counts, its limits.
pub(super) async fn tenant(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    // The row has to be there to be locked.
    let sql = "INSERT INTO tenant_usage (tenant, videos, bytes, tasks, versions) \
               VALUES ($1, 0, 0, 0, 0) ON CONFLICT (tenant) DO UPDATE SET \
               videos = tenant_usage.videos";
    query(sql).bind(tenant.as_str()).hold(conn).await.map(drop)
}

/// A tenant that an administrator made.
pub(super) async fn tenant_record(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT 1 FROM tenants WHERE tenant = $1";
    locking(sql)
        .bind(tenant.as_str())
        .hold(conn)
        .await
        .map(drop)
}

/// A data set with its examples. One that is made only after this is not there for the transaction.
pub(super) async fn dataset(conn: &mut Conn, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
    let sql = "SELECT 1 FROM datasets WHERE tenant = $1 AND id = $2";
    let lock = locking(sql).bind(tenant.as_str()).bind(dataset.as_str());
    match lock.hold(conn).await? {
        true => Ok(()),
        false => Err(Error::NotFound {
            kind: Kind::Dataset,
            name: dataset.to_string(),
        }),
    }
}

/// Locks the data sets that hold a video.
async fn datasets_of(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<()> {
    let sql = "SELECT 1 FROM datasets WHERE tenant = $1 AND id IN \
               (SELECT dataset FROM examples WHERE tenant = $1 AND video = $2) ORDER BY id";
    let lock = locking(sql).bind(tenant.as_str()).bind(video.to_string());
    lock.hold(conn).await.map(drop)
}

/// A video and the data sets that hold it. Returns whether those are all: one may have come between the two locks, and then the transaction has to be
/// begun again, since a data set comes before its videos.
pub(super) async fn video_and_datasets(
    conn: &mut Conn,
    tenant: &TenantId,
    video: VideoId,
) -> Result<bool> {
    let before = holding(conn, tenant, video).await?;
    datasets_of(conn, tenant, video).await?;
    self::video(conn, tenant, video).await?;
    let now = holding(conn, tenant, video).await?;
    Ok(now.iter().all(|dataset| before.contains(dataset)))
}

/// The data sets that hold a video.
async fn holding(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<Vec<String>> {
    let sql = "SELECT dataset FROM examples WHERE tenant = $1 AND video = $2";
    let found = query(sql).bind(tenant.as_str()).bind(video.to_string());
    let found = found.fetch_all(conn).await?;
    found.iter().map(|row| row.text("dataset")).collect()
}

/// A video, which nobody can put into a data set meanwhile.
async fn video(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<()> {
    let sql = "SELECT 1 FROM videos WHERE tenant = $1 AND id = $2";
    let lock = locking(sql).bind(tenant.as_str()).bind(video.to_string());
    lock.hold(conn).await.map(drop)
}

/// Videos, which nobody can delete meanwhile; as JSON, an array of arrays that begin with an id.
pub(super) async fn videos(conn: &mut Conn, tenant: &TenantId, videos: &str) -> Result<()> {
    let sql = "SELECT 1 FROM videos WHERE tenant = $1 AND id IN \
               (SELECT value ->> 0 FROM json_each($2)) ORDER BY id";
    let lock = sharing(sql).bind(tenant.as_str()).bind(videos);
    lock.hold(conn).await.map(drop)
}

/// A task with what serves it. Returns whether there may be one: one that is made only after this is not there for the transaction.
pub(super) async fn task(conn: &mut Conn, tenant: &TenantId, task: &TaskId) -> Result<bool> {
    let sql = "SELECT 1 FROM tasks WHERE tenant = $1 AND id = $2";
    let lock = locking(sql).bind(tenant.as_str()).bind(task.as_str());
    lock.hold(conn).await
}

/// An upload with its parts.
pub(super) async fn upload(conn: &mut Conn, tenant: &TenantId, upload: UploadId) -> Result<()> {
    let sql = "SELECT 1 FROM uploads WHERE tenant = $1 AND id = $2";
    let lock = locking(sql).bind(tenant.as_str()).bind(upload.to_string());
    lock.hold(conn).await.map(drop)
}

/// A job.
pub(super) async fn job(conn: &mut Conn, tenant: &TenantId, job: JobId) -> Result<()> {
    let sql = "SELECT 1 FROM jobs WHERE tenant = $1 AND id = $2";
    let lock = locking(sql).bind(tenant.as_str()).bind(job.to_string());
    lock.hold(conn).await.map(drop)
}

/// A snapshot, whose examples nobody can forget meanwhile.
pub(super) async fn snapshot(conn: &mut Conn, tenant: &TenantId, digest: &[u8]) -> Result<()> {
    let sql = "SELECT 1 FROM snapshots WHERE tenant = $1 AND digest = $2";
    let lock = sharing(sql).bind(tenant.as_str()).bind(digest);
    lock.hold(conn).await.map(drop)
}

/// The record of a tenant's erasure, of which one process at a time takes a step.
pub(super) async fn erasure(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT 1 FROM erasures WHERE tenant = $1";
    locking(sql)
        .bind(tenant.as_str())
        .hold(conn)
        .await
        .map(drop)
}

/// The note of which changes are gone.
pub(super) async fn feed(conn: &mut Conn) -> Result<()> {
    locking("SELECT 1 FROM change_feed")
        .hold(conn)
        .await
        .map(drop)
}

/// A key.
pub(super) async fn key(conn: &mut Conn, key: &str) -> Result<()> {
    let sql = "SELECT 1 FROM api_keys WHERE id = $1";
    locking(sql).bind(key).hold(conn).await.map(drop)
}

/// What one transaction at a time may decide, in all processes.
pub(super) async fn duty(conn: &mut Conn, name: &str) -> Result<()> {
    let sql = "SELECT 1 FROM leases WHERE name = $1";
    locking(sql).bind(name).hold(conn).await.map(drop)
}
