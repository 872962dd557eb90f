//! Which videos are known to decode under a sampling, and what was found to be in them: a sketch of their features.
//!
//! Invariant: what is remembered of a video goes with it.

use super::super::Result;
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::{Database, locks};
use crate::ids::{TenantId, VideoId};
use crate::spec::Digest;

/// Ids as JSON, which a statement reads row by row: a row is an array, of which both databases give the first element as text.
pub(super) fn list(videos: &[VideoId]) -> Result<String> {
    let ids: Vec<[String; 1]> = videos.iter().map(|video| [video.to_string()]).collect();
    rows::json("videos", &ids)
}

pub(super) async fn unknown(
    store: &Database,
    tenant: &TenantId,
    sampling: Digest,
    videos: &[VideoId],
) -> Result<Vec<VideoId>> {
    let sql = "SELECT value ->> 0 AS video FROM json_each($1) WHERE NOT EXISTS \
               (SELECT 1 FROM decoded_videos WHERE tenant = $2 AND video = value ->> 0 AND sampling = $3)";
    let found = query(sql)
        .bind(list(videos)?)
        .bind(tenant.as_str())
        .bind(sampling.0.to_vec())
        .fetch_all(&mut store.browse().await?)
        .await?;
    found.iter().map(|row| row.id("video")).collect()
}

pub(super) async fn remember(
    store: &Database,
    tenant: &TenantId,
    sampling: Digest,
    videos: &[VideoId],
) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    let videos = list(videos)?;
    locks::videos(&mut tx, tenant, &videos).await?;
    let sql = "INSERT INTO decoded_videos (tenant, video, sampling) SELECT tenant, id, $1 \
               FROM videos WHERE tenant = $2 AND delete_time IS NULL \
               AND id IN (SELECT value ->> 0 FROM json_each($3)) ON CONFLICT DO NOTHING";
    query(sql)
        .bind(sampling.0.to_vec())
        .bind(tenant.as_str())
        .bind(videos)
        .execute(&mut tx)
        .await?;
    tx.commit().await
}

pub(super) async fn sketches(
    store: &Database,
    tenant: &TenantId,
    kind: Digest,
    videos: &[VideoId],
) -> Result<Vec<(VideoId, String)>> {
    let sql = "SELECT video, sketch FROM decoded_videos WHERE tenant = $1 AND sampling = $2 \
               AND sketch IS NOT NULL AND video IN (SELECT value ->> 0 FROM json_each($3))";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(kind.0.to_vec())
        .bind(list(videos)?)
        .fetch_all(&mut store.browse().await?)
        .await?;
    let own = |row: &Row| Ok((row.id("video")?, row.text("sketch")?));
    found.iter().map(own).collect()
}

pub(super) async fn remember_sketches(
    store: &Database,
    tenant: &TenantId,
    kind: Digest,
    sketches: &[(VideoId, String)],
) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    let videos: Vec<VideoId> = sketches.iter().map(|(video, _)| *video).collect();
    locks::videos(&mut tx, tenant, &list(&videos)?).await?;
    let rows: Vec<[String; 2]> = sketches
        .iter()
        .map(|(video, sketch)| [video.to_string(), sketch.clone()])
        .collect();
    let sql = "INSERT INTO decoded_videos (tenant, video, sampling, sketch) \
               SELECT $1, value ->> 0, $2, value ->> 1 FROM json_each($3) WHERE EXISTS \
               (SELECT 1 FROM videos WHERE tenant = $1 AND id = value ->> 0 AND delete_time IS NULL) \
               ON CONFLICT DO NOTHING";
    query(sql)
        .bind(tenant.as_str())
        .bind(kind.0.to_vec())
        .bind(rows::json("sketches", &rows)?)
        .execute(&mut tx)
        .await?;
    tx.commit().await
}

/// Forgets a video of which a tombstone stays.
pub(super) async fn forget(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<()> {
    query("DELETE FROM decoded_videos WHERE tenant = $1 AND video = $2")
        .bind(tenant.as_str())
        .bind(video.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
