//! Uploads and their parts.
//!
//! Invariant: an upload's parts follow one another without a gap; a part number is given out once, so that no two writers share a blob; the rows of
//! the parts of an upload that has ended stay until their blobs are gone.

use super::super::{
    Error, Kind, NewVideo, Page, PageRequest, PartRecord, Result, Timestamp, UploadLimits,
    UploadRecord, VideoRecord,
};
use super::database::{Conn, Row, query};
use super::requests::Request;
use super::rows::{self, Columns, corrupt};
use super::{Database, locks, micros, videos};
use crate::ids::{RequestId, TenantId, UploadId};

const LISTING: &str = "uploads";

/// Endings of uploads that became no video.
const DELETED: &str = "deleted";
pub(super) const EXPIRED: &str = "expired";

pub(super) async fn create(
    store: &Database,
    tenant: &TenantId,
    display_name: &str,
    request: Option<RequestId>,
    limits: &UploadLimits,
) -> Result<UploadRecord> {
    let (mut tx, now) = store.write().await?;
    let fields = [("display_name", display_name.into())];
    let request = Request::new("CreateUpload", request, &display_name, &fields)?;
    if let Some(id) = request.begin(&mut tx, tenant, now).await? {
        let id = id.parse().map_err(|error| corrupt("upload", error))?;
        return request.made(get(&mut tx, tenant, id, now).await);
    }
    locks::tenant(&mut tx, tenant).await?;
    let (uploads, _) = unfinished(&mut tx, tenant, now).await?;
    if uploads >= u64::from(limits.uploads) {
        let limit = limits.uploads;
        return Err(Error::TooManyUploads { limit });
    }
    let id = UploadId::generate();
    let expire_time = after(&mut tx, tenant, now, limits).await?;
    let sql = "INSERT INTO uploads (tenant, id, display_name, create_time, expire_time) \
               VALUES ($1, $2, $3, $4, $5)";
    query(sql)
        .bind(tenant.as_str())
        .bind(id.to_string())
        .bind(display_name)
        .bind(now)
        .bind(expire_time)
        .execute(&mut tx)
        .await?;
    request.remember(&mut tx, tenant, id.to_string()).await?;
    let upload = get(&mut tx, tenant, id, now).await?;
    tx.commit().await?;
    Ok(upload)
}

/// When an upload that is written to at `now` expires, unless it is written to again: after the tenant's own time, or that of all.
async fn after(
    conn: &mut Conn,
    tenant: &TenantId,
    now: Timestamp,
    limits: &UploadLimits,
) -> Result<Timestamp> {
    let own = query("SELECT uploads_age FROM tenants WHERE tenant = $1")
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    let own = own.map(|row| row.optional_int("uploads_age")).transpose()?;
    let time = own.flatten().unwrap_or(micros(limits.expiry));
    // It has to be later than now, else an upload would be born expired.
    Ok(now.saturating_add(time.max(1)))
}

/// The tenant's unfinished uploads and their bytes.
async fn unfinished(conn: &mut Conn, tenant: &TenantId, now: Timestamp) -> Result<(u64, u64)> {
    let sql = "SELECT COUNT(*) AS uploads, CAST(COALESCE(SUM(committed), 0) AS BIGINT) AS bytes FROM uploads INDEXED BY unfinished_uploads_by_tenant \
               WHERE tenant = $1 AND expire_time > $2";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(now)
        .fetch_one(conn)
        .await?;
    Ok((row.number("uploads")?, row.number("bytes")?))
}

pub(super) async fn get(
    conn: &mut Conn,
    tenant: &TenantId,
    upload: UploadId,
    now: Timestamp,
) -> Result<UploadRecord> {
    let row = row(conn, tenant, upload).await?;
    if has_expired(&row, now)? {
        return Err(Error::UploadExpired { upload });
    }
    if row.optional_int("end_time")?.is_some() {
        return Err(missing(upload));
    }
    read(conn, tenant, &row).await
}

fn missing(upload: UploadId) -> Error {
    Error::NotFound {
        kind: Kind::Upload,
        name: upload.to_string(),
    }
}

/// The upload's row, a tombstone too.
async fn row(conn: &mut Conn, tenant: &TenantId, upload: UploadId) -> Result<Row> {
    query("SELECT * FROM uploads WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| missing(upload))
}

/// Whether an upload has expired, also when nobody has removed it yet.
fn has_expired(row: &Row, now: Timestamp) -> Result<bool> {
    let is_late = row
        .optional_int("expire_time")?
        .is_some_and(|end| end <= now);
    Ok(is_late || row.optional_text("ending")?.as_deref() == Some(EXPIRED))
}

async fn read(conn: &mut Conn, tenant: &TenantId, row: &Row) -> Result<UploadRecord> {
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
        expire_time: row.optional_int("expire_time")?,
    })
}

pub(super) async fn list(
    store: &Database,
    tenant: &TenantId,
    page: &PageRequest,
) -> Result<Page<UploadRecord>> {
    let mut tx = store.read().await?;
    let now = store.now(&mut tx).await?;
    let sql = "SELECT * FROM uploads WHERE tenant = $1 AND id > $2 AND expire_time > $3 \
               ORDER BY id LIMIT $4";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(page.start(LISTING)?)
        .bind(now)
        .bind(page.limit())
        .fetch_all(&mut tx)
        .await?;
    let mut uploads = Vec::with_capacity(found.len());
    for row in &found {
        uploads.push(read(&mut tx, tenant, row).await?);
    }
    Ok(page.page(LISTING, uploads, |upload| upload.id.to_string()))
}

