//! What goes in time: expired uploads, old request ids, events of jobs that have ended, snapshots that nobody reads, old jobs.
//!
//! Invariant: a call is one transaction over at most [`BATCH`] rows, or over the events of one job, which were thinned before; what it leaves half done is
//! found again by the next one.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    AgedPlace, AgedVideos, EndedPart, Result, Retention, Timestamp, UnfinishedUploads,
};
use super::database::{Conn, Query, Row, query, skipping};
use super::rows::Columns;
use super::uploads::EXPIRED;
use super::{Database, aged, duties, folds, micros, removal};
use crate::ids::TenantId;

/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;
/// How long the examples of a version stay rows at least when nobody reads them: servers of a release that does not know blobs of snapshots can take over
/// again for so long.
const VERSIONS: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The oldest schema whose releases know blobs of snapshots.
const ARCHIVED: i64 = 61;

/// Which events of a job there are, as its row says it: all, a sample of its steps, changes of state only, a sample that is still to be folded.
const ALL: u8 = 0;
const SAMPLE: u8 = 1;
const STATES: u8 = 2;
const UNFOLDED: u8 = 3;

#[async_trait]
impl Retention for Database {
    async fn expire_uploads(&self) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let sql = "UPDATE uploads SET ending = $1, end_time = $2, expire_time = NULL \
                   WHERE (tenant, id) IN \
                   (SELECT tenant, id FROM uploads WHERE expire_time <= $2 LIMIT $3) \
                   AND expire_time <= $2";
        let ended = query(sql)
            .bind(EXPIRED)
            .bind(now)
            .bind(BATCH)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(ended)
    }

    async fn ended_parts(&self) -> Result<Vec<EndedPart>> {
        let sql = "SELECT parts.tenant AS tenant, upload, number FROM uploads JOIN parts \
                   ON parts.tenant = uploads.tenant AND parts.upload = uploads.id \
                   WHERE uploads.end_time IS NOT NULL LIMIT $1";
        let found = query(sql)
            .bind(BATCH)
            .fetch_all(&mut self.look().await?)
            .await?;
        let part = |row: &Row| {
            Ok(EndedPart {
                tenant: row.id("tenant")?,
                upload: row.id("upload")?,
                number: row.number("number")?,
            })
        };
        found.iter().map(part).collect()
    }

    async fn forget_parts(&self, parts: &[EndedPart]) -> Result<()> {
        for some in parts.chunks(BATCH as usize) {
            let (mut tx, _) = self.write().await?;
            for part in some {
                // Only of an upload that has ended: one that is written to needs its parts, whatever the caller believes.
                let sql = "DELETE FROM parts WHERE tenant = $1 AND upload = $2 AND number = $3 \
                           AND EXISTS (SELECT 1 FROM uploads WHERE tenant = $1 AND id = $2 \
                           AND end_time IS NOT NULL)";
                query(sql)
                    .bind(part.tenant.as_str())
                    .bind(part.upload.to_string())
                    .bind(part.number)
                    .execute(&mut tx)
                    .await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    async fn forget_uploads(&self, age: Duration) -> Result<u64> {
        let sql = "DELETE FROM uploads WHERE (tenant, id) IN \
                   (SELECT tenant, id FROM uploads WHERE end_time <= $1 AND NOT EXISTS \
                   (SELECT 1 FROM parts WHERE parts.tenant = uploads.tenant \
                   AND parts.upload = uploads.id) LIMIT $2)";
        self.delete_older(sql, age).await
    }

    async fn forget_requests(&self, age: Duration) -> Result<u64> {
        let sql = "DELETE FROM requests WHERE (tenant, method, request_id) IN \
                   (SELECT tenant, method, request_id FROM requests WHERE create_time <= $1 LIMIT $2)";
        self.delete_older(sql, age).await
    }

    async fn thin_events(&self, keep: u32) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        // Most jobs have few events: they need no look at their rows.
        let sql = "UPDATE jobs SET thinned = 3 WHERE (tenant, id) IN \
                   (SELECT tenant, id FROM jobs WHERE end_time <= $1 AND thinned = 0 \
                   AND last_event <= $2 LIMIT $3)";
        let short = query(sql)
            .bind(now)
            .bind(keep)
            .bind(BATCH)
            .execute(&mut tx)
            .await?;
        let mut done = short;
        let long = Ended::first(&mut tx, ALL, now).await?;
        if done < u64::from(BATCH)
            && let Some(job) = long
        {
            let thinned = job.thin(&mut tx, keep).await?;
            if thinned == 0 {
                job.mark(&mut tx, UNFOLDED).await?;
            }
            done += thinned.max(1);
        }
        if done < u64::from(BATCH)
            && let Some(job) = Ended::first(&mut tx, UNFOLDED, now).await?
        {
            done += folds::fold(&mut tx, &job.tenant, &job.id).await?.max(1);
            job.mark(&mut tx, SAMPLE).await?;
        }
        tx.commit().await?;
        Ok(done)
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let Some(job) = Ended::first(&mut tx, SAMPLE, before(now, age)).await? else {
            return Ok(0);
        };
        let forgotten = job.forget(&mut tx, Events::NotOfState).await?;
        if forgotten == 0 {
            folds::keep_states(&mut tx, &job.tenant, &job.id).await?;
            job.mark(&mut tx, STATES).await?;
        }
        tx.commit().await?;
        Ok(forgotten.max(1))
    }

    async fn forget_snapshots(&self, age: Duration) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let marked = mark_unread(&mut tx, now, age).await?;
        let emptied = empty_snapshot(&mut tx).await?;
        tx.commit().await?;
        Ok(marked + emptied)
    }

    async fn drop_unnamed_snapshots(&self) -> Result<u64> {
        // Nearly all are named, so that this reads every one: nobody who writes waits for it.
        let sql = "SELECT tenant, digest FROM snapshots INDEXED BY forgotten_snapshots \
                   WHERE forgotten = 2 \
                   AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
                   WHERE jobs.tenant = snapshots.tenant AND dataset_digest = snapshots.digest) \
                   AND NOT EXISTS (SELECT 1 FROM dataset_versions \
                   WHERE dataset_versions.tenant = snapshots.tenant \
                   AND dataset_versions.digest = snapshots.digest) LIMIT $1";
        let mut reader = self.list().await?;
        let unnamed = query(sql).bind(BATCH).fetch_all(&mut reader).await?;
        drop(reader);
        if unnamed.is_empty() {
            return Ok(0);
        }
        let (mut tx, _) = self.write().await?;
        let mut dropped = 0;
        for row in &unnamed {
            dropped += drop_unnamed(&mut tx, &row.text("tenant")?, &row.blob("digest")?).await?;
        }
        tx.commit().await?;
        Ok(dropped)
    }

    async fn forget_datasets(&self) -> Result<u64> {
        self.deleting(|| removal::go_on(self)).await
    }

    async fn tenants_with_aged_jobs(&self, age: Option<Duration>) -> Result<Vec<TenantId>> {
        aged::tenants_with_jobs(self, age).await
    }

    async fn forget_jobs(&self, tenant: &TenantId, age: Option<Duration>) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let Some(job) = Ended::outstayed(&mut tx, (tenant, age), now).await? else {
            return Ok(0);
        };
        let forgotten = job.forget(&mut tx, Events::All).await?;
        if forgotten == 0 {
            job.delete(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(forgotten.max(1))
    }

    async fn aged_videos(&self, after: Option<&AgedPlace>) -> Result<AgedVideos> {
        aged::videos(self, after).await
    }

    async fn take_duty(&self, duty: &str, holder: &str, span: Duration) -> Result<bool> {
        duties::take(self, duty, holder, span).await
    }

    async fn unfinished_uploads(&self) -> Result<UnfinishedUploads> {
        let mut tx = self.read().await?;
        let now = self.now(&mut tx).await?;
        let sql = "SELECT COUNT(*) AS uploads, CAST(COALESCE(SUM(committed), 0) AS BIGINT) AS bytes FROM uploads \
                   WHERE expire_time > $1";
        let row = query(sql).bind(now).fetch_one(&mut tx).await?;
        Ok(UnfinishedUploads {
            uploads: row.number("uploads")?,
            bytes: row.number("bytes")?,
        })
    }
}

