//! Videos: rows, tombstones, and who still needs one.
//!
//! Invariant: a video that an unfinished job or a data set names goes only when its owner insists, and then leaves a tombstone.

use async_trait::async_trait;

use super::super::{
    BlobName, Error, Kind, NewVideo, Page, PageRequest, PartRecord, Result, Timestamp,
    UploadLimits, UploadRecord, VideoRecord, Videos,
};
use super::database::{Conn, Row, Tx, query};
use super::requests::Request;
use super::rows::{self, Columns, corrupt};
use super::usage::Delta;
use super::{Database, audit, blobs, changes, decoded, labels, locks, uploads, usage};
use crate::ids::{RequestId, TenantId, UploadId, VideoId};
use crate::spec::Digest;

const LISTING: &str = "videos";
/// How often a deletion is begun anew because the video was put into another data set meanwhile.
const TRIES: u32 = 5;

#[async_trait]
impl Videos for Database {
    async fn create_upload(
        &self,
        tenant: &TenantId,
        display_name: &str,
        request: Option<RequestId>,
        limits: &UploadLimits,
    ) -> Result<UploadRecord> {
        uploads::create(self, tenant, display_name, request, limits).await
    }

    async fn get_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<UploadRecord> {
        let mut tx = self.read().await?;
        let now = self.now(&mut tx).await?;
        uploads::get(&mut tx, tenant, upload, now).await
    }

