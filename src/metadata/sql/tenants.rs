//! Tenants that an administrator made, and the use cases of access as one trait.
//!
//! Invariant: every change of a tenant raises its revision and is noted in the change feed.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    Access, AccessChanges, Actor, AuditRecord, Cursor, Error, KeyOwner, KeyRecord, Kind, KnownKey,
    NewKey, Page, PageRequest, RefusedRecord, Result, SecretHash, TenantRecord, TenantState,
    TenantUpdate, Terms,
};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::{Database, audit, changes, keys, locks, micros, terms, usage};
use crate::ids::{KeyId, TenantId};
use crate::spec::Digest;

const LISTING: &str = "tenants";

/// Tenants with all that is counted against their limits.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT t.*, u.videos, u.bytes, u.tasks, u.versions, \
             (SELECT begin_time FROM erasures WHERE erasures.tenant = t.tenant) AS erased, \
             (SELECT COUNT(*) FROM jobs INDEXED BY unfinished_jobs_by_tenant \
             WHERE jobs.tenant = t.tenant AND end_time IS NULL) AS jobs, \
             (SELECT CAST(SUM(examples) AS BIGINT) FROM datasets \
             WHERE datasets.tenant = t.tenant AND delete_time IS NULL) AS examples, \
             (SELECT CAST(COALESCE(SUM(committed), 0) AS BIGINT) \
             FROM uploads INDEXED BY unfinished_uploads_by_tenant \
             WHERE uploads.tenant = t.tenant AND expire_time IS NOT NULL) + \
             (SELECT CAST(COALESCE(SUM(own.bytes), 0) AS BIGINT) \
             FROM upload_reservations AS own CROSS JOIN uploads \
             WHERE own.tenant = t.tenant AND uploads.tenant = own.tenant AND uploads.id = own.upload \
             AND uploads.expire_time IS NOT NULL AND own.start >= uploads.committed) AS upload_bytes \
             FROM tenants t LEFT JOIN tenant_usage u ON u.tenant = t.tenant",
            " WHERE ",
            $condition
        )
    };
}

#[async_trait]
impl Access for Database {
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        display_name: &str,
        actor: &Actor,
    ) -> Result<TenantRecord> {
        let (mut tx, now) = self.write().await?;
        let sql = "INSERT INTO tenants (tenant, display_name, state, revision, create_time) \
                   VALUES ($1, $2, $3, 1, $4) ON CONFLICT DO NOTHING";
        let inserted = query(sql)
            .bind(tenant.as_str())
            .bind(display_name)
            .bind(rows::name("state", TenantState::Active)?)
            .bind(now)
            .execute(&mut tx)
            .await?;
        if inserted == 0 {
            return Err(Error::AlreadyExists {
                kind: Kind::Tenant,
                name: tenant.to_string(),
            });
        }
        changes::tenant_changed(&mut tx, tenant, now).await?;
        let detail = String::new();
        audit::note(&mut tx, actor, changed(tenant, "CreateTenant", detail), now).await?;
        let record = get(&mut tx, tenant).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn get_tenant(&self, tenant: &TenantId) -> Result<TenantRecord> {
        let mut tx = self.read().await?;
        get(&mut tx, tenant).await
    }

    async fn list_tenants(&self, page: &PageRequest) -> Result<Page<TenantRecord>> {
        let found = query(select!("t.tenant > $1 ORDER BY t.tenant LIMIT $2"))
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut self.browse().await?)
            .await?;
        let tenants: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
        Ok(page.page(LISTING, tenants, |tenant| tenant.id.to_string()))
    }

    async fn update_tenant(
        &self,
        tenant: &TenantId,
        update: TenantUpdate,
        etag: Option<&str>,
        actor: &Actor,
    ) -> Result<TenantRecord> {
        // A tenant has to be suspended on a full disk, too.
        self.deleting(|| change(self, tenant, &update, etag, actor))
            .await
    }

    async fn list_terms(
        &self,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, Terms)>> {
        terms::list(self, after, limit).await
    }

    async fn get_terms(&self, tenant: &TenantId) -> Result<Option<Terms>> {
        terms::get(self, tenant).await
    }

    async fn create_key(&self, key: NewKey, actor: &Actor) -> Result<KeyRecord> {
        keys::create(self, &key, actor).await
    }

    async fn bootstrap_key(&self, key: NewKey, actor: &Actor) -> Result<bool> {
        keys::bootstrap(self, &key, actor).await
    }

    async fn find_key(&self, key: &KeyId) -> Result<Option<KnownKey>> {
        keys::find(self, key).await
    }

    async fn list_keys(&self, owner: &KeyOwner, page: &PageRequest) -> Result<Page<KeyRecord>> {
        keys::list(self, owner, page).await
    }

    async fn rotate_key(
        &self,
        owner: &KeyOwner,
        key: &KeyId,
        hash: SecretHash,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<KeyRecord> {
        keys::rotate(self, (owner, key), hash, overlap, actor).await
    }

    async fn revoke_key(&self, owner: &KeyOwner, key: &KeyId, actor: &Actor) -> Result<KeyRecord> {
        // A stolen key has to end on a full disk, too.
        self.deleting(|| keys::revoke(self, owner, key, actor))
            .await
    }

    async fn list_audit(&self, owner: &KeyOwner, page: &PageRequest) -> Result<Page<AuditRecord>> {
        audit::list(self, owner, page).await
    }

    async fn forget_audit(&self, age: Duration) -> Result<u64> {
        self.deleting(|| audit::forget(self, age)).await
    }

    async fn note_refused(&self, refused: &[RefusedRecord]) -> Result<()> {
        audit::refused(self, refused).await
    }

    async fn note_key_use(&self, used: &[(KeyId, i64)]) -> Result<()> {
        keys::note_use(self, used).await
    }

    async fn access_changes(&self, after: Option<Cursor>, limit: u32) -> Result<AccessChanges> {
        changes::of_access(self, after, limit).await
    }

    async fn page_key(&self, proposed: Digest) -> Result<Digest> {
        let (mut tx, _) = self.write().await?;
        let sql = "INSERT INTO seals (purpose, key) VALUES ('page', $1) ON CONFLICT DO NOTHING";
        query(sql)
            .bind(proposed.0.to_vec())
            .execute(&mut tx)
            .await?;
        let sql = "SELECT key FROM seals WHERE purpose = 'page'";
        let key = query(sql).fetch_one(&mut tx).await?.digest("key")?;
        tx.commit().await?;
        Ok(key)
    }
}

