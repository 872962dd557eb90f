//! Which snapshots have their examples in blobs, and the way back.
//!
//! Invariant: rows of a snapshot that a version names go only when the record has a blob; they come back a page in a transaction, and are read again when
//! all are there.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    Archive, Archives, Error, ExampleRecord, PagePlace, Result, Timestamp, Unarchived,
};
use super::database::{Conn, query};
use super::retention::{unread_since, version_unread_since};
use super::rows::{self, Columns};
use super::snapshots::{add, complete, is_complete, missing};
use super::{Database, micros};
use crate::ids::TenantId;
use crate::spec::Digest;

/// Snapshots that one call finds.
const SOME: u32 = 100;
/// How long after a reading the next one is not noted.
const NOTED: Duration = Duration::from_secs(60 * 60);

#[async_trait]
impl Archives for Database {
    async fn unarchived_snapshots(
        &self,
        age: Duration,
        after: Option<&Unarchived>,
    ) -> Result<Vec<Unarchived>> {
        let mut tx = self.list().await?;
        let now = self.now(&mut tx).await?;
        let sql = "SELECT create_time, tenant, digest FROM snapshots INDEXED BY snapshots_with_examples \
                   WHERE forgotten < 2 AND forgotten = 0 AND complete = 1 AND blob_size = 0 \
                   AND create_time <= $1 \
                   AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
                   WHERE jobs.tenant = snapshots.tenant AND dataset_digest = digest \
                   AND (end_time IS NULL OR reason = 'PROCESS_LOST')) \
                   AND (CASE WHEN EXISTS (SELECT 1 FROM dataset_versions \
                   WHERE dataset_versions.tenant = snapshots.tenant \
                   AND dataset_versions.digest = snapshots.digest) THEN create_time <= $2 \
                   ELSE EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
                   WHERE jobs.tenant = snapshots.tenant AND dataset_digest = digest) END) \
                   AND create_time >= $3 AND (create_time, tenant, digest) > ($3, $4, $5) \
                   ORDER BY create_time, tenant, digest LIMIT $6";
        let found = query(sql)
            .bind(unread_since(now, age))
            .bind(version_unread_since(now, age))
            .bind(after.map_or(Timestamp::MIN, |own| own.create_time))
            .bind(after.map_or("", |own| own.tenant.as_str()))
            .bind(after.map_or_else(Vec::new, |own| own.digest.0.to_vec()))
            .bind(SOME)
            .fetch_all(&mut tx)
            .await?;
        let unarchived = found.iter().map(|row| {
            Ok(Unarchived {
                create_time: row.int("create_time")?,
                tenant: row.id("tenant")?,
                digest: row.digest("digest")?,
            })
        });
        unarchived.collect()
    }

    async fn note_archive(
        &self,
        tenant: &TenantId,
        digest: Digest,
        archive: Archive,
    ) -> Result<bool> {
        let (mut tx, _) = self.write().await?;
        let sql = "UPDATE snapshots SET blob = $3, blob_size = $4, blob_sha256 = $5 \
                   WHERE tenant = $1 AND digest = $2 AND complete = 1";
        let noted = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .bind(digest.to_string())
            .bind(rows::int("blob_size", archive.size_bytes)?)
            .bind(archive.sha256.0.to_vec())
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(noted > 0)
    }

    async fn find_archive(&self, tenant: &TenantId, digest: Digest) -> Result<Option<Archive>> {
        let mut conn = self.read().await?;
        let now = self.now(&mut conn).await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM snapshots WHERE tenant = $1 AND digest = $2 \
                   AND forgotten = 0 AND complete = 1 AND create_time > $3) AS found";
        let is_noted = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .bind(now.saturating_sub(micros(NOTED)))
            .fetch_one(&mut conn)
            .await?
            .flag("found")?;
        drop(conn);
        if is_noted {
            return Ok(None);
        }
        let (mut tx, now) = self.write().await?;
        if renew(&mut tx, tenant, digest, now).await? {
            tx.commit().await?;
            return Ok(None);
        }
        let sql = "SELECT blob_size, blob_sha256 FROM snapshots \
                   WHERE tenant = $1 AND digest = $2 AND blob_size > 0";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .fetch_optional(&mut tx)
            .await?;
        let row = found.ok_or_else(|| missing(digest))?;
        Ok(Some(Archive {
            size_bytes: row.number("blob_size")?,
            sha256: row.digest("blob_sha256")?,
        }))
    }

    async fn refill_snapshot(
        &self,
        tenant: &TenantId,
        digest: Digest,
        examples: &[ExampleRecord],
        page: PagePlace,
    ) -> Result<bool> {
        let values = values(examples)?;
        let (mut tx, now) = self.write().await?;
        let sql = "UPDATE snapshots SET forgotten = 0, complete = 0, create_time = $3 \
                   WHERE tenant = $1 AND digest = $2 \
                   AND (forgotten > 0 AND $4 = 1 OR forgotten = 0 AND complete = 0)";
        let begun = query(sql)
            .bind(tenant.as_str())
            .bind(digest.0.to_vec())
            .bind(now)
            .bind(page.is_first)
            .execute(&mut tx)
            .await?;
        if begun == 0 {
            // Another process may have been quicker: then everything is there.
            if is_complete(&mut tx, tenant, digest).await? {
                return Ok(true);
            }
            return Err(match page.is_first {
                true => missing(digest),
                // The pages before this one may be gone.
                false => Error::Unavailable("a snapshot was forgotten while it was stored".into()),
            });
        }
        add(&mut tx, tenant, digest, values).await?;
        let is_whole = page.is_last && complete(&mut tx, tenant, digest).await?;
        tx.commit().await?;
        Ok(is_whole)
    }
}

/// Keeps the rows of a snapshot from now on for as long as those of one that was just taken: whoever reads it soon has the time for that. Returns whether it is
/// there; nobody can forget it meanwhile.
pub(super) async fn renew(
    conn: &mut Conn,
    tenant: &TenantId,
    digest: Digest,
    now: Timestamp,
) -> Result<bool> {
    let sql = "UPDATE snapshots SET create_time = $3 \
               WHERE tenant = $1 AND digest = $2 AND forgotten = 0 AND complete = 1";
    let renewed = query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .bind(now)
        .execute(conn)
        .await?;
    Ok(renewed > 0)
}

/// Examples as a statement reads them row by row.
fn values(examples: &[ExampleRecord]) -> Result<String> {
    let values = examples.iter().map(|own| {
        let split = rows::name("split", own.split)?;
        Ok((own.video.to_string(), own.labels.text(), split))
    });
    rows::json("examples", &values.collect::<Result<Vec<_>>>()?)
}