    async fn list_uploads(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<UploadRecord>> {
        uploads::list(self, tenant, page).await
    }

    async fn find_uploaded(
        &self,
        tenant: &TenantId,
        display_name: &str,
        sha256: Digest,
        request: RequestId,
    ) -> Result<Option<VideoRecord>> {
        let mut tx = self.read().await?;
        let request = upload_request(Some(request), display_name, sha256)?;
        match request.answer(&mut tx, tenant).await? {
            Some(id) => {
                let found = get(&mut tx, tenant, parsed(&id)?).await;
                request.made(found).map(Some)
            }
            None => Ok(None),
        }
    }

    async fn record_video(
        &self,
        tenant: &TenantId,
        display_name: &str,
        video: NewVideo,
        request: Option<RequestId>,
    ) -> Result<VideoRecord> {
        let (mut tx, now) = self.write().await?;
        let request = upload_request(request, display_name, video.sha256)?;
        if let Some(id) = request.begin(&mut tx, tenant, now).await? {
            return request.made(get(&mut tx, tenant, parsed(&id)?).await);
        }
        let record = insert(&mut tx, tenant, display_name, video, now).await?;
        let id = record.id.to_string();
        request.remember(&mut tx, tenant, id).await?;
        let made = (format!("videos/{}", record.id), String::new());
        audit::acted(&mut tx, tenant, made, now).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn begin_part(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        offset: u64,
        size: u64,
        limits: &UploadLimits,
    ) -> Result<u32> {
        uploads::begin_part(self, tenant, upload, (offset, size), limits).await
    }

    async fn commit_part(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        part: PartRecord,
        limits: &UploadLimits,
    ) -> Result<u64> {
        uploads::commit_part(self, tenant, upload, part, limits).await
    }

    async fn list_parts(&self, tenant: &TenantId, upload: UploadId) -> Result<Vec<PartRecord>> {
        let mut tx = self.read().await?;
        let now = self.now(&mut tx).await?;
        uploads::get(&mut tx, tenant, upload, now).await?;
        uploads::parts(&mut tx, tenant, upload).await
    }

    async fn finish_upload(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        video: NewVideo,
    ) -> Result<VideoRecord> {
        uploads::finish(self, tenant, upload, video).await
    }

    async fn abandon_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<Vec<PartRecord>> {
        self.deleting(|| uploads::abandon(self, tenant, upload))
            .await
    }

    async fn get_video(&self, tenant: &TenantId, video: VideoId) -> Result<VideoRecord> {
        get(&mut self.look().await?, tenant, video).await
    }

    async fn get_videos(&self, tenant: &TenantId, videos: &[VideoId]) -> Result<Vec<VideoRecord>> {
        let sql = "SELECT * FROM videos WHERE tenant = $1 AND delete_time IS NULL \
                   AND id IN (SELECT value ->> 0 FROM json_each($2))";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(decoded::list(videos)?)
            .fetch_all(&mut self.browse().await?)
            .await?;
        found.iter().map(read).collect()
    }

    async fn list_videos(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<VideoRecord>> {
        let sql = "SELECT * FROM videos WHERE tenant = $1 AND id > $2 AND delete_time IS NULL \
                   ORDER BY id LIMIT $3";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut self.browse().await?)
            .await?;
        let videos: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
        Ok(page.page(LISTING, videos, |video| video.id.to_string()))
    }

    async fn delete_video(&self, tenant: &TenantId, video: VideoId, force: bool) -> Result<()> {
        self.deleting(|| delete(self, tenant, video, force)).await
    }

    async fn named(&self, blobs: &[(TenantId, BlobName)]) -> Result<Vec<bool>> {
        blobs::named(self, blobs).await
    }
}

async fn delete(store: &Database, tenant: &TenantId, video: VideoId, force: bool) -> Result<()> {
    let (mut tx, now) = locked(store, tenant, video).await?;
    let record = get(&mut tx, tenant, video).await?;
    let user = user(&mut tx, tenant, video).await?;
    match user {
        Some((user_kind, user)) if !force => {
            return Err(Error::InUse {
                kind: Kind::Video,
                name: video.to_string(),
                user_kind,
                user,
            });
        }
        Some(_) => bury(&mut tx, tenant, video, now).await?,
        None => {
            // Data sets that are being removed may still hold it.
            labels::forget_video(&mut tx, tenant, video).await?;
            query("DELETE FROM videos WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(video.to_string())
                .execute(&mut tx)
                .await?;
        }
    }
    let removed = Delta::video(record.size_bytes)?.removed();
    usage::count(&mut tx, tenant, removed).await?;
    changes::videos_deleted(&mut tx, tenant, now).await?;
    query("DELETE FROM uploads INDEXED BY uploads_by_video WHERE tenant = $1 AND video = $2")
        .bind(tenant.as_str())
        .bind(video.to_string())
        .execute(&mut tx)
        .await?;
    let gone = (format!("videos/{video}"), "deleted".to_owned());
    audit::acted(&mut tx, tenant, gone, now).await?;
    tx.commit().await
}

/// A transaction that has a video and what names it.
async fn locked(store: &Database, tenant: &TenantId, video: VideoId) -> Result<(Tx, Timestamp)> {
    for _ in 0..TRIES {
        let (mut tx, now) = store.write().await?;
        locks::tenant(&mut tx, tenant).await?;
        if locks::video_and_datasets(&mut tx, tenant, video).await? {
            return Ok((tx, now));
        }
    }
    Err(Error::Unavailable(
        "the video is put into data sets faster than it is deleted".into(),
    ))
}

fn upload_request(id: Option<RequestId>, display_name: &str, sha256: Digest) -> Result<Request> {
    let fields = [
        ("header.display_name", display_name.into()),
        ("sha256", sha256.to_string().into()),
    ];
    Request::new("UploadVideo", id, &(display_name, sha256), &fields)
}

pub(super) fn parsed(id: &str) -> Result<VideoId> {
    id.parse().map_err(|error| corrupt("video", error))
}

pub(super) async fn get(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<VideoRecord> {
    let sql = "SELECT * FROM videos WHERE tenant = $1 AND id = $2 AND delete_time IS NULL";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(video.to_string())
        .fetch_optional(conn)
        .await?;
    rows::found(found, read, (Kind::Video, video))
}

pub(super) async fn insert(
    conn: &mut Conn,
    tenant: &TenantId,
    display_name: &str,
    video: NewVideo,
    now: Timestamp,
) -> Result<VideoRecord> {
    let sql = "INSERT INTO videos (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(video.id.to_string())
        .bind(display_name)
        .bind(rows::int("size_bytes", video.size_bytes)?)
        .bind(video.sha256.0.to_vec())
        .bind(rows::json("probe", &video.probe)?)
        .bind(now)
        .fetch_one(&mut *conn)
        .await?;
    usage::add(conn, tenant, Delta::video(video.size_bytes)?).await?;
    read(&row)
}

fn read(row: &Row) -> Result<VideoRecord> {
    Ok(VideoRecord {
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        display_name: row.text("display_name")?,
        size_bytes: row.number("size_bytes")?,
        sha256: row.digest("sha256")?,
        probe: row.json("probe")?,
        create_time: row.int("create_time")?,
    })
}

/// A data set or an unfinished job that names the video.
async fn user(
    conn: &mut Conn,
    tenant: &TenantId,
    video: VideoId,
) -> Result<Option<(Kind, String)>> {
    let sql = "SELECT dataset FROM examples CROSS JOIN datasets \
               WHERE datasets.tenant = examples.tenant AND datasets.id = dataset \
               AND examples.tenant = $1 AND video = $2 AND datasets.delete_time IS NULL LIMIT 1";
    let dataset = query(sql)
        .bind(tenant.as_str())
        .bind(video.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(dataset) = dataset {
        return Ok(Some((Kind::Dataset, dataset.text("dataset")?)));
    }
    let sql = "SELECT jobs.id FROM jobs INDEXED BY unfinished_jobs_by_tenant \
               CROSS JOIN snapshot_examples AS example \
               WHERE example.tenant = jobs.tenant AND example.digest = jobs.dataset_digest \
               AND jobs.tenant = $1 AND jobs.end_time IS NULL AND example.video = $2 LIMIT 1";
    let job = query(sql)
        .bind(tenant.as_str())
        .bind(video.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    job.map(|job| Ok((Kind::Job, job.text("id")?))).transpose()
}

/// Leaves a tombstone and takes the video out of its data sets.
async fn bury(conn: &mut Conn, tenant: &TenantId, video: VideoId, now: Timestamp) -> Result<()> {
    labels::forget_video(conn, tenant, video).await?;
    decoded::forget(conn, tenant, video).await?;
    query("UPDATE videos SET delete_time = $1 WHERE tenant = $2 AND id = $3")
        .bind(now)
        .bind(tenant.as_str())
        .bind(video.to_string())
        .execute(&mut *conn)
        .await?;
    Ok(())
}
