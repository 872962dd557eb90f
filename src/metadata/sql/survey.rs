//! A survey of all records: every blob that they name, page by page, and records that contradict one another.
//!
//! Invariant: a page is bounded, and a repair changes only counts and leases, never what a user stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{BlobKind, BlobName, BlobPlace, Contradiction, Error, RecordedBlob, Result};
use super::database::{Conn, Row, query};
use super::rows::{Columns, corrupt};
use super::usage::{self, Delta};
use super::{Database, locks, micros, versions};
use crate::ids::{DatasetId, TenantId};
use crate::spec::ExampleLabels;

/// Tasks whose versions are read at a time: a version's record may be hundreds of kilobytes.
const TASKS: u32 = 20;
/// Examples that are read at a time.
const PAGE: u32 = 1000;
/// Longest lease that any worker takes; the setting is seconds.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Data sets whose number of examples is wrong, in the order that they are locked in. One that is being removed holds less and less.
const EXAMPLES: &str = "SELECT datasets.tenant AS tenant, datasets.id AS id, \
     COUNT(examples.video) - datasets.examples AS not_counted FROM datasets LEFT JOIN examples \
     ON examples.tenant = datasets.tenant AND examples.dataset = datasets.id \
     WHERE datasets.delete_time IS NULL GROUP BY datasets.tenant, datasets.id, datasets.examples \
     HAVING COUNT(examples.video) <> datasets.examples ORDER BY datasets.tenant, datasets.id";

/// Counts of what each tenant stores, minus the recorded ones, of those tenants where that is not zero.
const USAGE: &str = "SELECT tenant, CAST(SUM(videos) AS BIGINT) AS videos, CAST(SUM(bytes) AS BIGINT) AS bytes, \
     CAST(SUM(tasks) AS BIGINT) AS tasks, CAST(SUM(versions) AS BIGINT) AS versions FROM ( \
     SELECT tenant, 1 AS videos, size_bytes AS bytes, 0 AS tasks, 0 AS versions FROM videos WHERE delete_time IS NULL \
     UNION ALL SELECT tenant, 0, 0, 1, 0 FROM tasks \
     UNION ALL SELECT tenant, 0, size_bytes, 0, 1 FROM versions \
     UNION ALL SELECT tenant, -videos, -bytes, -tasks, -versions FROM tenant_usage \
     ) AS counted GROUP BY tenant \
     HAVING SUM(videos) <> 0 OR SUM(bytes) <> 0 OR SUM(tasks) <> 0 OR SUM(versions) <> 0";

