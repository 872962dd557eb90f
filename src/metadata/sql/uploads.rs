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
use super::{Database, audit, locks, micros, videos};
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
    let expire_time = own(&mut tx, tenant, now, limits).await?.0;
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
    audit::acted(&mut tx, tenant, named(id, ""), now).await?;
    tx.commit().await?;
    Ok(upload)
}

/// When an upload that is written to at `now` expires, unless it is written to again, and how many bytes the tenant's unfinished uploads may have: by the
/// tenant's own limits, or those of all.
async fn own(
    conn: &mut Conn,
    tenant: &TenantId,
    now: Timestamp,
    limits: &UploadLimits,
) -> Result<(Timestamp, u64)> {
    let sql = "SELECT uploads_age, upload_bytes_limit FROM tenants WHERE tenant = $1";
    let found = query(sql)
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    let (mut age, mut bytes) = (None, None);
    if let Some(row) = found {
        age = row.optional_int("uploads_age")?;
        bytes = match row.optional_int("upload_bytes_limit")? {
            Some(_) => Some(row.number("upload_bytes_limit")?),
            None => None,
        };
    }
    let time = age.unwrap_or(micros(limits.expiry));
    // It has to be later than now, else an upload would be born expired.
    let expire_time = now.saturating_add(time.max(1));
    Ok((expire_time, bytes.unwrap_or(limits.bytes)))
}

/// The tenant's unfinished uploads and their bytes, those of parts that are being written included.
async fn unfinished(conn: &mut Conn, tenant: &TenantId, now: Timestamp) -> Result<(u64, u64)> {
    let sql = "SELECT COUNT(*) AS uploads, CAST(COALESCE(SUM(committed), 0) AS BIGINT) AS bytes FROM uploads INDEXED BY unfinished_uploads_by_tenant \
               WHERE tenant = $1 AND expire_time > $2";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(now)
        .fetch_one(&mut *conn)
        .await?;
    let (uploads, committed): (u64, u64) = (row.number("uploads")?, row.number("bytes")?);
    let sql = "SELECT CAST(COALESCE(SUM(own.bytes), 0) AS BIGINT) AS bytes \
               FROM upload_reservations AS own CROSS JOIN uploads \
               WHERE own.tenant = $1 AND uploads.tenant = own.tenant AND uploads.id = own.upload \
               AND uploads.expire_time > $2 AND own.start >= uploads.committed";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(now)
        .fetch_one(conn)
        .await?;
    let reserved: u64 = row.number("bytes")?;
    Ok((uploads, committed.saturating_add(reserved)))
}

/// Bytes that are reserved for the part of an upload that is being written, as far as [`unfinished`] counts them.
async fn reserved(conn: &mut Conn, tenant: &TenantId, upload: UploadId) -> Result<u64> {
    let sql = "SELECT own.bytes AS bytes FROM upload_reservations AS own CROSS JOIN uploads \
               WHERE own.tenant = $1 AND own.upload = $2 AND uploads.tenant = own.tenant \
               AND uploads.id = own.upload AND own.start >= uploads.committed";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .fetch_optional(conn)
        .await?;
    found.map_or(Ok(0), |row| row.number("bytes"))
}

/// Reserves bytes for the part of an upload that is to be written, in place of those for another one.
async fn reserve(
    conn: &mut Conn,
    tenant: &TenantId,
    (upload, part): (UploadId, PartRecord),
) -> Result<()> {
    let sql = "INSERT INTO upload_reservations (tenant, upload, bytes, start) \
               VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, upload) DO UPDATE SET \
               bytes = excluded.bytes, start = excluded.start";
    query(sql)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .bind(rows::int("bytes", part.size)?)
        .bind(rows::int("start", part.offset)?)
        .execute(conn)
        .await
        .map(drop)
}

/// Forgets what is reserved for a part of an upload, which is committed or will not be.
async fn release(conn: &mut Conn, tenant: &TenantId, upload: UploadId) -> Result<()> {
    query("DELETE FROM upload_reservations WHERE tenant = $1 AND upload = $2")
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(conn)
        .await
        .map(drop)
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

/// An upload and what becomes of it, as the audit log has them.
fn named(upload: UploadId, detail: impl Into<String>) -> (String, String) {
    (format!("uploads/{upload}"), detail.into())
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

/// Lets a part begin at its offset, if it may and its bytes have room, and puts the upload's expiry off.
async fn touch(
    conn: &mut Conn,
    tenant: &TenantId,
    (upload, part): (UploadId, PartRecord),
    limits: &UploadLimits,
    now: Timestamp,
) -> Result<()> {
    let reserved = reserved(conn, tenant, upload).await?;
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
    let (expire_time, limit) = own(conn, tenant, now, limits).await?;
    let (_, bytes) = unfinished(conn, tenant, now).await?;
    // What was reserved for this upload is for this part, or for a rival at the same offset, of which one will be refused.
    let used = bytes.saturating_sub(reserved);
    if used.saturating_add(part.size) > limit {
        return Err(Error::TooManyUploadBytes { limit, used });
    }
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
    (offset, size): (u64, u64),
    limits: &UploadLimits,
) -> Result<u32> {
    let (mut tx, now) = store.write().await?;
    let part = PartRecord {
        number: 0,
        offset,
        size,
    };
    locks::tenant(&mut tx, tenant).await?;
    locks::upload(&mut tx, tenant, upload).await?;
    touch(&mut tx, tenant, (upload, part), limits, now).await?;
    if size > 0 {
        reserve(&mut tx, tenant, (upload, part)).await?;
    }
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
    release(&mut tx, tenant, upload).await?;
    let end = part.offset + part.size;
    let detail = format!("committed_bytes={end}");
    audit::acted(&mut tx, tenant, named(upload, detail), now).await?;
    tx.commit().await?;
    Ok(end)
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
    // A part that is still being written comes too late.
    release(&mut tx, tenant, upload).await?;
    let made = (
        format!("videos/{}", video.id),
        format!("of uploads/{upload}"),
    );
    audit::acted(&mut tx, tenant, made, now).await?;
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
    let ending = match has_expired(&row, now)? {
        true => EXPIRED,
        false => DELETED,
    };
    let ended = query(sql)
        .bind(ending)
        .bind(now)
        .bind(tenant.as_str())
        .bind(upload.to_string())
        .execute(&mut tx)
        .await?;
    if ended > 0 {
        release(&mut tx, tenant, upload).await?;
        audit::acted(&mut tx, tenant, named(upload, ending), now).await?;
    }
    tx.commit().await?;
    Ok(parts)
}