/// Lets a part begin at `offset`, if it may, and puts the upload's expiry off.
async fn touch(
    conn: &mut Conn,
    tenant: &TenantId,
    (upload, part): (UploadId, PartRecord),
    limits: &UploadLimits,
    now: Timestamp,
) -> Result<()> {
    let record = get(conn, tenant, upload, now).await?;
    if record.video.is_some() {
        return Err(Error::UploadFinished { upload });
    }
    if record.committed_bytes != part.offset {
        return Err(Error::OffsetMismatch {
            upload,
            committed: record.committed_bytes,
            offset: part.offset,
        });
    }
    let (_, bytes) = unfinished(conn, tenant, now).await?;
    if bytes.saturating_add(part.size) > limits.bytes {
        let limit = limits.bytes;
        return Err(Error::TooManyUploadBytes { limit });
    }
    let expire_time = after(conn, tenant, now, limits).await?;
    query("UPDATE uploads SET expire_time = $1 WHERE tenant = $2 AND id = $3")
        .bind(expire_time)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn begin_part(
    store: &Database,
    tenant: &TenantId,
    upload: UploadId,
    offset: u64,
    limits: &UploadLimits,
) -> Result<u32> {
    let (mut tx, now) = store.write().await?;
    let part = PartRecord {
        number: 0,
        offset,
        size: 0,
    };
    locks::tenant(&mut tx, tenant).await?;
    locks::upload(&mut tx, tenant, upload).await?;
    touch(&mut tx, tenant, (upload, part), limits, now).await?;
    let sql = "UPDATE uploads SET next_part = next_part + 1 WHERE tenant = $1 AND id = $2 \
               RETURNING next_part - 1 AS number";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_one(&mut tx)
        .await?;
    let number = row.number("number")?;
    tx.commit().await?;
    Ok(number)
}

pub(super) async fn commit_part(
    store: &Database,
    tenant: &TenantId,
    upload: UploadId,
    part: PartRecord,
    limits: &UploadLimits,
) -> Result<u64> {
    let (mut tx, now) = store.write().await?;
    locks::tenant(&mut tx, tenant).await?;
    locks::upload(&mut tx, tenant, upload).await?;
    touch(&mut tx, tenant, (upload, part), limits, now).await?;
    let size = rows::int("size_bytes", part.size)?;
    let sql =
        "INSERT INTO parts (tenant, upload, number, start, size_bytes) VALUES ($1, $2, $3, $4, $5)";
    query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .bind(part.number)
        .bind(rows::int("start", part.offset)?)
        .bind(size)
        .execute(&mut tx)
        .await?;
    query("UPDATE uploads SET committed = committed + $1 WHERE tenant = $2 AND id = $3")
        .bind(size)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(part.offset + part.size)
}

pub(super) async fn parts(
    conn: &mut Conn,
    tenant: &TenantId,
    upload: UploadId,
) -> Result<Vec<PartRecord>> {
    let found = query("SELECT * FROM parts WHERE tenant = $1 AND upload = $2 ORDER BY start")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_all(conn)
        .await?;
    found.iter().map(read_part).collect()
}

fn read_part(row: &Row) -> Result<PartRecord> {
    Ok(PartRecord {
        number: row.number("number")?,
        offset: row.number("start")?,
        size: row.number("size_bytes")?,
    })
}

pub(super) async fn finish(
    store: &Database,
    tenant: &TenantId,
    upload: UploadId,
    video: NewVideo,
) -> Result<VideoRecord> {
    let (mut tx, now) = store.write().await?;
    locks::tenant(&mut tx, tenant).await?;
    locks::upload(&mut tx, tenant, upload).await?;
    let record = get(&mut tx, tenant, upload, now).await?;
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
    let sql = "UPDATE uploads SET video = $1, expire_time = NULL WHERE tenant = $2 AND id = $3";
    query(sql)
        .bind(video.id.to_string())
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut tx)
        .await?;
    query("DELETE FROM parts WHERE tenant = $1 AND upload = $2")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(video)
}

pub(super) async fn abandon(
    store: &Database,
    tenant: &TenantId,
    upload: UploadId,
) -> Result<Vec<PartRecord>> {
    let (mut tx, now) = store.write().await?;
    locks::upload(&mut tx, tenant, upload).await?;
    let row = row(&mut tx, tenant, upload).await?;
    if row.optional_text("video")?.is_some() {
        return Err(Error::UploadFinished { upload });
    }
    let parts = parts(&mut tx, tenant, upload).await?;
    // One that has ended already stays what it is: its owner may say again that it is not wanted.
    let sql = "UPDATE uploads SET ending = $1, end_time = $2, expire_time = NULL \
               WHERE tenant = $3 AND id = $4 AND end_time IS NULL";
    query(sql)
        .bind(if has_expired(&row, now)? {
            EXPIRED
        } else {
            DELETED
        })
        .bind(now)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(parts)
}