impl Database {
    /// Lists blobs of one kind that records name, in the order of their names, those after `after`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn recorded_blobs(
        &self,
        kind: BlobKind,
        after: &BlobPlace,
        limit: u32,
    ) -> Result<(Vec<RecordedBlob>, Option<BlobPlace>)> {
        let mut conn = self.browse().await?;
        let sql = match kind {
            BlobKind::Videos => {
                "SELECT tenant, id, CAST(0 AS BIGINT) AS number, size_bytes, sha256 FROM videos \
                 WHERE delete_time IS NULL AND (tenant, id) > ($1, $2) AND $3 >= 0 \
                 ORDER BY tenant, id LIMIT $4"
            }
            BlobKind::Parts => {
                "SELECT tenant, upload AS id, number, size_bytes FROM parts \
                 WHERE (tenant, upload, number) > ($1, $2, $3) ORDER BY tenant, upload, number LIMIT $4"
            }
            BlobKind::Versions => {
                "SELECT tenant, task AS id, version AS number, size_bytes, sha256 FROM versions \
                 WHERE (tenant, task, version) > ($1, $2, $3) ORDER BY tenant, task, version LIMIT $4"
            }
            BlobKind::Checkpoints => {
                // The steps of a job's checkpoints differ.
                "SELECT tenant, id, number, key FROM \
                 (SELECT tenant, id, CAST(json_extract(checkpoint, '$.step') AS BIGINT) AS number, \
                  json_extract(checkpoint, '$.key') AS key FROM jobs \
                  WHERE end_time IS NULL AND checkpoint IS NOT NULL AND tenant >= $1 \
                  UNION ALL SELECT jobs.tenant, jobs.id, CAST(earlier.value ->> 'step' AS BIGINT), earlier.value ->> 'key' \
                  FROM jobs, json_each(jobs.earlier_checkpoints) AS earlier \
                  WHERE jobs.end_time IS NULL AND jobs.tenant >= $1) AS named \
                 WHERE (tenant, id, number) > ($1, $2, $3) ORDER BY tenant, id, number LIMIT $4"
            }
            BlobKind::Snapshots => {
                "SELECT tenant, blob AS id, CAST(0 AS BIGINT) AS number, digest, blob_size AS size_bytes, \
                 blob_sha256 AS sha256 FROM snapshots WHERE blob_size > 0 AND (tenant, blob) > ($1, $2) \
                 AND $3 >= 0 ORDER BY tenant, blob LIMIT $4"
            }
        };
        let found = query(sql)
            .bind(&*after.tenant)
            .bind(&*after.id)
            .bind(after.number)
            .bind(i64::from(limit))
            .fetch_all(&mut conn)
            .await?;
        let place = match found.last() {
            Some(row) if found.len() as u64 >= u64::from(limit) => Some(BlobPlace {
                tenant: row.text("tenant")?,
                id: row.text("id")?,
                number: row.int("number")?,
            }),
            Some(_) | None => None,
        };
        let blobs: Result<Vec<RecordedBlob>> = found.iter().map(|row| blob(kind, row)).collect();
        Ok((blobs?, place))
    }

    /// Finds records that contradict one another, in one state of the database.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn contradictions(&self) -> Result<Vec<Contradiction>> {
        let mut conn = self.list().await?;
        let latest = self
            .now(&mut conn)
            .await?
            .saturating_add(micros(LONGEST_LEASE));
        let mut found = Vec::new();
        for is_serving in [true, false] {
            found.extend(lost_versions(&mut conn, is_serving).await?);
        }
        found.extend(unreadable_versions(&mut conn).await?);
        found.extend(long_leases(&mut conn, latest).await?);
        for row in query(USAGE).fetch_all(&mut conn).await? {
            found.push(Contradiction::Usage {
                tenant: row.id("tenant")?,
                videos: row.int("videos")?,
                bytes: row.int("bytes")?,
                tasks: row.int("tasks")?,
                versions: row.int("versions")?,
            });
        }
        for row in query(EXAMPLES).fetch_all(&mut conn).await? {
            found.push(Contradiction::Examples {
                tenant: row.id("tenant")?,
                dataset: row.id("id")?,
                not_counted: row.int("not_counted")?,
            });
        }
        found.extend(wrong_labels(&mut conn).await?);
        Ok(found)
    }

    /// Corrects the counts of what tenants store and of what data sets hold, and ends leases that are too long. Returns how many records were changed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn repair(&self) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let rows = query(USAGE).fetch_all(&mut tx).await?;
        let mut changed = rows.len() as u64;
        for row in rows {
            let tenant: TenantId = row.id("tenant")?;
            let delta = Delta {
                videos: row.int("videos")?,
                bytes: row.int("bytes")?,
                tasks: row.int("tasks")?,
                versions: row.int("versions")?,
            };
            usage::count(&mut tx, &tenant, delta).await?;
        }
        let ended = query("UPDATE jobs SET lease_end = $1 WHERE lease_end > $2")
            .bind(now)
            .bind(now.saturating_add(micros(LONGEST_LEASE)))
            .execute(&mut tx)
            .await?;
        changed += ended;
        for row in query(EXAMPLES).fetch_all(&mut tx).await? {
            let (tenant, dataset): (TenantId, DatasetId) = (row.id("tenant")?, row.id("id")?);
            // A server may be changing it, or has deleted it since.
            match locks::dataset(&mut tx, &tenant, &dataset).await {
                Err(Error::NotFound { .. }) => continue,
                other => other?,
            }
            let sql = "UPDATE datasets SET examples = (SELECT COUNT(*) FROM examples \
                       WHERE examples.tenant = $1 AND dataset = $2) WHERE tenant = $1 AND id = $2";
            changed += query(sql)
                .bind(tenant.as_str())
                .bind(dataset.as_str())
                .execute(&mut tx)
                .await?;
        }
        tx.commit().await?;
        Ok(changed)
    }
}