impl Database {
    /// Runs a statement that deletes at most a number of rows that are older than a time; it takes the time, then the number.
    async fn delete_older(&self, sql: &'static str, age: Duration) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let deleted = query(sql)
            .bind(before(now, age))
            .bind(BATCH)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.saturating_sub(micros(age))
}

/// When a snapshot was read for the last time at the latest that nobody has read for so long.
pub(super) fn unread_since(now: Timestamp, age: Duration) -> Timestamp {
    before(now, age)
}

/// As [`unread_since`], of a version's.
pub(super) fn version_unread_since(now: Timestamp, age: Duration) -> Timestamp {
    before(now, age.max(VERSIONS))
}

/// Marks old snapshots that no unfinished job reads, to be forgotten: those that a version or a job names only when they have a blob, unless they were never
/// whole. Returns how many.
async fn mark_unread(conn: &mut Conn, now: Timestamp, age: Duration) -> Result<u64> {
    let sql = "SELECT tenant, digest FROM snapshots INDEXED BY snapshots_with_examples \
               WHERE forgotten < 2 AND forgotten = 0 AND create_time <= $1 \
               AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
               WHERE jobs.tenant = snapshots.tenant AND dataset_digest = digest \
               AND (end_time IS NULL OR reason = 'PROCESS_LOST')) \
               AND (CASE WHEN EXISTS (SELECT 1 FROM dataset_versions \
               WHERE dataset_versions.tenant = snapshots.tenant \
               AND dataset_versions.digest = snapshots.digest) \
               THEN blob_size > 0 AND create_time <= $2 \
               ELSE blob_size > 0 OR complete = 0 \
               OR NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
               WHERE jobs.tenant = snapshots.tenant AND dataset_digest = digest) END) LIMIT $3";
    let unread = skipping(sql)
        .bind(unread_since(now, age))
        .bind(version_unread_since(now, age))
        .bind(BATCH);
    let (mut marked, mut has_version) = (0, false);
    for row in &unread.fetch_all(&mut *conn).await? {
        let (tenant, digest) = (row.text("tenant")?, row.blob("digest")?);
        // Asked again now that it is locked: a job may have been submitted before that, or a version made.
        let sql = "UPDATE snapshots SET forgotten = 1 WHERE tenant = $1 AND digest = $2 \
                   AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
                   WHERE tenant = $1 AND dataset_digest = $2 \
                   AND (end_time IS NULL OR reason = 'PROCESS_LOST')) \
                   AND (blob_size > 0 OR NOT EXISTS (SELECT 1 FROM dataset_versions \
                   WHERE tenant = $1 AND digest = $2) AND (complete = 0 \
                   OR NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
                   WHERE tenant = $1 AND dataset_digest = $2)))";
        let updated = query(sql)
            .bind(&tenant)
            .bind(&digest)
            .execute(&mut *conn)
            .await?;
        marked += updated;
        // Nobody can make a version of it from here on: that waits for this transaction, and then finds it forgotten.
        has_version = has_version || updated > 0 && is_version(conn, &tenant, &digest).await?;
    }
    if has_version {
        refuse_earlier_releases(conn).await?;
    }
    Ok(marked)
}

