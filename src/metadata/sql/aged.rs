//! What has outstayed its tenant's time: videos, and the tenants that have such jobs.
//!
//! Invariant: no call reads more than a bounded number of videos, however many are older and stay because something names them; a walk goes on behind
//! what it has seen.

use std::time::Duration;

use super::super::{AgedPlace, AgedVideos, Result, Timestamp};
use super::database::{Conn, Row, query};
use super::rows::Columns;
use super::{Database, micros};
use crate::ids::{TenantId, VideoId};

/// Videos that one call looks at.
const VIDEOS: u32 = 500;
/// Tenants that one call looks at.
const TENANTS: u32 = 100;
/// Tenants with aged jobs that one call names.
const NAMED: u32 = 500;

/// Some of the videos that are older than their tenants' videos stay, after a place; none of tenants that are being erased.
pub(super) async fn videos(store: &Database, after: Option<&AgedPlace>) -> Result<AgedVideos> {
    let mut tx = store.list().await?;
    let now = store.now(&mut tx).await?;
    let owners = owners(&mut tx, after).await?;
    let mut found = AgedVideos::default();
    for (tenant, age) in &owners {
        let begun = after.filter(|place| place.tenant == *tenant);
        let last = begun.and_then(|place| place.last);
        let rows = older(&mut tx, tenant, now.saturating_sub(*age), last).await?;
        let mut end = None;
        for row in &rows {
            let video = row.id("id")?;
            end = Some((row.int("create_time")?, video));
            if row.flag("is_unnamed")? {
                found.unnamed.push((tenant.clone(), video));
            }
        }
        let is_full = rows.len() >= VIDEOS as usize;
        found.seen += rows.len() as u64;
        found.next = Some(AgedPlace {
            tenant: tenant.clone(),
            last: end.filter(|_| is_full),
        });
        if found.seen >= u64::from(VIDEOS) {
            return Ok(found);
        }
    }
    if owners.len() < TENANTS as usize {
        found.next = None;
    }
    Ok(found)
}

/// Tenants whose videos have a time, with that, from a place on.
async fn owners(conn: &mut Conn, after: Option<&AgedPlace>) -> Result<Vec<(TenantId, Timestamp)>> {
    let sql = "SELECT tenant, videos_age FROM tenants INDEXED BY tenants_with_video_age \
               WHERE videos_age IS NOT NULL AND tenant >= $1 AND (tenant > $1 OR $2 = 1) \
               AND NOT EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = tenants.tenant) \
               ORDER BY tenant LIMIT $3";
    let has_more = after.is_some_and(|place| place.last.is_some());
    let found = query(sql)
        .bind(after.map_or("", |place| place.tenant.as_str()))
        .bind(i64::from(has_more))
        .bind(TENANTS)
        .fetch_all(conn)
        .await?;
    let each = |row: &Row| Ok((row.id("tenant")?, row.int("videos_age")?));
    found.iter().map(each).collect()
}

/// Videos of a tenant that were there at a time, after one of them, and of each whether nothing names it.
async fn older(
    conn: &mut Conn,
    tenant: &TenantId,
    end: Timestamp,
    last: Option<(Timestamp, VideoId)>,
) -> Result<Vec<Row>> {
    // The videos are chosen before anything else is looked at, so that no plan reads all that the tenant's data sets hold.
    let sql = "SELECT id, create_time, \
               (NOT EXISTS (SELECT 1 FROM examples WHERE examples.tenant = $1 \
               AND examples.video = older.id) \
               AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY unfinished_jobs_by_tenant \
               CROSS JOIN snapshot_examples AS example \
               WHERE jobs.tenant = $1 AND jobs.end_time IS NULL \
               AND example.tenant = $1 AND example.digest = jobs.dataset_digest \
               AND example.video = older.id)) AS is_unnamed \
               FROM (SELECT id, create_time FROM videos INDEXED BY videos_by_age \
               WHERE tenant = $1 AND delete_time IS NULL AND create_time <= $2 \
               AND (create_time, id) > ($3, $4) ORDER BY create_time, id LIMIT $5) AS older \
               ORDER BY create_time, id";
    let (time, video) = last.map_or((Timestamp::MIN, String::new()), |(time, video)| {
        (time, video.to_string())
    });
    query(sql)
        .bind(tenant.as_str())
        .bind(end)
        .bind(time)
        .bind(video)
        .bind(VIDEOS)
        .fetch_all(conn)
        .await
}

/// Tenants with jobs that ended longer ago than their tenant's jobs stay, or those of all; some of them. One look for each tenant that has ended jobs.
pub(super) async fn tenants_with_jobs(
    store: &Database,
    age: Option<Duration>,
) -> Result<Vec<TenantId>> {
    let mut tx = store.list().await?;
    let now = store.now(&mut tx).await?;
    let sql = "WITH RECURSIVE owners (tenant) AS ( \
               SELECT MIN(tenant) FROM jobs INDEXED BY ended_jobs_by_tenant \
               WHERE end_time IS NOT NULL \
               UNION ALL SELECT (SELECT MIN(jobs.tenant) \
               FROM jobs INDEXED BY ended_jobs_by_tenant \
               WHERE end_time IS NOT NULL AND jobs.tenant > owners.tenant) \
               FROM owners WHERE owners.tenant IS NOT NULL) \
               SELECT owners.tenant AS tenant FROM owners WHERE owners.tenant IS NOT NULL \
               AND EXISTS (SELECT 1 FROM jobs INDEXED BY ended_jobs_by_tenant \
               WHERE jobs.tenant = owners.tenant AND end_time IS NOT NULL \
               AND end_time <= $1 - COALESCE((SELECT jobs_age FROM tenants \
               WHERE tenants.tenant = owners.tenant), $2)) LIMIT $3";
    let found = query(sql)
        .bind(now)
        .bind(age.map(micros))
        .bind(NAMED)
        .fetch_all(&mut tx)
        .await?;
    found.iter().map(|row| row.id("tenant")).collect()
}
