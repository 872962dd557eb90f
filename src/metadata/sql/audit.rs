//! The audit log: who changed which tenant, key or resource of a tenant.
//!
//! Invariant: an event is written in the transaction that makes the change, and never changed afterwards.

use std::time::Duration;

use super::super::{
    Actor, AuditRecord, KeyOwner, Page, PageRequest, RefusedRecord, Result, Timestamp, acting,
};
use super::database::{Conn, Row, query};
use super::rows::Columns;
use super::{Database, micros};
use crate::ids::TenantId;

const LISTING: &str = "audit";
/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;
/// Principal of callers whose credential was refused.
const UNPROVEN: &str = "unproven";
/// What stands behind every id: they are of hexadecimal digits.
const AFTER_ALL: &str = "~";

/// What was changed, and what it became.
pub(super) struct Change<'a> {
    pub(super) tenant: Option<&'a TenantId>,
    pub(super) method: &'static str,
    pub(super) resource: String,
    pub(super) detail: String,
}

/// Notes a change that a call makes to a resource of a tenant, by its name below the tenant, for example `tasks/{task_id}`. Outside of a call whose changes
/// are recorded, nothing is noted.
pub(super) async fn acted(
    conn: &mut Conn,
    tenant: &TenantId,
    (resource, detail): (String, String),
    now: Timestamp,
) -> Result<()> {
    let Some(call) = acting::current() else {
        return Ok(());
    };
    let change = Change {
        tenant: Some(tenant),
        method: call.method,
        resource,
        detail,
    };
    note(conn, &call.actor, change, now).await
}

/// Notes a change.
pub(super) async fn note(
    conn: &mut Conn,
    actor: &Actor,
    change: Change<'_>,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO audit_events (id, time, tenant, principal, source, method, resource, \
               detail, request_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    query(sql)
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(now)
        .bind(change.tenant.map(TenantId::as_str))
        .bind(&actor.principal)
        .bind(&actor.source)
        .bind(change.method)
        .bind(change.resource)
        .bind(change.detail)
        .bind(&actor.request_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes refused credentials. Who presented them is not known.
pub(super) async fn refused(store: &Database, refused: &[RefusedRecord]) -> Result<()> {
    let (mut tx, now) = store.write().await?;
    for own in refused {
        let actor = Actor {
            principal: UNPROVEN.to_owned(),
            source: own.source.clone(),
            request_id: String::new(),
        };
        let change = Change {
            tenant: None,
            method: "RefuseCredential",
            resource: own.called.clone(),
            detail: own.detail.clone(),
        };
        note(&mut tx, &actor, change, now).await?;
    }
    tx.commit().await
}

pub(super) async fn list(
    store: &Database,
    owner: &KeyOwner,
    page: &PageRequest,
) -> Result<Page<AuditRecord>> {
    let start = page.start(LISTING)?;
    let before = Some(start.as_str()).filter(|start| !start.is_empty());
    let sql = match owner {
        KeyOwner::Any => "SELECT * FROM audit_events WHERE id < $1 ORDER BY id DESC LIMIT $2",
        KeyOwner::Tenant(_) => {
            "SELECT * FROM audit_events WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
        }
    };
    let mut query = query(sql);
    if let KeyOwner::Tenant(tenant) = owner {
        query = query.bind(tenant.as_str());
    }
    let found = query
        .bind(before.unwrap_or(AFTER_ALL))
        .bind(page.limit())
        .fetch_all(&mut store.browse().await?)
        .await?;
    let events: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
    Ok(page.page(LISTING, events, |event| event.id.clone()))
}

pub(super) async fn forget(store: &Database, age: Duration) -> Result<u64> {
    // Where the server's role may only add to the audit log, the schema's owner prunes it with `frameshift migrate`.
    if !store.backend.may_forget_audit().await? {
        return Ok(0);
    }
    let (mut tx, now) = store.write().await?;
    // Ids are in the order of time, so the oldest come first.
    let sql = "DELETE FROM audit_events WHERE id IN \
               (SELECT id FROM audit_events ORDER BY id LIMIT $1) AND time <= $2";
    let gone = query(sql)
        .bind(BATCH)
        .bind(now.saturating_sub(micros(age)))
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(gone)
}

fn read(row: &Row) -> Result<AuditRecord> {
    let tenant = match row.optional_text("tenant")? {
        Some(_) => Some(row.id("tenant")?),
        None => None,
    };
    Ok(AuditRecord {
        id: row.text("id")?,
        time: row.int("time")?,
        tenant,
        actor: Actor {
            principal: row.text("principal")?,
            source: row.text("source")?,
            request_id: row.text("request_id")?,
        },
        method: row.text("method")?,
        resource: row.text("resource")?,
        detail: row.text("detail")?,
    })
}