async fn change(
    store: &Database,
    tenant: &TenantId,
    update: &TenantUpdate,
    etag: Option<&str>,
    actor: &Actor,
) -> Result<TenantRecord> {
    let (mut tx, now) = store.write().await?;
    locks::tenant_record(&mut tx, tenant).await?;
    let before = get(&mut tx, tenant).await?;
    if let Some(etag) = etag.filter(|etag| *etag != before.etag) {
        return Err(Error::TenantChanged {
            tenant: tenant.clone(),
            etag: etag.chars().take(80).collect(),
        });
    }
    let state = update.state.map(|state| rows::name("state", state));
    let state = state.transpose()?;
    let detail = told(state.as_deref(), update);
    let sql = "UPDATE tenants SET display_name = COALESCE($1, display_name), \
               state = COALESCE($2, state), revision = revision + 1, videos_limit = $3, \
               bytes_limit = $4, tasks_limit = $5, versions_limit = $6, jobs_limit = $7, \
               clip_frames_rate = $8, requests_rate = $9, weight = $10, videos_age = $11, \
               jobs_age = $12, uploads_age = $13, examples_limit = $14, \
               upload_bytes_limit = $15, requests_at_once = $16, streams_at_once = $17, \
               live_streams_at_once = $18, clips_at_once = $19 WHERE tenant = $20";
    let stay = update.stay.unwrap_or(before.stay);
    let quotas = update.quotas.unwrap_or(before.quotas);
    let limit = |limit: Option<u64>| limit.map(|limit| rows::int("limit", limit)).transpose();
    query(sql)
        .bind(update.display_name.as_deref())
        .bind(state)
        .bind(limit(quotas.videos)?)
        .bind(limit(quotas.bytes)?)
        .bind(limit(quotas.tasks)?)
        .bind(limit(quotas.versions)?)
        .bind(quotas.jobs)
        .bind(limit(quotas.rates.clip_frames)?)
        .bind(limit(quotas.rates.requests)?)
        .bind(update.weight.unwrap_or(before.weight).get())
        .bind(stay.videos.map(micros))
        .bind(stay.jobs.map(micros))
        .bind(stay.uploads.map(micros))
        .bind(limit(quotas.examples)?)
        .bind(limit(quotas.upload_bytes)?)
        .bind(quotas.at_once.requests)
        .bind(quotas.at_once.streams)
        .bind(quotas.at_once.live_streams)
        .bind(quotas.at_once.clips)
        .bind(tenant.as_str())
        .execute(&mut tx)
        .await?;
    changes::tenant_changed(&mut tx, tenant, now).await?;
    audit::note(&mut tx, actor, changed(tenant, "UpdateTenant", detail), now).await?;
    let record = get(&mut tx, tenant).await?;
    tx.commit().await?;
    Ok(record)
}

/// What an update changes, as the audit log has it.
fn told(state: Option<&str>, update: &TenantUpdate) -> String {
    let parts = [
        state.map(str::to_owned),
        update.quotas.map(|quotas| quotas.to_string()),
        update
            .weight
            .map(|weight| format!("weight={}", weight.get())),
        update.stay.map(|stay| format!("stay: {stay}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(" ")
}

fn changed<'a>(tenant: &'a TenantId, method: &'static str, detail: String) -> audit::Change<'a> {
    audit::Change {
        tenant: Some(tenant),
        method,
        resource: format!("tenants/{tenant}"),
        detail,
    }
}

pub(super) async fn get(conn: &mut Conn, tenant: &TenantId) -> Result<TenantRecord> {
    let found = query(select!("t.tenant = $1"))
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    rows::found(found, read, (Kind::Tenant, tenant))
}

fn read(row: &Row) -> Result<TenantRecord> {
    Ok(TenantRecord {
        id: row.id("tenant")?,
        display_name: row.text("display_name")?,
        state: terms::state(row)?,
        weight: terms::weight(row)?,
        stay: terms::stay(row)?,
        quotas: usage::quotas(row)?,
        stored: usage::stored(row)?,
        etag: row.int("revision")?.to_string(),
        create_time: row.int("create_time")?,
    })
}
