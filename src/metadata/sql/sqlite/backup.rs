//! A copy of a database in one file, and which blobs belong to it. Works beside a server that has the database open.
//!
//! Invariant: the copy is one state of the database, whole and synced; the database that is copied is only read.

use std::fs::File;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use super::super::super::{BlobName, Error, Result};
use super::super::rows::{Columns, corrupt};
use super::BUSY;
use crate::blocking::blocking_io;
use crate::ids::TenantId;
use crate::spec::Digest;

/// A blob that a record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBlob {
    /// Tenant that owns the blob.
    pub tenant: TenantId,
    /// Name of the blob.
    pub name: BlobName,
    /// sha256 of the blob, where a record has it.
    pub sha256: Option<Digest>,
}

/// Contents of a copy of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Id of the database; `None` in one of a release that had no ids.
    pub id: Option<String>,
    /// Every blob that the records name.
    pub blobs: Vec<NamedBlob>,
}

/// Copies a database as it is now into a file that is not there yet.
///
/// # Errors
/// When the database cannot be read, or the file not written.
pub async fn copy(database: &Path, to: &Path) -> Result<()> {
    let unreadable = || Error::Unavailable("the path of a database is text".into());
    let target = to.to_str().ok_or_else(unreadable)?;
    let mut conn = open(database).await?;
    sqlx::query("VACUUM INTO ?")
        .bind(target)
        .execute(&mut conn)
        .await?;
    let copied = to.to_owned();
    let synced = blocking_io(move || File::open(copied)?.sync_all()).await;
    synced.map_err(|error| sqlx::Error::Io(error).into())
}

/// Reads the contents of a copy.
///
/// # Errors
/// When it cannot be read.
pub async fn contents(copy: &Path) -> Result<Contents> {
    let mut conn = open(copy).await?;
    let mut blobs = videos(&mut conn).await?;
    blobs.extend(parts(&mut conn).await?);
    blobs.extend(versions(&mut conn).await?);
    blobs.extend(checkpoints(&mut conn).await?);
    blobs.extend(snapshots(&mut conn).await?);
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'store')";
    let has_id: bool = sqlx::query_scalar(sql).fetch_one(&mut conn).await?;
    let id = if has_id {
        let id = sqlx::query_scalar("SELECT id FROM store");
        id.fetch_optional(&mut conn).await?
    } else {
        None
    };
    Ok(Contents { id, blobs })
}

async fn open(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    Ok(options.connect().await?)
}

async fn videos(conn: &mut SqliteConnection) -> Result<Vec<NamedBlob>> {
    let sql = "SELECT tenant, id, sha256 FROM videos WHERE delete_time IS NULL";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let blobs = found.iter().map(|row| {
        Ok(NamedBlob {
            tenant: row.id("tenant")?,
            name: BlobName::Video(row.id("id")?),
            sha256: Some(row.digest("sha256")?),
        })
    });
    blobs.collect()
}

async fn parts(conn: &mut SqliteConnection) -> Result<Vec<NamedBlob>> {
    let sql = "SELECT tenant, upload, number FROM parts";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let blobs = found.iter().map(|row| {
        Ok(NamedBlob {
            tenant: row.id("tenant")?,
            name: BlobName::Part(row.id("upload")?, row.number("number")?),
            sha256: None,
        })
    });
    blobs.collect()
}

async fn versions(conn: &mut SqliteConnection) -> Result<Vec<NamedBlob>> {
    let sql = "SELECT tenant, task, version, sha256 FROM versions";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let blobs = found.iter().map(|row| {
        let version = row
            .version("version")?
            .ok_or_else(|| corrupt("version", "no number"))?;
        let sha256 = row.digest("sha256")?;
        Ok(NamedBlob {
            tenant: row.id("tenant")?,
            name: BlobName::Version(row.id("task")?, version, sha256),
            sha256: Some(sha256),
        })
    });
    blobs.collect()
}

/// Blobs of snapshots, which a database of an earlier release does not have.
async fn snapshots(conn: &mut SqliteConnection) -> Result<Vec<NamedBlob>> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('snapshots') WHERE name = 'blob_size')";
    if !sqlx::query_scalar(sql).fetch_one(&mut *conn).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT tenant, digest, blob_sha256 FROM snapshots WHERE blob_size > 0";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let blobs = found.iter().map(|row| {
        Ok(NamedBlob {
            tenant: row.id("tenant")?,
            name: BlobName::Snapshot(row.digest("digest")?),
            sha256: Some(row.digest("blob_sha256")?),
        })
    });
    blobs.collect()
}

async fn checkpoints(conn: &mut SqliteConnection) -> Result<Vec<NamedBlob>> {
    let sql = "SELECT tenant, id, checkpoint ->> 'key' AS key FROM jobs \
               WHERE end_time IS NULL AND checkpoint IS NOT NULL";
    let mut found = sqlx::query(sql).fetch_all(&mut *conn).await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('jobs') WHERE name = 'earlier_checkpoints')";
    // A copy of a release that kept only the newest ones has no such column.
    if sqlx::query_scalar(sql).fetch_one(&mut *conn).await? {
        let sql = "SELECT jobs.tenant, jobs.id, earlier.value ->> 'key' AS key \
                   FROM jobs, json_each(jobs.earlier_checkpoints) AS earlier WHERE jobs.end_time IS NULL";
        found.extend(sqlx::query(sql).fetch_all(conn).await?);
    }
    let blobs = found.iter().map(|row| {
        Ok(NamedBlob {
            tenant: row.id("tenant")?,
            name: BlobName::Job(row.id("id")?, row.text("key")?),
            sha256: None,
        })
    });
    blobs.collect()
}
