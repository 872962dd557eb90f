//! Data sets that were deleted: nobody sees them, and what they hold goes in batches.
//!
//! Invariant: a transaction removes at most [`BATCH`] rows; the row of the data set goes last, so that a new one of its name finds nothing of it.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::super::{Result, Timestamp};
use super::Sqlite;
use super::rows::Columns;
use crate::ids::{DatasetId, TenantId};

/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;

/// Deletes a data set that nobody uses: the whole of it when it is small, else it is marked.
pub(super) async fn begin(
    conn: &mut SqliteConnection,
    dataset: &SqliteRow,
    now: Timestamp,
) -> Result<()> {
    let (tenant, id) = (dataset.text("tenant")?, dataset.text("id")?);
    let rows = dataset.int("examples")?.max(dataset.int("labels")?);
    if rows <= i64::from(BATCH) {
        return drop_row(conn, &tenant, &id).await.map(drop);
    }
    sqlx::query("UPDATE datasets SET delete_time = ? WHERE tenant = ? AND id = ?")
        .bind(now)
        .bind(tenant)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes some of what deleted data sets hold. Returns how many rows; 0 when nothing is left.
pub(super) async fn go_on(store: &Sqlite) -> Result<u64> {
    let (mut tx, _) = store.write().await?;
    let sql = "SELECT tenant, id FROM datasets WHERE delete_time IS NOT NULL \
               ORDER BY delete_time LIMIT 1";
    let Some(row) = sqlx::query(sql).fetch_optional(&mut *tx).await? else {
        return Ok(0);
    };
    let removed = some(&mut tx, &row.text("tenant")?, &row.text("id")?).await?;
    tx.commit().await?;
    Ok(removed)
}

/// Removes the rest of a deleted data set whose name is wanted again.
pub(super) async fn finish(store: &Sqlite, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
    while is_marked(store, tenant, dataset).await? {
        let (mut tx, _) = store.write().await?;
        let sql = "SELECT 1 FROM datasets WHERE tenant = ? AND id = ? AND delete_time IS NOT NULL";
        let still = sqlx::query(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        if still.is_some() {
            some(&mut tx, tenant.as_str(), dataset.as_str()).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

async fn is_marked(store: &Sqlite, tenant: &TenantId, dataset: &DatasetId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM datasets \
               WHERE tenant = ? AND id = ? AND delete_time IS NOT NULL)";
    let is_marked = sqlx::query_scalar(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .fetch_one(&store.reader)
        .await?;
    Ok(is_marked)
}

/// Removes some examples, or when there are none some counts, or else the data set itself.
async fn some(conn: &mut SqliteConnection, tenant: &str, dataset: &str) -> Result<u64> {
    for sql in [
        "DELETE FROM examples WHERE tenant = ?1 AND dataset = ?2 AND video IN \
         (SELECT video FROM examples WHERE tenant = ?1 AND dataset = ?2 LIMIT ?3)",
        "DELETE FROM label_counts WHERE tenant = ?1 AND dataset = ?2 AND label IN \
         (SELECT label FROM label_counts WHERE tenant = ?1 AND dataset = ?2 LIMIT ?3)",
    ] {
        let removed = sqlx::query(sql)
            .bind(tenant)
            .bind(dataset)
            .bind(BATCH)
            .execute(&mut *conn)
            .await?;
        if removed.rows_affected() > 0 {
            return Ok(removed.rows_affected());
        }
    }
    drop_row(conn, tenant, dataset).await
}

async fn drop_row(conn: &mut SqliteConnection, tenant: &str, dataset: &str) -> Result<u64> {
    let removed = sqlx::query("DELETE FROM datasets WHERE tenant = ? AND id = ?")
        .bind(tenant)
        .bind(dataset)
        .execute(conn)
        .await?;
    Ok(removed.rows_affected())
}
