//! Copies of records under other names, many at a time: how a database is filled for measurements of its size.
//!
//! Invariant: a copy is as good a record as what it copies: counted, in the feed of changes, and in the queue.

use super::super::Result;
use super::database::query;
use super::rows;
use super::usage::{self, Delta};
use super::{Database, locks};
use crate::ids::{JobId, TaskId, TenantId, VideoId};

/// Copies that one transaction makes.
const BATCH: usize = 2000;

impl Database {
    /// Copies a task with its serving version and its note in the feed of changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn copy_task(&self, tenant: &TenantId, like: &TaskId, ids: &[TaskId]) -> Result<()> {
        for some in ids.chunks(BATCH) {
            let ids = named(some.iter().map(ToString::to_string), 0);
            let (mut tx, _) = self.write().await?;
            locks::tenant(&mut tx, tenant).await?;
            for sql in [
                "INSERT INTO tasks (tenant, id, display_name, adapter, sampling, auto_serve, serving, \
                 desired, incarnation, create_time) SELECT tenant, value ->> 0, display_name, adapter, \
                 sampling, auto_serve, serving, desired, incarnation, create_time \
                 FROM tasks CROSS JOIN json_each($3) WHERE tenant = $1 AND tasks.id = $2",
                "INSERT INTO version_numbers (tenant, task, last) SELECT tenant, value ->> 0, last \
                 FROM version_numbers CROSS JOIN json_each($3) WHERE tenant = $1 AND task = $2",
                "INSERT INTO versions (tenant, task, version, manifest, sha256, size_bytes, create_time) \
                 SELECT tenant, value ->> 0, version, manifest, sha256, size_bytes, create_time \
                 FROM versions CROSS JOIN json_each($3) WHERE tenant = $1 AND task = $2",
                "INSERT INTO changes (tenant, kind, id, sequence, is_deleted, change_time) \
                 SELECT tenant, kind, value ->> 0, newest + CAST(value ->> 1 AS BIGINT), is_deleted, \
                 change_time FROM changes CROSS JOIN change_feed CROSS JOIN json_each($3) \
                 WHERE tenant = $1 AND changes.id = $2 AND kind = 'task'",
            ] {
                query(sql)
                    .bind(tenant.as_str())
                    .bind(like.as_str())
                    .bind(&ids)
                    .execute(&mut tx)
                    .await?;
            }
            let count = rows::int("tasks", some.len() as u64)?;
            query("UPDATE change_feed SET newest = newest + $1")
                .bind(count)
                .execute(&mut tx)
                .await?;
            let sql = "SELECT size_bytes FROM versions WHERE tenant = $1 AND task = $2";
            let found = query(sql).bind(tenant.as_str()).bind(like.as_str());
            let mut more = Delta {
                tasks: count,
                ..Delta::default()
            };
            for version in &found.fetch_all(&mut tx).await? {
                use super::rows::Columns as _;
                more.versions += count;
                more.bytes += count * version.int("size_bytes")?;
            }
            usage::count(&mut tx, tenant, more).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Copies a video, which names the same bytes of no object.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn copy_video(
        &self,
        tenant: &TenantId,
        like: VideoId,
        ids: &[VideoId],
    ) -> Result<()> {
        let size = {
            let mut conn = self.read().await?;
            super::videos::get(&mut conn, tenant, like)
                .await?
                .size_bytes
        };
        for some in ids.chunks(BATCH) {
            let ids = named(some.iter().map(ToString::to_string), 0);
            let (mut tx, _) = self.write().await?;
            locks::tenant(&mut tx, tenant).await?;
            let sql = "INSERT INTO videos (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
                       SELECT tenant, value ->> 0, display_name, size_bytes, sha256, probe, create_time \
                       FROM videos CROSS JOIN json_each($3) WHERE tenant = $1 AND videos.id = $2";
            query(sql)
                .bind(tenant.as_str())
                .bind(like.to_string())
                .bind(ids)
                .execute(&mut tx)
                .await?;
            let count = rows::int("videos", some.len() as u64)?;
            let more = Delta {
                videos: count,
                bytes: count * rows::int("size_bytes", size)?,
                ..Delta::default()
            };
            usage::count(&mut tx, tenant, more).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Copies a waiting job, each copy one turn after the other.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn copy_job(&self, tenant: &TenantId, like: JobId, ids: &[JobId]) -> Result<()> {
        for (batch, some) in ids.chunks(BATCH).enumerate() {
            let ids = named(some.iter().map(ToString::to_string), batch * BATCH);
            let (mut tx, _) = self.write().await?;
            let sql = "INSERT INTO jobs (tenant, id, task, dataset, dataset_digest, hyper_parameters, state, \
                       task_etag, create_time, backbone, start_tag, finish_tag) \
                       SELECT tenant, value ->> 0, task, dataset, dataset_digest, hyper_parameters, state, \
                       task_etag, create_time, backbone, \
                       start_tag + CAST(value ->> 1 AS BIGINT) * (finish_tag - start_tag), \
                       finish_tag + CAST(value ->> 1 AS BIGINT) * (finish_tag - start_tag) \
                       FROM jobs CROSS JOIN json_each($3) WHERE tenant = $1 AND jobs.id = $2";
            query(sql)
                .bind(tenant.as_str())
                .bind(like.to_string())
                .bind(ids)
                .execute(&mut tx)
                .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Counts the connections to the database on a server, of all other processes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn other_connections(&self) -> Result<u64> {
        self.backend.other_connections().await
    }

    /// Has the database gather what it plans its statements by, as it does by itself some time after so many changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gather_statistics(&self) -> Result<()> {
        self.backend.gather_statistics().await
    }
}

/// Names and their numbers, from 1 on after `before`, as JSON.
fn named(names: impl Iterator<Item = String>, before: usize) -> String {
    let pairs = names.enumerate();
    let pairs = pairs.map(|(place, name)| format!("[\"{name}\",{}]", before + place + 1));
    format!("[{}]", pairs.collect::<Vec<_>>().join(","))
}
