//! What tenants store, and the limits that an operator set.
//!
//! Invariant: the counts are changed in the transaction that adds or removes, and compared with the limits there, so that no number of racing callers
//! exceeds one.

use super::super::{Error, Quota, Quotas, Rates, Result, Stored};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::terms;
use crate::ids::TenantId;

/// What a transaction adds, or removes where it is negative.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) videos: i64,
    pub(super) bytes: i64,
    pub(super) tasks: i64,
    pub(super) versions: i64,
}

impl Delta {
    /// A video of so many bytes.
    pub(super) fn video(bytes: u64) -> Result<Self> {
        Ok(Self {
            videos: 1,
            bytes: rows::int("size_bytes", bytes)?,
            ..Self::default()
        })
    }

    /// A version of so many bytes.
    pub(super) fn version(bytes: u64) -> Result<Self> {
        Ok(Self {
            versions: 1,
            bytes: rows::int("size_bytes", bytes)?,
            ..Self::default()
        })
    }

    /// The same, taken away.
    pub(super) fn removed(self) -> Self {
        Self {
            videos: -self.videos,
            bytes: -self.bytes,
            tasks: -self.tasks,
            versions: -self.versions,
        }
    }
}

/// Changes the counts without a look at the limits.
pub(super) async fn count(conn: &mut Conn, tenant: &TenantId, delta: Delta) -> Result<()> {
    let sql = "INSERT INTO tenant_usage (tenant, videos, bytes, tasks, versions) \
               VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant) DO UPDATE SET \
               videos = tenant_usage.videos + excluded.videos, \
               bytes = tenant_usage.bytes + excluded.bytes, \
               tasks = tenant_usage.tasks + excluded.tasks, \
               versions = tenant_usage.versions + excluded.versions";
    query(sql)
        .bind(tenant.as_str())
        .bind(delta.videos)
        .bind(delta.bytes)
        .bind(delta.tasks)
        .bind(delta.versions)
        .execute(conn)
        .await?;
    Ok(())
}

/// Adds to the counts, unless that exceeds a limit; the caller's transaction is then taken back.
pub(super) async fn add(conn: &mut Conn, tenant: &TenantId, delta: Delta) -> Result<()> {
    count(conn, tenant, delta).await?;
    check(conn, tenant, delta).await
}

