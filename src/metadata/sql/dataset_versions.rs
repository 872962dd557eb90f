//! Versions of data sets: snapshots with numbers, which stay.
//!
//! Invariant: a number is given once; while a version is on record, the examples of its snapshot are rows or in a blob.

use super::super::{DatasetVersionRecord, Error, Kind, Page, PageRequest, Result, SnapshotRecord};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::snapshots::{self, Taken};
use super::{Database, archives, audit, datasets, locks};
use crate::ids::{DatasetId, TenantId};

const LISTING: &str = "dataset versions";
/// How often a snapshot is taken again that was forgotten, or whose data set has changed meanwhile.
const TRIES: usize = 3;

pub(super) async fn create(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
    note: &str,
    limit: u32,
) -> Result<DatasetVersionRecord> {
    for _ in 0..TRIES {
        let taken = snapshots::take(store, tenant, dataset).await?;
        let (mut tx, now) = store.write().await?;
        locks::dataset(&mut tx, tenant, dataset).await?;
        // It is written, not only locked: of two who share the lock, neither could write.
        if !archives::renew(&mut tx, tenant, taken.record.digest, now).await? {
            continue;
        }
        let row = datasets::row(&mut tx, tenant, dataset).await?;
        let newest = newest(&mut tx, tenant, dataset).await?;
        if let Some(newest) = newest.filter(|own| own.snapshot == taken.record) {
            return Ok(newest);
        }
        let count =
            "SELECT COUNT(*) AS versions FROM dataset_versions WHERE tenant = $1 AND dataset = $2";
        let count = query(count)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .fetch_one(&mut tx)
            .await?;
        if count.number::<u32>("versions")? >= limit {
            return Err(Error::TooManyVersions { limit });
        }
        let number = row.int("versions")? + 1;
        query("UPDATE datasets SET versions = $1 WHERE tenant = $2 AND id = $3")
            .bind(number)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .execute(&mut tx)
            .await?;
        let sql = "INSERT INTO dataset_versions (tenant, dataset, number, digest, examples, note, create_time) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        query(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .bind(number)
            .bind(taken.record.digest.0.to_vec())
            .bind(rows::int("examples", taken.record.examples)?)
            .bind(note)
            .bind(now)
            .execute(&mut tx)
            .await?;
        let made = datasets::named(dataset, format!("version={number}"));
        audit::acted(&mut tx, tenant, made, now).await?;
        tx.commit().await?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        return get(&mut store.read().await?, tenant, dataset, number).await;
    }
    Err(Error::Unavailable(
        "a snapshot is forgotten faster than it is taken".into(),
    ))
}

async fn newest(
    conn: &mut Conn,
    tenant: &TenantId,
    dataset: &DatasetId,
) -> Result<Option<DatasetVersionRecord>> {
    let sql = "SELECT * FROM dataset_versions WHERE tenant = $1 AND dataset = $2 \
               ORDER BY number DESC LIMIT 1";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .fetch_optional(conn)
        .await?;
    found.map(|row| read(&row)).transpose()
}

pub(super) async fn get(
    conn: &mut Conn,
    tenant: &TenantId,
    dataset: &DatasetId,
    number: u32,
) -> Result<DatasetVersionRecord> {
    datasets::row(conn, tenant, dataset).await?;
    let sql = "SELECT * FROM dataset_versions WHERE tenant = $1 AND dataset = $2 AND number = $3";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(number)
        .fetch_optional(conn)
        .await?;
    found.map_or_else(|| Err(missing(dataset, number)), |row| read(&row))
}

pub(super) async fn list(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
    page: &PageRequest,
) -> Result<Page<DatasetVersionRecord>> {
    let mut conn = store.browse().await?;
    datasets::row(&mut conn, tenant, dataset).await?;
    let after: u32 = page.start(LISTING)?.parse().unwrap_or(0);
    let sql = "SELECT * FROM dataset_versions WHERE tenant = $1 AND dataset = $2 AND number > $3 \
               ORDER BY number LIMIT $4";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(after)
        .bind(page.limit())
        .fetch_all(&mut conn)
        .await?;
    let versions: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
    Ok(page.page(LISTING, versions, |own| own.number.to_string()))
}

pub(super) async fn delete(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
    number: u32,
) -> Result<()> {
    let (mut tx, now) = store.write().await?;
    locks::dataset(&mut tx, tenant, dataset).await?;
    datasets::row(&mut tx, tenant, dataset).await?;
    let sql = "DELETE FROM dataset_versions WHERE tenant = $1 AND dataset = $2 AND number = $3";
    let deleted = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(number)
        .execute(&mut tx)
        .await?;
    if deleted == 0 {
        return Err(missing(dataset, number));
    }
    let gone = datasets::named(dataset, format!("deleted version={number}"));
    audit::acted(&mut tx, tenant, gone, now).await?;
    tx.commit().await
}

/// The snapshot of a version, for a job that reads it.
pub(super) async fn taken(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
    number: u32,
) -> Result<Taken> {
    let version = get(&mut store.read().await?, tenant, dataset, number).await?;
    Ok(Taken::kept(version.snapshot))
}

fn missing(dataset: &DatasetId, number: u32) -> Error {
    Error::NotFound {
        kind: Kind::DatasetVersion,
        name: format!("{dataset}/versions/{number}"),
    }
}

fn read(row: &Row) -> Result<DatasetVersionRecord> {
    Ok(DatasetVersionRecord {
        dataset: row.id("dataset")?,
        number: row.number("number")?,
        snapshot: SnapshotRecord {
            digest: row.digest("digest")?,
            examples: row.number("examples")?,
        },
        note: row.text("note")?,
        create_time: row.int("create_time")?,
    })
}