async fn is_version(conn: &mut Conn, tenant: &str, digest: &[u8]) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM dataset_versions \
               WHERE tenant = $1 AND digest = $2) AS found";
    let row = query(sql).bind(tenant).bind(digest).fetch_one(conn).await?;
    row.flag("found")
}

/// Has releases refuse to start on this database that would delete the record of a version's blob, which they take for a snapshot that nothing names.
async fn refuse_earlier_releases(conn: &mut Conn) -> Result<()> {
    let sql = "UPDATE schema_state SET min_release = $1 WHERE min_release < $1";
    query(sql).bind(ARCHIVED).execute(conn).await?;
    Ok(())
}

/// Removes some of the examples of a snapshot that is being forgotten. Returns how many, or 1 when it was the end of it; 0 when there is none.
async fn empty_snapshot(conn: &mut Conn) -> Result<u64> {
    let sql = "SELECT tenant, digest FROM snapshots INDEXED BY snapshots_with_examples \
               WHERE forgotten < 2 AND forgotten = 1 LIMIT 1";
    let Some(row) = skipping(sql).fetch_optional(&mut *conn).await? else {
        return Ok(0);
    };
    let (tenant, digest) = (row.text("tenant")?, row.blob("digest")?);
    let sql = "DELETE FROM snapshot_examples WHERE (tenant, digest, video) IN \
               (SELECT tenant, digest, video FROM snapshot_examples \
               WHERE tenant = $1 AND digest = $2 LIMIT $3)";
    let removed = query(sql)
        .bind(&tenant)
        .bind(&digest)
        .bind(BATCH)
        .execute(&mut *conn)
        .await?;
    if removed == 0 {
        query("UPDATE snapshots SET forgotten = 2 WHERE tenant = $1 AND digest = $2")
            .bind(&tenant)
            .bind(&digest)
            .execute(&mut *conn)
            .await?;
        drop_unnamed(conn, &tenant, &digest).await?;
    }
    Ok(removed.max(1))
}

