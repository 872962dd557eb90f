//! What every server keeps in memory of tenants: their states, weights and limits of a second.
//!
//! Invariant: a tenant whose erasure has begun is told of as such for ever, also when no other row of it is left.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::{AtOnce, Rates, Result, Stay, TenantState, Terms};
use super::Database;
use super::database::{Row, query};
use super::rows::{Columns, corrupt};
use crate::fair::Weight;
use crate::ids::TenantId;

/// A row for every tenant that was created or whose erasure has begun.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT known.tenant AS tenant, known.erased AS erased, \
             COALESCE(state, 'active') AS state, COALESCE(weight, 1) AS weight, \
             clip_frames_rate, requests_rate, requests_at_once, streams_at_once, \
             live_streams_at_once, clips_at_once FROM \
             (SELECT tenants.tenant AS tenant, begin_time AS erased FROM tenants \
             LEFT JOIN erasures ON erasures.tenant = tenants.tenant \
             UNION SELECT tenant, begin_time FROM erasures) AS known \
             LEFT JOIN tenants ON tenants.tenant = known.tenant",
            " WHERE ",
            $condition
        )
    };
}

/// Tenants after one, by id, at most `limit`.
pub(super) async fn list(
    store: &Database,
    after: Option<&TenantId>,
    limit: u32,
) -> Result<Vec<(TenantId, Terms)>> {
    let found = query(select!("known.tenant > $1 ORDER BY known.tenant LIMIT $2"))
        .bind(after.map_or("", TenantId::as_str))
        .bind(limit)
        .fetch_all(&mut store.browse().await?)
        .await?;
    let each = |row: &Row| Ok((row.id("tenant")?, read(row)?));
    found.iter().map(each).collect()
}

/// A tenant.
pub(super) async fn get(store: &Database, tenant: &TenantId) -> Result<Option<Terms>> {
    let found = query(select!("known.tenant = $1"))
        .bind(tenant.as_str())
        .fetch_optional(&mut store.look().await?)
        .await?;
    found.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<Terms> {
    let limit = |column| match row.optional_int(column)? {
        Some(_) => row.number(column).map(Some),
        None => Ok(None),
    };
    Ok(Terms {
        state: state(row)?,
        weight: weight(row)?,
        rates: Rates {
            clip_frames: limit("clip_frames_rate")?,
            requests: limit("requests_rate")?,
        },
        at_once: at_once(row)?,
    })
}

/// What a tenant may have under way at once, from its row.
pub(super) fn at_once(row: &Row) -> Result<AtOnce> {
    let limit = |column| match row.optional_int(column)? {
        Some(_) => row.number(column).map(Some),
        None => Ok(None),
    };
    Ok(AtOnce {
        requests: limit("requests_at_once")?,
        streams: limit("streams_at_once")?,
        live_streams: limit("live_streams_at_once")?,
        clips: limit("clips_at_once")?,
    })
}

/// The state in a row of a tenant that says when its erasure began.
pub(super) fn state(row: &Row) -> Result<TenantState> {
    match row.optional_int("erased")? {
        Some(_) => Ok(TenantState::Erasing),
        None => row.name("state"),
    }
}

/// The weight in a tenant's row.
pub(super) fn weight(row: &Row) -> Result<Weight> {
    let weight: u32 = row.number("weight")?;
    let weight = NonZeroU32::new(weight).map(Weight::new);
    weight.ok_or_else(|| corrupt("weight", "0 is no weight"))
}

/// How long a tenant's things stay, from its row.
pub(super) fn stay(row: &Row) -> Result<Stay> {
    let time = |column| match row.optional_int(column)? {
        Some(_) => row
            .number(column)
            .map(|micros| Some(Duration::from_micros(micros))),
        None => Ok(None),
    };
    Ok(Stay {
        videos: time("videos_age")?,
        jobs: time("jobs_age")?,
        uploads: time("uploads_age")?,
    })
}
