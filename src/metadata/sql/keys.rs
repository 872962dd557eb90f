//! API keys: hashes of their secrets, and what their callers may do.
//!
//! Invariant: a change of a key is noted in the change feed in its own transaction; a key that was revoked is never good again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{
    Actor, Error, KeyOwner, KeyRecord, Kind, KnownKey, NewKey, Page, PageRequest, PreviousSecret,
    Quota, Result, SecretHash, TenantState, Timestamp,
};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns, corrupt};
use super::{Database, audit, changes, locks, micros, tenants, terms};
use crate::ids::{KeyId, TaskId, TenantId};

const LISTING: &str = "keys";
/// Most keys of a tenant, ended ones included: their rows stay.
const KEYS: u64 = 10_000;

pub(super) async fn create(store: &Database, key: &NewKey, actor: &Actor) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    if let Some(tenant) = &key.tenant {
        locks::tenant_record(&mut tx, tenant).await?;
        let owner = tenants::get(&mut tx, tenant).await?;
        if owner.state == TenantState::Erasing {
            return Err(Error::TenantErased);
        }
        admit(&mut tx, tenant).await?;
    }
    insert(&mut tx, key, now).await?;
    let record = get(&mut tx, &KeyOwner::Any, &key.id).await?;
    audit::note(&mut tx, actor, changed(&record, "CreateKey"), now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Refuses a key too many of a tenant, whose administrators may make keys by themselves.
async fn admit(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT COUNT(*) AS found FROM api_keys WHERE tenant = $1";
    let row = query(sql).bind(tenant.as_str()).fetch_one(conn).await?;
    let used = row.number("found")?;
    if used >= KEYS {
        return Err(Error::QuotaExceeded {
            quota: Quota::Keys,
            limit: KEYS,
            used,
            more: 1,
        });
    }
    Ok(())
}

pub(super) async fn bootstrap(store: &Database, key: &NewKey, actor: &Actor) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    locks::duty(&mut tx, locks::BOOTSTRAP).await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE tenant IS NULL \
               AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1)) AS found";
    let row = query(sql).bind(now).fetch_one(&mut tx).await?;
    if row.flag("found")? {
        return Ok(false);
    }
    insert(&mut tx, key, now).await?;
    let record = get(&mut tx, &KeyOwner::Any, &key.id).await?;
    audit::note(&mut tx, actor, changed(&record, "BootstrapKey"), now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn insert(conn: &mut Conn, key: &NewKey, now: Timestamp) -> Result<()> {
    let tasks = key.tasks.as_ref().map(|tasks| {
        let names: Vec<&str> = tasks.iter().map(TaskId::as_str).collect();
        rows::json("tasks", &names)
    });
    let expires = key
        .lifetime
        .map(|lifetime| now.saturating_add(micros(lifetime)));
    let sql = "INSERT INTO api_keys (id, tenant, display_name, scopes, tasks, hash, hash_kind, \
               created_by, create_time, expire_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
               ON CONFLICT DO NOTHING";
    let inserted = query(sql)
        .bind(key.id.as_str())
        .bind(key.tenant.as_ref().map(|tenant| tenant.as_str()))
        .bind(&key.display_name)
        .bind(key.scopes.to_string())
        .bind(tasks.transpose()?)
        .bind(key.hash.digest.0.to_vec())
        .bind(rows::name("hash_kind", key.hash.kind)?)
        .bind(&key.created_by)
        .bind(now)
        .bind(expires)
        .execute(&mut *conn)
        .await?;
    if inserted == 0 {
        return Err(Error::AlreadyExists {
            kind: Kind::Key,
            name: key.id.to_string(),
        });
    }
    changes::key_changed(conn, &key.id, now).await
}

pub(super) async fn find(store: &Database, key: &KeyId) -> Result<Option<KnownKey>> {
    let sql = "SELECT k.*, t.state AS state, \
               (SELECT begin_time FROM erasures WHERE erasures.tenant = k.tenant) AS erased \
               FROM api_keys k LEFT JOIN tenants t ON t.tenant = k.tenant WHERE k.id = $1";
    let found = query(sql)
        .bind(key.as_str())
        .fetch_optional(&mut store.look().await?)
        .await?;
    let Some(row) = found else { return Ok(None) };
    let state = match row.optional_text("state")? {
        Some(_) => terms::state(&row)?,
        None => TenantState::Active,
    };
    let key = read(&row)?;
    Ok(Some(KnownKey { key, state }))
}

pub(super) async fn list(
    store: &Database,
    owner: &KeyOwner,
    page: &PageRequest,
) -> Result<Page<KeyRecord>> {
    let sql = match owner {
        KeyOwner::Any => "SELECT * FROM api_keys WHERE id > $1 ORDER BY id LIMIT $2",
        KeyOwner::Tenant(_) => {
            "SELECT * FROM api_keys WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3"
        }
    };
    let mut query = query(sql);
    if let KeyOwner::Tenant(tenant) = owner {
        query = query.bind(tenant.as_str());
    }
    let found = query
        .bind(page.start(LISTING)?)
        .bind(page.limit())
        .fetch_all(&mut store.browse().await?)
        .await?;
    let keys: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
    Ok(page.page(LISTING, keys, |key| key.id.to_string()))
}

pub(super) async fn rotate(
    store: &Database,
    (owner, key): (&KeyOwner, &KeyId),
    hash: SecretHash,
    overlap: Duration,
    actor: &Actor,
) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    locks::key(&mut tx, key.as_str()).await?;
    let before = get(&mut tx, owner, key).await?;
    let has_expired = before.expire_time.is_some_and(|end| end <= now);
    if before.revoke_time.is_some() || has_expired {
        return Err(Error::KeyEnded { key: key.clone() });
    }
    let sql = "UPDATE api_keys SET previous_hash = hash, previous_hash_kind = hash_kind, \
               previous_end = $1, hash = $2, hash_kind = $3 WHERE id = $4 RETURNING *";
    let row = query(sql)
        .bind(now.saturating_add(micros(overlap)))
        .bind(hash.digest.0.to_vec())
        .bind(rows::name("hash_kind", hash.kind)?)
        .bind(key.as_str())
        .fetch_one(&mut tx)
        .await?;
    changes::key_changed(&mut tx, key, now).await?;
    let record = read(&row)?;
    audit::note(&mut tx, actor, changed(&record, "RotateKey"), now).await?;
    tx.commit().await?;
    Ok(record)
}

