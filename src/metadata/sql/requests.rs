//! Request ids: what makes a create idempotent.
//!
//! Invariant: (tenant, method, request id) names one resource and one content, written in the transaction that made it; another content under the
//! same id is refused, naming the fields that differ.

use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::super::{Error, Result, Timestamp};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use crate::ids::{RequestId, TenantId};
use crate::spec::Digest;

/// A create, as the API calls it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: &'static str,
    id: Option<RequestId>,
    content: Digest,
    /// The content by the API's names of its fields.
    fields: Map<String, Value>,
}

impl Request {
    /// A request of a method. `content` is all that a repetition has to have in common with it, in the form whose digest earlier releases stored;
    /// `fields` is the same by name.
    pub(super) fn new(
        method: &'static str,
        id: Option<RequestId>,
        content: &impl Serialize,
        fields: &[(&str, Value)],
    ) -> Result<Self> {
        let text = rows::json("digest", content)?;
        let content = Digest(Sha256::digest(text.as_bytes()).into());
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        Ok(Self {
            method,
            id,
            content,
            fields,
        })
    }

    /// The resource that this request made before. Where there is none the request is this transaction's, which has to [`Self::remember`] what it
    /// makes: a rival waits until it has, and then finds it.
    pub(super) async fn begin(
        &self,
        conn: &mut Conn,
        tenant: &TenantId,
        now: Timestamp,
    ) -> Result<Option<String>> {
        let Some(id) = self.id else { return Ok(None) };
        let sql = "INSERT INTO requests (tenant, method, request_id, resource, digest, content, \
                   create_time) VALUES ($1, $2, $3, '', $4, $5, $6) ON CONFLICT DO NOTHING";
        let begun = query(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .bind(self.content.0.to_vec())
            .bind(rows::json("content", &self.fields)?)
            .bind(now)
            .execute(&mut *conn)
            .await?;
        match begun {
            0 => self.answer(conn, tenant).await,
            _ => Ok(None),
        }
    }

    /// The resource that this request made before, for whoever makes nothing.
    pub(super) async fn answer(
        &self,
        conn: &mut Conn,
        tenant: &TenantId,
    ) -> Result<Option<String>> {
        let Some(id) = self.id else { return Ok(None) };
        let sql = "SELECT resource, digest, content FROM requests \
                   WHERE tenant = $1 AND method = $2 AND request_id = $3";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .fetch_optional(conn)
            .await?;
        let Some(row) = found else { return Ok(None) };
        if content(&row)?.is_some_and(|before| before != self.content) {
            let before: Option<Map<String, Value>> = row.optional_json("content")?;
            return Err(Error::RequestReused {
                request: id,
                method: self.method,
                differs: before.map_or_else(Vec::new, |before| differing(&before, &self.fields)),
            });
        }
        Ok(Some(row.text("resource")?))
    }

    /// What the request made, as it was found; a resource that is not there any more was deleted since.
    pub(super) fn made<T>(&self, found: Result<T>) -> Result<T> {
        match (found, self.id) {
            (Err(Error::NotFound { kind, name }), Some(request)) => Err(Error::RequestSpent {
                request,
                kind,
                name,
            }),
            (found, _) => found,
        }
    }

    /// Remembers what this request made, having begun it.
    pub(super) async fn remember(
        &self,
        conn: &mut Conn,
        tenant: &TenantId,
        resource: String,
    ) -> Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        let sql = "UPDATE requests SET resource = $1 \
                   WHERE tenant = $2 AND method = $3 AND request_id = $4";
        query(sql)
            .bind(resource)
            .bind(tenant.as_str())
            .bind(self.method)
            .bind(id.to_string())
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// The id of what a request of a method made; `None` when there is no such request, or nothing came of it yet.
pub(super) async fn made_by<T>(
    conn: &mut Conn,
    tenant: &TenantId,
    (method, request): (&'static str, RequestId),
) -> Result<Option<T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let sql = "SELECT resource FROM requests \
               WHERE tenant = $1 AND method = $2 AND request_id = $3 AND resource <> ''";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(method)
        .bind(request.to_string())
        .fetch_optional(conn)
        .await?;
    found.map(|row| row.id("resource")).transpose()
}

/// The digest of what was asked for before; `None` when the row is of a release that did not keep it: at first of no request, then of no import.
fn content(row: &Row) -> Result<Option<Digest>> {
    if row.optional_blob("digest")?.is_none() {
        return Ok(None);
    }
    let digest = row.digest("digest")?;
    let nothing = Digest(Sha256::digest(b"null").into());
    Ok((digest != nothing).then_some(digest))
}

/// Names of the fields that two contents do not have in common; fields of a message by their paths.
fn differing(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let mut differs = Vec::new();
    for name in names {
        match (before.get(name), now.get(name)) {
            (Some(Value::Object(before)), Some(Value::Object(now))) => {
                let inner = differing(before, now);
                differs.extend(inner.iter().map(|inner| format!("{name}.{inner}")));
            }
            (before, now) if before != now => differs.push(name.clone()),
            _ => {}
        }
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_path() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let before = object(serde_json::json!({
            "dataset": "a", "display_name": "x", "hyper_parameters": {"epochs": 1, "seed": 7},
        }));
        let now = object(serde_json::json!({
            "dataset": "b", "display_name": "x", "hyper_parameters": {"epochs": 50, "seed": 7}, "sha256": "00",
        }));
        assert_eq!(
            differing(&before, &now),
            ["dataset", "hyper_parameters.epochs", "sha256"]
        );
        assert!(differing(&now, &now).is_empty());
    }
}
