//! Which videos are known to decode under a sampling.
//!
//! Invariant: what is remembered of a video goes with it.

use sqlx::SqliteConnection;

use super::super::Result;
use super::Sqlite;
use super::rows::{self, Columns};
use crate::ids::{TenantId, VideoId};
use crate::spec::Digest;

/// Ids as JSON, which a statement reads row by row.
pub(super) fn list(videos: &[VideoId]) -> Result<String> {
    let ids: Vec<String> = videos.iter().map(VideoId::to_string).collect();
    rows::json("videos", &ids)
}

pub(super) async fn unknown(
    store: &Sqlite,
    tenant: &TenantId,
    sampling: Digest,
    videos: &[VideoId],
) -> Result<Vec<VideoId>> {
    let sql = "SELECT value AS video FROM json_each(?1) WHERE NOT EXISTS \
               (SELECT 1 FROM decoded_videos WHERE tenant = ?2 AND video = value AND sampling = ?3)";
    let found = sqlx::query(sql)
        .bind(list(videos)?)
        .bind(tenant.as_str())
        .bind(sampling.0.to_vec())
        .fetch_all(&store.lister)
        .await?;
    found.iter().map(|row| row.id("video")).collect()
}

pub(super) async fn remember(
    store: &Sqlite,
    tenant: &TenantId,
    sampling: Digest,
    videos: &[VideoId],
) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    let sql = "INSERT INTO decoded_videos (tenant, video, sampling) SELECT tenant, id, ?1 \
               FROM videos WHERE tenant = ?2 AND delete_time IS NULL \
               AND id IN (SELECT value FROM json_each(?3)) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(sampling.0.to_vec())
        .bind(tenant.as_str())
        .bind(list(videos)?)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// Forgets a video of which a tombstone stays.
pub(super) async fn forget(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    video: VideoId,
) -> Result<()> {
    sqlx::query("DELETE FROM decoded_videos WHERE tenant = ? AND video = ?")
        .bind(tenant.as_str())
        .bind(video.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
