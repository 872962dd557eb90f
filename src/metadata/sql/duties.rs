//! What one process at a time does for all.
//!
//! Invariant: a duty has one holder until its time is over, by the database's clock; the holder may take it again before that.

use std::time::Duration;

use super::super::Result;
use super::database::query;
use super::{Database, micros};

/// Takes a duty for a time, unless somebody else has it. Returns whether it was taken.
pub(super) async fn take(
    store: &Database,
    duty: &str,
    holder: &str,
    span: Duration,
) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    let sql = "INSERT INTO leases (name, holder, lease_end) VALUES ($1, $2, $3) \
               ON CONFLICT (name) DO UPDATE \
               SET holder = excluded.holder, lease_end = excluded.lease_end \
               WHERE leases.holder = excluded.holder OR leases.lease_end <= $4";
    let taken = query(sql)
        .bind(duty)
        .bind(holder)
        .bind(now.saturating_add(micros(span)))
        .bind(now)
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(taken > 0)
}
