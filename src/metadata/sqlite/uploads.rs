//! Uploads and their parts.
//!
//! Invariant: an upload's parts follow one another without a gap; a part number is given out once, so that no two writers share a blob.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::super::{Error, Kind, NewVideo, PartRecord, Result, UploadRecord, VideoRecord};
use super::requests::Request;
use super::rows::{self, Columns, corrupt};
use super::{Sqlite, videos};
use crate::ids::{RequestId, TenantId, UploadId};

pub(super) async fn create(
    store: &Sqlite,
    tenant: &TenantId,
    display_name: &str,
    request: Option<RequestId>,
) -> Result<UploadRecord> {
    let (mut tx, now) = store.write().await?;
    let request = Request {
        method: "CreateUpload",
        id: request,
    };
    if let Some(id) = request.answer(&mut tx, tenant).await? {
        let id = id.parse().map_err(|error| corrupt("upload", error))?;
        return get(&mut tx, tenant, id).await;
    }
    let id = UploadId::generate();
    let sql = "INSERT INTO uploads (tenant, id, display_name, create_time) VALUES (?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(id.to_string())
        .bind(display_name)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    request
        .remember(&mut tx, tenant, id.to_string(), now)
        .await?;
    let upload = get(&mut tx, tenant, id).await?;
    tx.commit().await?;
    Ok(upload)
}

pub(super) async fn get(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    upload: UploadId,
) -> Result<UploadRecord> {
    let sql = "SELECT uploads.*, (SELECT COALESCE(SUM(size_bytes), 0) FROM parts \
               WHERE parts.tenant = uploads.tenant AND parts.upload = uploads.id) AS committed \
               FROM uploads WHERE tenant = ? AND id = ?";
    let row = sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| Error::NotFound {
            kind: Kind::Upload,
            name: upload.to_string(),
        })?;
    let video = match row.optional_text("video")? {
        Some(id) => Some(videos::get(conn, tenant, videos::parsed(&id)?).await?),
        None => None,
    };
    let committed_bytes = match &video {
        Some(video) => video.size_bytes,
        None => row.number("committed")?,
    };
    Ok(UploadRecord {
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        display_name: row.text("display_name")?,
        committed_bytes,
        video,
        create_time: row.int("create_time")?,
    })
}

/// The upload, if a part may begin at `offset`.
async fn writable(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    upload: UploadId,
    offset: u64,
) -> Result<()> {
    let record = get(conn, tenant, upload).await?;
    if record.video.is_some() {
        return Err(Error::UploadFinished { upload });
    }
    if record.committed_bytes != offset {
        return Err(Error::OffsetMismatch {
            upload,
            committed: record.committed_bytes,
            offset,
        });
    }
    Ok(())
}

pub(super) async fn begin_part(
    store: &Sqlite,
    tenant: &TenantId,
    upload: UploadId,
    offset: u64,
) -> Result<u32> {
    let (mut tx, _) = store.write().await?;
    writable(&mut tx, tenant, upload, offset).await?;
    let sql = "UPDATE uploads SET next_part = next_part + 1 WHERE tenant = ? AND id = ? \
               RETURNING next_part - 1 AS number";
    let row = sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_one(&mut *tx)
        .await?;
    let number = row.number("number")?;
    tx.commit().await?;
    Ok(number)
}

pub(super) async fn commit_part(
    store: &Sqlite,
    tenant: &TenantId,
    upload: UploadId,
    part: PartRecord,
) -> Result<u64> {
    let (mut tx, _) = store.write().await?;
    writable(&mut tx, tenant, upload, part.offset).await?;
    let sql =
        "INSERT INTO parts (tenant, upload, number, start, size_bytes) VALUES (?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .bind(part.number)
        .bind(rows::int("start", part.offset)?)
        .bind(rows::int("size_bytes", part.size)?)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(part.offset + part.size)
}

pub(super) async fn parts(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    upload: UploadId,
) -> Result<Vec<PartRecord>> {
    let found = sqlx::query("SELECT * FROM parts WHERE tenant = ? AND upload = ? ORDER BY start")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_all(conn)
        .await?;
    found.iter().map(read_part).collect()
}

fn read_part(row: &SqliteRow) -> Result<PartRecord> {
    Ok(PartRecord {
        number: row.number("number")?,
        offset: row.number("start")?,
        size: row.number("size_bytes")?,
    })
}

pub(super) async fn finish(
    store: &Sqlite,
    tenant: &TenantId,
    upload: UploadId,
    video: NewVideo,
) -> Result<VideoRecord> {
    let (mut tx, now) = store.write().await?;
    let record = get(&mut tx, tenant, upload).await?;
    if let Some(finished) = record.video {
        return Ok(finished);
    }
    if record.committed_bytes != video.size_bytes {
        // Another stream appended while the parts were being put together.
        return Err(Error::OffsetMismatch {
            upload,
            committed: record.committed_bytes,
            offset: video.size_bytes,
        });
    }
    let video = videos::insert(&mut tx, tenant, &record.display_name, video, now).await?;
    sqlx::query("UPDATE uploads SET video = ? WHERE tenant = ? AND id = ?")
        .bind(video.id.to_string())
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM parts WHERE tenant = ? AND upload = ?")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(video)
}

pub(super) async fn abandon(
    store: &Sqlite,
    tenant: &TenantId,
    upload: UploadId,
) -> Result<Vec<PartRecord>> {
    let (mut tx, _) = store.write().await?;
    if get(&mut tx, tenant, upload).await?.video.is_some() {
        return Err(Error::UploadFinished { upload });
    }
    let parts = parts(&mut tx, tenant, upload).await?;
    sqlx::query("DELETE FROM uploads WHERE tenant = ? AND id = ?")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(parts)
}
