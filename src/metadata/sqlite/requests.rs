//! Request ids: what makes a create idempotent.
//!
//! Invariant: (tenant, method, request id) names one resource, written in the transaction that made it.

use sqlx::SqliteConnection;

use super::super::{Result, Timestamp};
use crate::ids::{RequestId, TenantId};

/// A create, as the API calls it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) id: Option<RequestId>,
}

impl Request {
    /// What this request made before.
    pub(super) async fn answer(
        self,
        conn: &mut SqliteConnection,
        tenant: &TenantId,
    ) -> Result<Option<String>> {
        let Some(id) = self.id else { return Ok(None) };
        let sql =
            "SELECT resource FROM requests WHERE tenant = ? AND method = ? AND request_id = ?";
        Ok(sqlx::query_scalar(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .fetch_optional(conn)
            .await?)
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
        let sql = "INSERT INTO requests (tenant, method, request_id, resource, create_time) \
                   VALUES (?, ?, ?, ?, ?)";
        sqlx::query(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .bind(resource)
            .bind(now)
            .execute(conn)
            .await?;
        Ok(())
    }
}
