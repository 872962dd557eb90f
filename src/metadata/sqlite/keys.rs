//! API keys: hashes of their secrets, and what their callers may do.
//!
//! Invariant: a change of a key is noted in the change feed in its own transaction; a key that was revoked is never good again.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::super::{
    Actor, Error, KeyOwner, KeyRecord, Kind, KnownKey, NewKey, Page, PageRequest, PreviousSecret,
    Quota, Result, SecretHash, TenantState, Timestamp,
};
use super::rows::{self, Columns, corrupt};
use super::{Sqlite, audit, changes, micros, tenants};
use crate::ids::{KeyId, TaskId, TenantId};

const LISTING: &str = "keys";
/// Most keys of a tenant, ended ones included: their rows stay.
const KEYS: u64 = 10_000;

pub(super) async fn create(store: &Sqlite, key: &NewKey, actor: &Actor) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    if let Some(tenant) = &key.tenant {
        tenants::get(&mut tx, tenant).await?;
        admit(&mut tx, tenant).await?;
    }
    insert(&mut tx, key, now).await?;
    let record = get(&mut tx, &KeyOwner::Any, &key.id).await?;
    audit::note(&mut tx, actor, changed(&record, "CreateKey"), now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Refuses a key too many of a tenant, whose administrators may make keys by themselves.
async fn admit(conn: &mut SqliteConnection, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT COUNT(*) FROM api_keys WHERE tenant = ?";
    let keys: i64 = sqlx::query_scalar(sql)
        .bind(tenant.as_str())
        .fetch_one(conn)
        .await?;
    let used = u64::try_from(keys).unwrap_or(0);
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

pub(super) async fn bootstrap(store: &Sqlite, key: &NewKey, actor: &Actor) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE tenant IS NULL \
               AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > ?))";
    let exists: bool = sqlx::query_scalar(sql)
        .bind(now)
        .fetch_one(&mut *tx)
        .await?;
    if exists {
        return Ok(false);
    }
    insert(&mut tx, key, now).await?;
    let record = get(&mut tx, &KeyOwner::Any, &key.id).await?;
    audit::note(&mut tx, actor, changed(&record, "BootstrapKey"), now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn insert(conn: &mut SqliteConnection, key: &NewKey, now: Timestamp) -> Result<()> {
    let tasks = key.tasks.as_ref().map(|tasks| {
        let names: Vec<&str> = tasks.iter().map(TaskId::as_str).collect();
        rows::json("tasks", &names)
    });
    let expires = key
        .lifetime
        .map(|lifetime| now.saturating_add(micros(lifetime)));
    let sql = "INSERT INTO api_keys (id, tenant, display_name, scopes, tasks, hash, hash_kind, \
               created_by, create_time, expire_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
               ON CONFLICT DO NOTHING";
    let inserted = sqlx::query(sql)
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
    if inserted.rows_affected() == 0 {
        return Err(Error::AlreadyExists {
            kind: Kind::Key,
            name: key.id.to_string(),
        });
    }
    changes::key_changed(conn, &key.id, now).await
}

pub(super) async fn find(store: &Sqlite, key: &KeyId) -> Result<Option<KnownKey>> {
    let sql = "SELECT k.*, t.state AS state FROM api_keys k \
               LEFT JOIN tenants t ON t.tenant = k.tenant WHERE k.id = ?";
    let found = sqlx::query(sql)
        .bind(key.as_str())
        .fetch_optional(&store.reader)
        .await?;
    let Some(row) = found else { return Ok(None) };
    let state = match row.optional_text("state")? {
        Some(_) => row.name("state")?,
        None => TenantState::Active,
    };
    let key = read(&row)?;
    Ok(Some(KnownKey { key, state }))
}

pub(super) async fn list(
    store: &Sqlite,
    owner: &KeyOwner,
    page: &PageRequest,
) -> Result<Page<KeyRecord>> {
    let sql = match owner {
        KeyOwner::Any => "SELECT * FROM api_keys WHERE id > ? ORDER BY id LIMIT ?",
        KeyOwner::Tenant(_) => {
            "SELECT * FROM api_keys WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?"
        }
    };
    let mut query = sqlx::query(sql);
    if let KeyOwner::Tenant(tenant) = owner {
        query = query.bind(tenant.as_str());
    }
    let found = query
        .bind(page.start(LISTING)?)
        .bind(page.limit())
        .fetch_all(&store.lister)
        .await?;
    let keys: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
    Ok(page.page(LISTING, keys, |key| key.id.to_string()))
}

pub(super) async fn rotate(
    store: &Sqlite,
    (owner, key): (&KeyOwner, &KeyId),
    hash: SecretHash,
    overlap: Duration,
    actor: &Actor,
) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    let before = get(&mut tx, owner, key).await?;
    let has_expired = before.expire_time.is_some_and(|end| end <= now);
    if before.revoke_time.is_some() || has_expired {
        return Err(Error::KeyEnded { key: key.clone() });
    }
    let sql = "UPDATE api_keys SET previous_hash = hash, previous_hash_kind = hash_kind, \
               previous_end = ?, hash = ?, hash_kind = ? WHERE id = ? RETURNING *";
    let row = sqlx::query(sql)
        .bind(now.saturating_add(micros(overlap)))
        .bind(hash.digest.0.to_vec())
        .bind(rows::name("hash_kind", hash.kind)?)
        .bind(key.as_str())
        .fetch_one(&mut *tx)
        .await?;
    changes::key_changed(&mut tx, key, now).await?;
    let record = read(&row)?;
    audit::note(&mut tx, actor, changed(&record, "RotateKey"), now).await?;
    tx.commit().await?;
    Ok(record)
}

pub(super) async fn revoke(
    store: &Sqlite,
    owner: &KeyOwner,
    key: &KeyId,
    actor: &Actor,
) -> Result<KeyRecord> {
    let (mut tx, now) = store.write().await?;
    let before = get(&mut tx, owner, key).await?;
    if before.revoke_time.is_some() {
        return Ok(before);
    }
    let sql = "UPDATE api_keys SET revoke_time = ? WHERE id = ? RETURNING *";
    let row = sqlx::query(sql)
        .bind(now)
        .bind(key.as_str())
        .fetch_one(&mut *tx)
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

pub(super) async fn note_use(store: &Sqlite, used: &[(KeyId, i64)]) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    for (key, day) in used {
        let sql = "UPDATE api_keys SET last_use = ? \
                   WHERE id = ? AND (last_use IS NULL OR last_use < ?)";
        sqlx::query(sql)
            .bind(day)
            .bind(key.as_str())
            .bind(day)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// A key that an administrator sees.
async fn get(conn: &mut SqliteConnection, owner: &KeyOwner, key: &KeyId) -> Result<KeyRecord> {
    let found = sqlx::query("SELECT * FROM api_keys WHERE id = ?")
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

fn read(row: &SqliteRow) -> Result<KeyRecord> {
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