fn blob(kind: BlobKind, row: &Row) -> Result<RecordedBlob> {
    let sized = |row: &Row| row.number::<u64>("size_bytes").map(Some);
    let (name, size, sha256) = match kind {
        BlobKind::Videos => {
            let sha256 = row.digest("sha256")?;
            (BlobName::Video(row.id("id")?), sized(row)?, Some(sha256))
        }
        BlobKind::Parts => {
            let name = BlobName::Part(row.id("id")?, row.number("number")?);
            (name, sized(row)?, None)
        }
        BlobKind::Versions => {
            let sha256 = row.digest("sha256")?;
            let version = row.version("number")?;
            let version = version.ok_or_else(|| corrupt("version", "no number"))?;
            let name = BlobName::Version(row.id("id")?, version, sha256);
            (name, sized(row)?, Some(sha256))
        }
        BlobKind::Checkpoints => {
            let name = BlobName::Job(row.id("id")?, row.text("key")?);
            (name, None, None)
        }
        BlobKind::Snapshots => {
            let sha256 = row.digest("sha256")?;
            let name = BlobName::Snapshot(row.digest("digest")?);
            (name, sized(row)?, Some(sha256))
        }
    };
    Ok(RecordedBlob {
        tenant: row.id("tenant")?,
        name,
        size,
        sha256,
    })
}

async fn lost_versions(conn: &mut Conn, is_serving: bool) -> Result<Vec<Contradiction>> {
    let sql = if is_serving {
        "SELECT tenant, id, serving AS version FROM tasks WHERE serving IS NOT NULL AND NOT EXISTS \
         (SELECT 1 FROM versions WHERE versions.tenant = tasks.tenant AND versions.task = tasks.id \
         AND versions.version = tasks.serving)"
    } else {
        "SELECT tenant, id, desired AS version FROM tasks WHERE desired IS NOT NULL AND NOT EXISTS \
         (SELECT 1 FROM versions WHERE versions.tenant = tasks.tenant AND versions.task = tasks.id \
         AND versions.version = tasks.desired)"
    };
    let found = query(sql).fetch_all(conn).await?;
    let lost = found.iter().map(|row| {
        Ok(Contradiction::NoVersion {
            tenant: row.id("tenant")?,
            task: row.id("id")?,
            version: row.int("version")?,
            is_serving,
        })
    });
    lost.collect()
}

/// Versions that serve or are to, whose records cannot be read, a page at a time.
async fn unreadable_versions(conn: &mut Conn) -> Result<Vec<Contradiction>> {
    let mut unreadable = Vec::new();
    let mut after = (String::new(), String::new());
    loop {
        // Of a task both versions are in one page: it may have two.
        let sql = "SELECT tasks.tenant AS tenant, tasks.id AS id, versions.task AS task, versions.version AS version, \
             manifest, sha256, size_bytes, create_time, test_evaluation FROM \
             (SELECT tenant, id, serving, desired FROM tasks \
             WHERE (tenant, id) > ($1, $2) ORDER BY tenant, id LIMIT $3) AS tasks \
             LEFT JOIN versions ON versions.tenant = tasks.tenant AND versions.task = tasks.id \
             AND (versions.version = tasks.serving OR versions.version = tasks.desired) \
             ORDER BY tasks.tenant, tasks.id";
        let found = query(sql)
            .bind(&after.0)
            .bind(&after.1)
            .bind(TASKS)
            .fetch_all(&mut *conn)
            .await?;
        let Some(last) = found.last() else {
            return Ok(unreadable);
        };
        after = (last.text("tenant")?, last.text("id")?);
        for row in &found {
            let Some(version) = row.optional_int("version")? else {
                continue;
            };
            if let Err(problem) = versions::read(row) {
                unreadable.push(Contradiction::UnreadableVersion {
                    tenant: row.id("tenant")?,
                    task: row.id("id")?,
                    version,
                    problem: problem.to_string(),
                });
            }
        }
    }
}

async fn long_leases(conn: &mut Conn, latest: i64) -> Result<Vec<Contradiction>> {
    let sql = "SELECT tenant, id, lease_end FROM jobs WHERE lease_end > $1";
    let found = query(sql).bind(latest).fetch_all(conn).await?;
    let long = found.iter().map(|row| {
        Ok(Contradiction::LeaseTooLong {
            tenant: row.id("tenant")?,
            job: row.id("id")?,
            lease_end: row.int("lease_end")?,
        })
    });
    long.collect()
}

async fn wrong_labels(conn: &mut Conn) -> Result<Vec<Contradiction>> {
    let mut wrong = wrong_sets(conn).await?;
    let sql = "SELECT tenant, dataset, label FROM ( \
         SELECT tenant, dataset, label, CASE WHEN split = 'train' THEN 1 ELSE 0 END AS train, \
         CASE WHEN split = 'validation' THEN 1 ELSE 0 END AS validation, \
         CASE WHEN split = 'test' THEN 1 ELSE 0 END AS test FROM examples \
         UNION ALL SELECT tenant, dataset, label, -train, -validation, -test FROM label_counts \
         ) AS counted WHERE NOT EXISTS (SELECT 1 FROM datasets WHERE label_kind = 'multi' \
         AND datasets.tenant = counted.tenant AND datasets.id = counted.dataset) \
         GROUP BY tenant, dataset, label \
         HAVING SUM(train) <> 0 OR SUM(validation) <> 0 OR SUM(test) <> 0";
    for row in query(sql).fetch_all(conn).await? {
        wrong.push(Contradiction::Labels {
            tenant: row.id("tenant")?,
            dataset: row.text("dataset")?,
            label: row.text("label")?,
        });
    }
    Ok(wrong)
}

