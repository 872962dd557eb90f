//! Whether any record names a blob.
//!
//! Invariant: what a record names, or a worker that is alive may be about to name, is named.

use sqlx::SqliteConnection;

use super::super::{BlobName, Result};
use super::Sqlite;
use crate::ids::TenantId;

pub(super) async fn is_named(store: &Sqlite, tenant: &TenantId, blob: &BlobName) -> Result<bool> {
    // Nearly every blob is named: a reader finds that without keeping writers waiting. Only the last word needs the write lock.
    if look_up(&mut *store.read().await?, tenant, blob).await? {
        return Ok(true);
    }
    let (mut tx, _) = store.write().await?;
    look_up(&mut tx, tenant, blob).await
}

async fn look_up(conn: &mut SqliteConnection, tenant: &TenantId, blob: &BlobName) -> Result<bool> {
    let query = match blob {
        BlobName::Video(video) => sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM videos WHERE tenant = ? AND id = ? AND delete_time IS NULL)",
        )
        .bind(tenant.as_str())
        .bind(video.to_string()),
        BlobName::Part(upload, number) => sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM parts WHERE tenant = ? AND upload = ? AND number = ?)",
        )
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .bind(*number),
        BlobName::Version(task, version, sha256) => sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM versions WHERE tenant = ?1 AND task = ?2 AND version = ?3 \
             AND sha256 = ?4) OR EXISTS (SELECT 1 FROM jobs WHERE tenant = ?1 AND task = ?2 \
             AND reserved_version = ?3 AND end_time IS NULL)",
        )
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version.get())
        .bind(sha256.0.to_vec()),
        BlobName::Job(job, key) => sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = ? AND id = ? \
             AND (end_time IS NULL OR reason = 'PROCESS_LOST') AND checkpoint ->> 'key' = ?)",
        )
        .bind(tenant.as_str())
        .bind(job.to_string())
        .bind(key.as_str()),
    };
    Ok(query.fetch_one(conn).await?)
}
