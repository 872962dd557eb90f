//! Whether any record names a blob: asked for many blobs at a time, by tenant and kind.
//!
//! Invariant: what a record names, or a worker that is alive may be about to name, is named.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::super::{BlobName, Result};
use super::Database;
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use crate::ids::TenantId;

/// The names of one tenant and kind that are asked for, as JSON that a statement reads row by row.
type Asked = BTreeMap<(TenantId, Table), Vec<Value>>;

/// Where the names of a kind of blob are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Table {
    Videos,
    Parts,
    Versions,
    Reserved,
    Jobs,
    Snapshots,
}

impl Table {
    /// Finds, among the names in `$2`, those that a record has. A name is a JSON array.
    fn sql(self) -> &'static str {
        match self {
            Self::Videos => {
                "SELECT id FROM videos WHERE tenant = $1 \
                 AND delete_time IS NULL AND id IN (SELECT value ->> 0 FROM json_each($2))"
            }
            Self::Parts => {
                "SELECT upload AS id, number FROM parts WHERE tenant = $1 AND (upload, number) IN \
                 (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($2))"
            }
            Self::Versions => {
                "SELECT task AS id, version AS number, sha256 FROM versions WHERE tenant = $1 \
                 AND (task, version) IN \
                 (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($2))"
            }
            Self::Reserved => {
                "SELECT task AS id, reserved_version AS number \
                 FROM jobs INDEXED BY unfinished_jobs_by_tenant WHERE tenant = $1 \
                 AND end_time IS NULL AND (task, reserved_version) IN \
                 (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($2))"
            }
            Self::Jobs => {
                "SELECT id, json_extract(checkpoint, '$.key') AS key FROM jobs WHERE tenant = $1 \
                 AND (end_time IS NULL OR reason = 'PROCESS_LOST') \
                 AND id IN (SELECT value ->> 0 FROM json_each($2)) \
                 UNION ALL SELECT jobs.id, earlier.value ->> 'key' AS key \
                 FROM jobs, json_each(jobs.earlier_checkpoints) AS earlier WHERE jobs.tenant = $1 \
                 AND (jobs.end_time IS NULL OR jobs.reason = 'PROCESS_LOST') \
                 AND jobs.id IN (SELECT named.value ->> 0 FROM json_each($2) AS named)"
            }
            // From the moment when the snapshot is begun: its blob may be written at any time.
            Self::Snapshots => {
                "SELECT blob AS id FROM snapshots WHERE tenant = $1 \
                 AND blob IN (SELECT value ->> 0 FROM json_each($2))"
            }
        }
    }

    /// The name in a row that was found, spelled as [`spelling`] does it.
    fn name(self, row: &Row) -> Result<Value> {
        let id = Value::from(row.text("id")?);
        let name = match self {
            Self::Videos | Self::Snapshots => vec![id],
            Self::Parts | Self::Reserved => vec![id, row.int("number")?.into()],
            Self::Versions => {
                let sha256 = row.digest("sha256")?.to_string();
                vec![id, row.int("number")?.into(), sha256.into()]
            }
            Self::Jobs => vec![id, row.optional_text("key")?.into()],
        };
        Ok(Value::Array(name))
    }
}

/// Where a blob may be named, and as what.
fn spelling(blob: &BlobName) -> Vec<(Table, Value)> {
    match blob {
        BlobName::Video(video) => vec![(Table::Videos, Value::from(vec![video.to_string()]))],
        BlobName::Part(upload, number) => {
            let name = vec![upload.to_string().into(), (*number).into()];
            vec![(Table::Parts, Value::Array(name))]
        }
        BlobName::Version(task, version, sha256) => {
            let (task, version) = (Value::from(task.as_str()), Value::from(version.get()));
            let reserved = vec![task.clone(), version.clone()];
            let published = vec![task, version, sha256.to_string().into()];
            vec![
                (Table::Versions, Value::Array(published)),
                (Table::Reserved, Value::Array(reserved)),
            ]
        }
        BlobName::Job(job, key) => {
            vec![(Table::Jobs, Value::from(vec![job.to_string(), key.clone()]))]
        }
        BlobName::Snapshot(digest) => {
            vec![(Table::Snapshots, Value::from(vec![digest.to_string()]))]
        }
    }
}

/// Whether each of the blobs is named, in one transaction that reads.
pub(super) async fn named(store: &Database, blobs: &[(TenantId, BlobName)]) -> Result<Vec<bool>> {
    let mut asked = Asked::new();
    for (tenant, blob) in blobs {
        for (table, name) in spelling(blob) {
            let group = asked.entry((tenant.clone(), table)).or_default();
            group.push(name);
        }
    }
    let mut found = HashSet::new();
    let mut tx = store.read().await?;
    for ((tenant, table), names) in asked {
        for name in look_up(&mut tx, &tenant, table, names).await? {
            found.insert((tenant.clone(), table, name));
        }
    }
    let is_named = |(tenant, blob): &(TenantId, BlobName)| {
        let mut places = spelling(blob).into_iter();
        places.any(|(table, name)| found.contains(&(tenant.clone(), table, name.to_string())))
    };
    Ok(blobs.iter().map(is_named).collect())
}

async fn look_up(
    conn: &mut Conn,
    tenant: &TenantId,
    table: Table,
    names: Vec<Value>,
) -> Result<Vec<String>> {
    let found = query(table.sql())
        .bind(tenant.as_str())
        .bind(rows::json("name", &names)?)
        .fetch_all(conn)
        .await?;
    let name = |row| Ok(table.name(row)?.to_string());
    found.iter().map(name).collect()
}