/// As [`wrong_labels`], of data sets whose labels do not exclude one another: their examples have sets of labels.
async fn wrong_sets(conn: &mut Conn) -> Result<Vec<Contradiction>> {
    let mut wrong = Vec::new();
    let sql = "SELECT tenant, id FROM datasets WHERE label_kind = 'multi'";
    for dataset in query(sql).fetch_all(&mut *conn).await? {
        let (tenant, id) = (dataset.text("tenant")?, dataset.text("id")?);
        let mut counts = counted(conn, (&tenant, &id)).await?;
        let sql = "SELECT label, train, validation, test FROM label_counts \
                   WHERE tenant = $1 AND dataset = $2";
        let found = query(sql).bind(&tenant).bind(&id).fetch_all(&mut *conn);
        for row in found.await? {
            for split in ["train", "validation", "test"] {
                let of = (row.text("label")?, split.to_owned());
                *counts.entry(of).or_default() -= row.int(split)?;
            }
        }
        let differing = counts.into_iter().filter(|(_, count)| *count != 0);
        let labels: BTreeSet<String> = differing.map(|((label, _), _)| label).collect();
        for label in labels {
            wrong.push(Contradiction::Labels {
                tenant: dataset.id("tenant")?,
                dataset: id.clone(),
                label,
            });
        }
    }
    Ok(wrong)
}

/// How many examples of a data set have each label, by label and split: of its sets of labels, which may be as many as its examples, a page at a time.
async fn counted(
    conn: &mut Conn,
    (tenant, dataset): (&str, &str),
) -> Result<BTreeMap<(String, String), i64>> {
    let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let sql = "SELECT video, label, split FROM examples \
                   WHERE tenant = $1 AND dataset = $2 AND video > $3 ORDER BY video LIMIT $4";
        let found = query(sql)
            .bind(tenant)
            .bind(dataset)
            .bind(&after)
            .bind(PAGE)
            .fetch_all(&mut *conn)
            .await?;
        for row in &found {
            let split = row.text("split")?;
            for label in ExampleLabels::read(row.text("label")?).iter() {
                *counts.entry((label.to_owned(), split.clone())).or_default() += 1;
            }
        }
        match found.last() {
            Some(last) if found.len() >= PAGE as usize => after = last.text("video")?,
            Some(_) | None => return Ok(counts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Config, Datasets as _, NewDataset};
    use crate::spec::LabelKind;

    #[tokio::test]
    async fn the_labels_of_sets_are_counted_over_all_pages() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        let store = Database::open(Config::at(path)).await.unwrap();
        let tenant: TenantId = "owner".parse().unwrap();
        let dataset: DatasetId = "many".parse().unwrap();
        let new = NewDataset {
            display_name: "",
            label_kind: LabelKind::Multi,
        };
        let created = store.create_dataset(&tenant, &dataset, new, None).await;
        created.unwrap();
        let examples = i64::from(2 * PAGE + 500);
        let (mut tx, _) = store.write().await.unwrap();
        for sql in [
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
             INSERT INTO videos (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
             SELECT 'owner', printf('00000000-0000-7000-8000-%012d', i), '', 1, zeroblob(32), '{}', 0 FROM n",
            "INSERT INTO examples (tenant, dataset, video, label, split) \
             SELECT tenant, 'many', id, 'a' || char(31) || 'b', 'train' FROM videos LIMIT $1",
            "INSERT INTO label_counts (tenant, dataset, label, train, validation, test) \
             VALUES ('owner', 'many', 'a', $1, 0, 0), ('owner', 'many', 'b', $1 - 1, 0, 0)",
        ] {
            query(sql).bind(examples).execute(&mut tx).await.unwrap();
        }
        let wrong = wrong_sets(&mut tx).await.unwrap();
        assert!(
            matches!(&*wrong, [Contradiction::Labels { label, .. }] if label == "b"),
            "{wrong:?}"
        );
    }
}
