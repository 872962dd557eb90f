//! Data sets that were deleted: nobody sees them, and what they hold goes in batches.
//!
//! Invariant: a transaction removes at most [`BATCH`] rows; the row of the data set goes last, so that a new one of its name finds nothing of it.

use super::super::{Result, Timestamp};
use super::Database;
use super::database::{Conn, Row, locking, query, skipping};
use super::rows::Columns;
use crate::ids::{DatasetId, TenantId};

/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;

/// Deletes a data set that nobody uses: the whole of it when it is small, else it is marked.
pub(super) async fn begin(conn: &mut Conn, dataset: &Row, now: Timestamp) -> Result<()> {
    let (tenant, id) = (dataset.text("tenant")?, dataset.text("id")?);
    let rows = dataset.int("examples")?.max(dataset.int("labels")?);
    if rows <= i64::from(BATCH) {
        return drop_row(conn, &tenant, &id).await.map(drop);
    }
    query("UPDATE datasets SET delete_time = $1 WHERE tenant = $2 AND id = $3")
        .bind(now)
        .bind(tenant)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes some of what deleted data sets hold. Returns how many rows; 0 when nothing is left.
pub(super) async fn go_on(store: &Database) -> Result<u64> {
    let (mut tx, _) = store.write().await?;
    let sql = "SELECT tenant, id FROM datasets WHERE delete_time IS NOT NULL \
               ORDER BY delete_time LIMIT 1";
    let Some(row) = skipping(sql).fetch_optional(&mut tx).await? else {
        return Ok(0);
    };
    let removed = some(&mut tx, &row.text("tenant")?, &row.text("id")?).await?;
    tx.commit().await?;
    Ok(removed)
}

/// Removes the rest of a deleted data set whose name is wanted again.
pub(super) async fn finish(store: &Database, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
    while is_marked(store, tenant, dataset).await? {
        let (mut tx, _) = store.write().await?;
        let sql =
            "SELECT 1 FROM datasets WHERE tenant = $1 AND id = $2 AND delete_time IS NOT NULL";
        let still = locking(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .fetch_optional(&mut tx)
            .await?;
        if still.is_some() {
            some(&mut tx, tenant.as_str(), dataset.as_str()).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

async fn is_marked(store: &Database, tenant: &TenantId, dataset: &DatasetId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM datasets \
               WHERE tenant = $1 AND id = $2 AND delete_time IS NOT NULL) AS found";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .fetch_one(&mut store.look().await?)
        .await?;
    row.flag("found")
}

/// Removes some examples, or when there are none some counts, or else the data set itself.
async fn some(conn: &mut Conn, tenant: &str, dataset: &str) -> Result<u64> {
    for sql in [
        "DELETE FROM examples WHERE tenant = $1 AND dataset = $2 AND video IN \
         (SELECT video FROM examples WHERE tenant = $1 AND dataset = $2 LIMIT $3)",
        "DELETE FROM label_counts WHERE tenant = $1 AND dataset = $2 AND label IN \
         (SELECT label FROM label_counts WHERE tenant = $1 AND dataset = $2 LIMIT $3)",
    ] {
        let removed = query(sql)
            .bind(tenant)
            .bind(dataset)
            .bind(BATCH)
            .execute(&mut *conn)
            .await?;
        if removed > 0 {
            return Ok(removed);
        }
    }
    drop_row(conn, tenant, dataset).await
}

async fn drop_row(conn: &mut Conn, tenant: &str, dataset: &str) -> Result<u64> {
    let removed = query("DELETE FROM datasets WHERE tenant = $1 AND id = $2")
        .bind(tenant)
        .bind(dataset)
        .execute(conn)
        .await?;
    Ok(removed)
}
