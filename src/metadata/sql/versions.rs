//! Adapter versions: immutable rows.
//!
//! Invariant: (tenant, task, version) is given out once, ever; a row is inserted by a publication and never updated, but once with its test metrics.

use std::ops::RangeInclusive;

use super::super::{
    Error, Kind, NewVersion, Page, PageRequest, Result, Timestamp, VersionManifest, VersionRecord,
};
use super::changes;
use super::database::{Conn, Row, query};
use super::rows::{self, Columns, corrupt};
use super::usage::{self, Delta};
use crate::ids::{AdapterVersion, TaskId, TenantId};
use crate::spec::{Digest, Evaluation};

const LISTING: &str = "versions";

pub(super) async fn get(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    version: AdapterVersion,
) -> Result<VersionRecord> {
    let found = query("SELECT * FROM versions WHERE tenant = $1 AND task = $2 AND version = $3")
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version.get())
        .fetch_optional(conn)
        .await?;
    let name = format!("tasks/{task}/versions/{version}");
    rows::found(found, read, (Kind::Version, name))
}

pub(super) async fn all(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
) -> Result<Vec<VersionRecord>> {
    let found = query("SELECT * FROM versions WHERE tenant = $1 AND task = $2 ORDER BY version")
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_all(conn)
        .await?;
    found.iter().map(read).collect()
}

/// The numbers of a task's versions, from the oldest to the newest.
pub(super) async fn range(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
) -> Result<Option<RangeInclusive<AdapterVersion>>> {
    let sql = "SELECT MIN(version) AS oldest, MAX(version) AS newest FROM versions \
               WHERE tenant = $1 AND task = $2";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_one(conn)
        .await?;
    let (oldest, newest) = (row.version("oldest")?, row.version("newest")?);
    Ok(oldest.zip(newest).map(|(oldest, newest)| oldest..=newest))
}

pub(super) async fn list(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    page: &PageRequest,
) -> Result<Page<VersionRecord>> {
    // The task is in the token: a page of one task's versions does not continue another's.
    let listing = format!("{LISTING}/{task}");
    let start = page.start(&listing)?;
    let start: u32 = match start.as_str() {
        "" => 0,
        number => number.parse().map_err(|_| Error::PageToken)?,
    };
    // A confusion matrix is not read: a page of versions would have many.
    let sql = "SELECT *, json_remove(manifest, '$.evaluation.confusion') AS listed_manifest, \
               json_remove(test_evaluation, '$.confusion') AS listed_test \
               FROM versions WHERE tenant = $1 AND task = $2 AND version > $3 \
               ORDER BY version LIMIT $4";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(start)
        .bind(page.limit())
        .fetch_all(conn)
        .await?;
    let listed = |row| read_with(row, "listed_manifest", "listed_test");
    let versions: Vec<_> = found.iter().map(listed).collect::<Result<_>>()?;
    Ok(page.page(&listing, versions, |version| version.version.to_string()))
}

/// The next number of a task.
pub(super) async fn next_number(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
) -> Result<AdapterVersion> {
    let sql = "INSERT INTO version_numbers (tenant, task, last) VALUES ($1, $2, 1) \
               ON CONFLICT (tenant, task) \
               DO UPDATE SET last = version_numbers.last + 1 RETURNING last";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_one(conn)
        .await?;
    let version = row.version("last")?;
    version.ok_or_else(|| corrupt("last", "no number"))
}

pub(super) async fn insert(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    version: &NewVersion,
    now: Timestamp,
) -> Result<VersionRecord> {
    let sql = "INSERT INTO versions (tenant, task, version, manifest, sha256, size_bytes, \
               create_time) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version.version.get())
        .bind(rows::json("manifest", &version.manifest)?)
        .bind(version.sha256.0.to_vec())
        .bind(rows::int("size_bytes", version.size_bytes)?)
        .bind(now)
        .fetch_one(&mut *conn)
        .await?;
    // A job's version was counted when the job was submitted, an import's is compared with the limits by its caller.
    usage::count(conn, tenant, Delta::version(version.size_bytes)?).await?;
    changes::task_changed(conn, tenant, task, now).await?;
    read(&row)
}

pub(super) fn read(row: &Row) -> Result<VersionRecord> {
    read_with(row, "manifest", "test_evaluation")
}

/// Whether a version is of another backbone than the process has, so that it says nothing of it.
pub(super) async fn is_foreign(
    conn: &mut Conn,
    own: Option<&Digest>,
    (tenant, task): (&TenantId, &TaskId),
    version: AdapterVersion,
) -> Result<bool> {
    let Some(own) = own else { return Ok(false) };
    let sql = "SELECT json_extract(manifest, '$.backbone_digest') AS backbone FROM versions \
               WHERE tenant = $1 AND task = $2 AND version = $3";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version.get())
        .fetch_optional(conn)
        .await?;
    match found {
        Some(row) => Ok(row.id::<Digest>("backbone")? != *own),
        None => Ok(false),
    }
}

/// Notes the metrics of a version on the test split.
pub(super) async fn set_test(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    version: u32,
    test: &Evaluation,
) -> Result<()> {
    let sql =
        "UPDATE versions SET test_evaluation = $1 WHERE tenant = $2 AND task = $3 AND version = $4";
    query(sql)
        .bind(rows::json("test_evaluation", test)?)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version)
        .execute(conn)
        .await?;
    Ok(())
}

/// A version whose manifest and test metrics are in these columns.
fn read_with(row: &Row, manifest: &'static str, test: &'static str) -> Result<VersionRecord> {
    let manifest: VersionManifest = row.json(manifest)?;
    Ok(VersionRecord {
        tenant: row.id("tenant")?,
        task: row.id("task")?,
        version: row
            .version("version")?
            .ok_or_else(|| corrupt("version", "no number"))?,
        manifest,
        sha256: row.digest("sha256")?,
        size_bytes: row.number("size_bytes")?,
        create_time: row.int("create_time")?,
        test: row.optional_json(test)?,
    })
}