pub(super) async fn revoke(
    store: &Database,
    owner: &KeyOwner,
    key: &KeyId,
    actor: &Actor,
) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    locks::key(&mut tx, key.as_str()).await?;
    let before = get(&mut tx, owner, key).await?;
    if before.revoke_time.is_some() {
        return Ok(before);
    }
    let sql = "UPDATE api_keys SET revoke_time = $1 WHERE id = $2 RETURNING *";
    let row = query(sql)
        .bind(now)
        .bind(key.as_str())
        .fetch_one(&mut tx)
        .await?;
    changes::key_changed(&mut tx, key, now).await?;
    let record = read(&row)?;
    audit::note(&mut tx, actor, changed(&record, "RevokeKey"), now).await?;
    tx.commit().await?;
    Ok(record)
}

fn changed<'a>(key: &'a KeyRecord, method: &'static str) -> audit::Change<'a> {
    audit::Change {
        tenant: key.tenant.as_ref(),
        method,
        resource: format!("keys/{}", key.id),
        detail: key.scopes.to_string(),
    }
}

pub(super) async fn note_use(store: &Database, used: &[(KeyId, i64)]) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    // In one order, so that no two processes wait for each other.
    let used: BTreeMap<&str, i64> = used.iter().map(|(key, day)| (key.as_str(), *day)).collect();
    for (key, day) in used {
        let sql = "UPDATE api_keys SET last_use = $1 \
                   WHERE id = $2 AND (last_use IS NULL OR last_use < $3)";
        query(sql)
            .bind(day)
            .bind(key)
            .bind(day)
            .execute(&mut tx)
            .await?;
    }
    tx.commit().await
}

/// A key that an administrator sees.
async fn get(conn: &mut Conn, owner: &KeyOwner, key: &KeyId) -> Result<KeyRecord> {
    let found = query("SELECT * FROM api_keys WHERE id = $1")
        .bind(key.as_str())
        .fetch_optional(conn)
        .await?;
    let record = found.as_ref().map(read).transpose()?;
    let sees = |record: &KeyRecord| match owner {
        KeyOwner::Any => true,
        KeyOwner::Tenant(tenant) => record.tenant.as_ref() == Some(tenant),
    };
    record.filter(sees).ok_or_else(|| Error::NotFound {
        kind: Kind::Key,
        name: key.to_string(),
    })
}

fn read(row: &Row) -> Result<KeyRecord> {
    let tenant = match row.optional_text("tenant")? {
        Some(_) => Some(row.id("tenant")?),
        None => None,
    };
    let tasks: Option<Vec<String>> = row.optional_json("tasks")?;
    let tasks = tasks.map(|names| {
        let task = |name: String| name.parse().map_err(|error| corrupt("tasks", error));
        names.into_iter().map(task).collect::<Result<BTreeSet<_>>>()
    });
    let previous = match row.optional_int("previous_end")? {
        Some(end) => Some(PreviousSecret {
            hash: SecretHash {
                kind: row.name("previous_hash_kind")?,
                digest: row.digest("previous_hash")?,
            },
            end,
        }),
        None => None,
    };
    Ok(KeyRecord {
        id: row.id("id")?,
        tenant,
        display_name: row.text("display_name")?,
        scopes: row.id("scopes")?,
        tasks: tasks.transpose()?,
        hash: SecretHash {
            kind: row.name("hash_kind")?,
            digest: row.digest("hash")?,
        },
        previous,
        created_by: row.text("created_by")?,
        create_time: row.int("create_time")?,
        expire_time: row.optional_int("expire_time")?,
        revoke_time: row.optional_int("revoke_time")?,
        last_use: row.optional_int("last_use")?,
    })
}
