//! Request ids: what makes a create idempotent.
//!
//! Invariant: (tenant, method, request id) names one resource and one content, written in the transaction that made it; another content under the
//! same id is refused.

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::super::{Error, Result, Timestamp};
use super::rows::{self, Columns};
use crate::ids::{RequestId, TenantId};
use crate::spec::Digest;

/// A create, as the API calls it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    method: &'static str,
    id: Option<RequestId>,
    content: Digest,
}

impl Request {
    /// A request of a method; `content` is all that a repetition has to have in common with it.
    pub(super) fn new(
        method: &'static str,
        id: Option<RequestId>,
        content: &impl Serialize,
    ) -> Result<Self> {
        let text = rows::json("digest", content)?;
        let content = Digest(Sha256::digest(text.as_bytes()).into());
        Ok(Self {
            method,
            id,
            content,
        })
    }

    /// What this request made before.
    pub(super) async fn answer(
        self,
        conn: &mut SqliteConnection,
        tenant: &TenantId,
    ) -> Result<Option<String>> {
        let Some(id) = self.id else { return Ok(None) };
        let sql = "SELECT resource, digest FROM requests \
                   WHERE tenant = ? AND method = ? AND request_id = ?";
        let found = sqlx::query(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .fetch_optional(conn)
            .await?;
        let Some(row) = found else { return Ok(None) };
        if content(&row)?.is_some_and(|before| before != self.content) {
            return Err(Error::RequestReused {
                request: id,
                method: self.method,
            });
        }
        Ok(Some(row.text("resource")?))
    }

    /// Remembers what this request made.
    pub(super) async fn remember(
        self,
        conn: &mut SqliteConnection,
        tenant: &TenantId,
        resource: String,
        now: Timestamp,
    ) -> Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        let sql = "INSERT INTO requests (tenant, method, request_id, resource, digest, create_time) \
                   VALUES (?, ?, ?, ?, ?, ?)";
        sqlx::query(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .bind(resource)
            .bind(self.content.0.to_vec())
            .bind(now)
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// The digest of what was asked for before; `None` when the row is of a release that did not keep it.
fn content(row: &SqliteRow) -> Result<Option<Digest>> {
    if row.optional_blob("digest")?.is_none() {
        return Ok(None);
    }
    row.digest("digest").map(Some)
}