/// Drops a snapshot that is empty when no job and no version names it; its blob, which nothing names then, is collected. Returns how many.
async fn drop_unnamed(conn: &mut Conn, tenant: &str, digest: &[u8]) -> Result<u64> {
    let sql = "DELETE FROM snapshots WHERE tenant = $1 AND digest = $2 AND forgotten = 2 \
               AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_by_snapshot \
               WHERE tenant = $1 AND dataset_digest = $2) \
               AND NOT EXISTS (SELECT 1 FROM dataset_versions WHERE tenant = $1 AND digest = $2)";
    query(sql).bind(tenant).bind(digest).execute(conn).await
}

/// Which events of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    All,
    NotOfState,
}

/// A job that has ended.
struct Ended {
    tenant: String,
    id: String,
    last_event: i64,
    dataset_digest: Vec<u8>,
}

impl Ended {
    /// The job that ended first, at or before a time, of those that have so many of their events.
    async fn first(conn: &mut Conn, thinned: u8, end: Timestamp) -> Result<Option<Self>> {
        let sql = "SELECT tenant, id, last_event, dataset_digest FROM jobs \
                   WHERE thinned = $1 AND end_time <= $2 ORDER BY end_time LIMIT 1";
        Self::found(skipping(sql).bind(thinned).bind(end), conn).await
    }

    /// The job of a tenant that ended first, if that is longer ago than the tenant's jobs stay, or those of all.
    async fn outstayed(
        conn: &mut Conn,
        (tenant, age): (&TenantId, Option<Duration>),
        now: Timestamp,
    ) -> Result<Option<Self>> {
        let sql = "SELECT tenant, id, last_event, dataset_digest \
                   FROM jobs INDEXED BY ended_jobs_by_tenant \
                   WHERE tenant = $1 AND end_time IS NOT NULL AND end_time <= $2 - COALESCE( \
                   (SELECT jobs_age FROM tenants WHERE tenants.tenant = $1), $3) \
                   ORDER BY end_time LIMIT 1";
        let asked = skipping(sql).bind(tenant.as_str()).bind(now);
        Self::found(asked.bind(age.map(micros)), conn).await
    }

    async fn found(asked: Query, conn: &mut Conn) -> Result<Option<Self>> {
        let Some(row) = asked.fetch_optional(conn).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            tenant: row.text("tenant")?,
            id: row.text("id")?,
            last_event: row.int("last_event")?,
            dataset_digest: row.blob("dataset_digest")?,
        }))
    }

    /// Removes some of the events of steps. Which ones stay follows from their numbers alone: the first of each of `keep` equal stretches, and the
    /// last step; so it does not matter how often this is cut.
    async fn thin(&self, conn: &mut Conn, keep: u32) -> Result<u64> {
        let sql = "DELETE FROM events WHERE (tenant, job, sequence) IN \
                   (SELECT tenant, job, sequence FROM events WHERE tenant = $1 AND job = $2 \
                   AND substr(event, 1, 7) = '{\"step\"' \
                   AND sequence * $3 / $4 = (sequence - 1) * $3 / $4 \
                   AND sequence <> (SELECT sequence FROM events WHERE tenant = $1 AND job = $2 \
                   AND substr(event, 1, 7) = '{\"step\"' ORDER BY sequence DESC LIMIT 1) LIMIT $5)";
        let removed = query(sql)
            .bind(&self.tenant)
            .bind(&self.id)
            // One less than may stay, since the last step stays too.
            .bind(i64::from(keep).saturating_sub(1).max(1))
            .bind(self.last_event.max(1))
            .bind(BATCH)
            .execute(conn)
            .await?;
        Ok(removed)
    }

    /// Removes some events.
    async fn forget(&self, conn: &mut Conn, events: Events) -> Result<u64> {
        let sql = "DELETE FROM events WHERE (tenant, job, sequence) IN \
                   (SELECT tenant, job, sequence FROM events WHERE tenant = $1 AND job = $2 \
                   AND ($3 = 1 OR substr(event, 1, 8) <> '{\"state\"') LIMIT $4)";
        let removed = query(sql)
            .bind(&self.tenant)
            .bind(&self.id)
            .bind(events == Events::All)
            .bind(BATCH)
            .execute(conn)
            .await?;
        Ok(removed)
    }

    async fn mark(&self, conn: &mut Conn, level: u8) -> Result<()> {
        query("UPDATE jobs SET thinned = $1 WHERE tenant = $2 AND id = $3")
            .bind(level)
            .bind(&self.tenant)
            .bind(&self.id)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn delete(&self, conn: &mut Conn) -> Result<()> {
        query("DELETE FROM jobs WHERE tenant = $1 AND id = $2")
            .bind(&self.tenant)
            .bind(&self.id)
            .execute(&mut *conn)
            .await?;
        drop_unnamed(conn, &self.tenant, &self.dataset_digest).await?;
        Ok(())
    }
}