/// Refuses what was just counted, where it exceeds a limit; the caller's transaction is then taken back.
pub(super) async fn check(conn: &mut Conn, tenant: &TenantId, delta: Delta) -> Result<()> {
    let quotas = of(conn, tenant).await?;
    if quotas == Quotas::default() {
        return Ok(());
    }
    let row = query("SELECT * FROM tenant_usage WHERE tenant = $1")
        .bind(tenant.as_str())
        .fetch_one(&mut *conn)
        .await?;
    let jobs = match quotas.versions {
        Some(_) if delta.versions > 0 => i64::from(super::owners::unfinished(conn, tenant).await?),
        Some(_) | None => 0,
    };
    for (quota, limit, now, more) in [
        (
            Quota::Videos,
            quotas.videos,
            row.int("videos")?,
            delta.videos,
        ),
        (Quota::Bytes, quotas.bytes, row.int("bytes")?, delta.bytes),
        (Quota::Tasks, quotas.tasks, row.int("tasks")?, delta.tasks),
        (
            Quota::Versions,
            quotas.versions,
            row.int("versions")? + jobs,
            delta.versions,
        ),
    ] {
        let size = |number: i64| u64::try_from(number).unwrap_or(0);
        match limit {
            Some(limit) if more > 0 && size(now) > limit => {
                return Err(Error::QuotaExceeded {
                    quota,
                    limit,
                    used: size(now - more),
                    more: size(more),
                });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Refuses a job that might become a version too many, or whose version would find no room. The unfinished ones count, this one not yet.
pub(super) async fn admit_job(
    conn: &mut Conn,
    tenant: &TenantId,
    unfinished: u32,
    limit: u32,
) -> Result<()> {
    let quotas = of(conn, tenant).await?;
    let limit = quotas.jobs.unwrap_or(limit);
    if unfinished >= limit {
        return Err(Error::TooManyJobs { limit });
    }
    if quotas.versions.is_none() && quotas.bytes.is_none() {
        return Ok(());
    }
    let sql = "SELECT versions, bytes FROM tenant_usage WHERE tenant = $1";
    let found = query(sql)
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    let (versions, bytes) = match found {
        Some(row) => (row.int("versions")?, row.int("bytes")?),
        None => (0, 0),
    };
    let versions = versions + i64::from(unfinished);
    for (quota, limit, used) in [
        (Quota::Versions, quotas.versions, versions),
        (Quota::Bytes, quotas.bytes, bytes),
    ] {
        let used = u64::try_from(used).unwrap_or(0);
        match limit {
            Some(limit) if used >= limit => {
                return Err(Error::QuotaExceeded {
                    quota,
                    limit,
                    used,
                    more: 1,
                });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Refuses a data set's examples that were just counted with it, where those of all data sets exceed the tenant's limit or else this one; the caller's
/// transaction is then taken back. Data sets keep counts of their own and are not many, so that the sum needs no other one; whoever adds has the tenant's lock, where there
/// is a limit.
pub(super) async fn check_examples(
    conn: &mut Conn,
    tenant: &TenantId,
    more: u64,
    limit: u64,
) -> Result<()> {
    let sql = "SELECT CAST(COALESCE(SUM(examples), 0) AS BIGINT) AS examples FROM datasets \
               WHERE tenant = $1 AND delete_time IS NULL";
    let row = query(sql).bind(tenant.as_str()).fetch_one(conn).await?;
    let now: u64 = row.number("examples")?;
    match now > limit && more > 0 {
        true => Err(Error::QuotaExceeded {
            quota: Quota::Examples,
            limit,
            used: now.saturating_sub(more),
            more,
        }),
        false => Ok(()),
    }
}

/// The limits of a tenant; none, when nobody created it.
pub(super) async fn of(conn: &mut Conn, tenant: &TenantId) -> Result<Quotas> {
    let sql = "SELECT videos_limit, bytes_limit, tasks_limit, versions_limit, jobs_limit, \
               clip_frames_rate, requests_rate, examples_limit, upload_bytes_limit, \
               requests_at_once, streams_at_once, live_streams_at_once, clips_at_once \
               FROM tenants WHERE tenant = $1";
    let found = query(sql)
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    found.map_or(Ok(Quotas::default()), |row| quotas(&row))
}

/// The limits in a tenant's row.
pub(super) fn quotas(row: &Row) -> Result<Quotas> {
    let limit = |column| match row.optional_int(column)? {
        Some(_) => row.number(column).map(Some),
        None => Ok(None),
    };
    let jobs = match row.optional_int("jobs_limit")? {
        Some(_) => Some(row.number("jobs_limit")?),
        None => None,
    };
    Ok(Quotas {
        videos: limit("videos_limit")?,
        bytes: limit("bytes_limit")?,
        tasks: limit("tasks_limit")?,
        versions: limit("versions_limit")?,
        jobs,
        examples: limit("examples_limit")?,
        upload_bytes: limit("upload_bytes_limit")?,
        rates: Rates {
            clip_frames: limit("clip_frames_rate")?,
            requests: limit("requests_rate")?,
        },
        at_once: terms::at_once(row)?,
    })
}

/// The counts in a row of a tenant that was joined with them.
pub(super) fn stored(row: &Row) -> Result<Stored> {
    let count = |column| {
        let count = row.optional_int(column)?.unwrap_or(0);
        Ok::<_, Error>(u64::try_from(count).unwrap_or(0))
    };
    Ok(Stored {
        videos: count("videos")?,
        bytes: count("bytes")?,
        tasks: count("tasks")?,
        versions: count("versions")?,
        jobs: count("jobs")?,
        examples: count("examples")?,
        upload_bytes: count("upload_bytes")?,
    })
}
