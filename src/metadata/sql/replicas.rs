//! What the processes that share the records say of themselves.
//!
//! Invariant: a process writes its own row only, but for the wish that it drain, which an operator writes; a row that nobody has written for long goes with the next report of another process.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    Actor, Error, Kind, Page, PageRequest, ReplicaRecord, ReplicaReport, Replicas, Result,
};
use super::database::{Row, query, skipping};
use super::rows::{self, Columns};
use super::{Database, audit, micros};

const LISTING: &str = "replicas";
/// How long the last word of a process that ended without saying so is kept.
const KEPT: Duration = Duration::from_secs(60 * 60);

#[async_trait]
impl Replicas for Database {
    async fn report_replica(&self, name: &str, report: &ReplicaReport) -> Result<()> {
        let (mut tx, now) = self.write().await?;
        let sql = "INSERT INTO replicas (name, report, report_time) VALUES ($1, $2, $3) \
                   ON CONFLICT (name) DO UPDATE SET report = excluded.report, \
                   report_time = excluded.report_time";
        query(sql)
            .bind(name)
            .bind(rows::json("report", report)?)
            .bind(now)
            .execute(&mut tx)
            .await?;
        // A row that somebody holds is being written or deleted: waiting for it with a row of one's own could be for ever.
        let sql = "SELECT name FROM replicas WHERE report_time < $1 AND name <> $2";
        let silent = skipping(sql)
            .bind(now.saturating_sub(micros(KEPT)))
            .bind(name);
        for row in silent.fetch_all(&mut tx).await? {
            query("DELETE FROM replicas WHERE name = $1")
                .bind(row.text("name")?)
                .execute(&mut tx)
                .await?;
        }
        tx.commit().await
    }

    async fn drain_replica(&self, name: &str, actor: &Actor) -> Result<()> {
        let (mut tx, now) = self.write().await?;
        let sql = "UPDATE replicas SET drain_time = $1 WHERE name = $2 AND drain_time IS NULL";
        let asked = query(sql).bind(now).bind(name).execute(&mut tx).await?;
        if asked == 0 {
            let sql = "SELECT name FROM replicas WHERE name = $1";
            let found = query(sql).bind(name).fetch_optional(&mut tx).await?;
            // Whoever asked first is in the audit log.
            return found.map(drop).ok_or_else(|| Error::NotFound {
                kind: Kind::Replica,
                name: name.to_owned(),
            });
        }
        let change = audit::Change {
            tenant: None,
            method: "DrainReplica",
            resource: format!("replicas/{name}"),
            detail: String::new(),
        };
        audit::note(&mut tx, actor, change, now).await?;
        tx.commit().await
    }

    async fn is_drain_asked(&self, name: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM replicas \
                   WHERE name = $1 AND drain_time IS NOT NULL) AS asked";
        let mut conn = self.look().await?;
        let row = query(sql).bind(name).fetch_one(&mut conn).await?;
        row.flag("asked")
    }

    async fn forget_replica(&self, name: &str) -> Result<()> {
        let (mut tx, _) = self.write().await?;
        query("DELETE FROM replicas WHERE name = $1")
            .bind(name)
            .execute(&mut tx)
            .await?;
        tx.commit().await
    }

    async fn list_replicas(&self, page: &PageRequest) -> Result<Page<ReplicaRecord>> {
        let mut tx = self.list().await?;
        let now = self.now(&mut tx).await?;
        let found = query("SELECT * FROM replicas WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut tx)
            .await?;
        let read = |row: &Row| {
            let report_time = row.int("report_time")?;
            let age = u64::try_from(now.saturating_sub(report_time)).unwrap_or(0);
            Ok(ReplicaRecord {
                name: row.text("name")?,
                report: row.json("report")?,
                report_time,
                drain_time: row.optional_int("drain_time")?,
                age: Duration::from_micros(age),
            })
        };
        let replicas: Vec<ReplicaRecord> = found.iter().map(read).collect::<Result<_>>()?;
        Ok(page.page(LISTING, replicas, |own| own.name.clone()))
    }
}
