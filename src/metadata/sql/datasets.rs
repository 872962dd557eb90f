//! Data sets and their examples.
//!
//! Invariant: an example names a video of its own tenant; a data set that was deleted is seen by nobody.

use async_trait::async_trait;

use super::super::{
    DatasetRecord, Datasets, Error, ExampleRecord, Kind, LabelCount, NewDataset, Page, PageRequest,
    Quota, Result,
};
use super::database::{Conn, Row, query};
use super::labels::{self, Changes};
use super::requests::Request;
use super::rows::{self, Columns, corrupt};
use super::{Database, audit, locks, removal, usage};
use crate::ids::{DatasetId, RequestId, TenantId, VideoId};
use crate::spec::{ExampleLabels, LabelKind, MAX_LABELS};

const LISTING: &str = "datasets";
const EXAMPLES: &str = "examples";

/// Most data sets of a tenant, so that all of them can be summed in each transaction that adds examples.
pub(super) const DATASETS: u64 = 10_000;
/// The oldest schema whose releases know data sets of several labels.
const MULTI_SCHEMA: i64 = 52;
/// Labels whose counts a data set shows; a page of counts has the others.
const SHOWN_LABELS: u32 = 1000;
/// Labels whose counts the data sets of one page show, all together: with names of 255 bytes in three splits they fit in 4 MiB, which is what most
/// gRPC clients take.
const LISTED_LABELS: u32 = 4000;

#[async_trait]
impl Datasets for Database {
    async fn create_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        new: NewDataset<'_>,
        request: Option<RequestId>,
    ) -> Result<DatasetRecord> {
        removal::finish(self, tenant, dataset).await?;
        let (mut tx, now) = self.write().await?;
        let NewDataset {
            display_name,
            label_kind,
        } = new;
        let kind = rows::name("label_kind", label_kind)?;
        let mut fields = vec![
            ("dataset_id", dataset.as_str().into()),
            ("display_name", display_name.into()),
        ];
        let request = match label_kind {
            // As earlier releases wrote it.
            LabelKind::Single => {
                let content = (dataset.as_str(), display_name);
                Request::new("CreateDataset", request, &content, &fields)?
            }
            LabelKind::Multi => {
                fields.push(("label_kind", kind.as_str().into()));
                let content = (dataset.as_str(), display_name, &kind);
                Request::new("CreateDataset", request, &content, &fields)?
            }
        };
        if let Some(id) = request.begin(&mut tx, tenant, now).await? {
            let id = id.parse().map_err(|error| corrupt("dataset", error))?;
            return request.made(get(&mut tx, tenant, &id).await);
        }
        locks::tenant(&mut tx, tenant).await?;
        let sql = "INSERT INTO datasets (tenant, id, display_name, create_time, label_kind) \
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let inserted = query(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .bind(display_name)
            .bind(now)
            .bind(&kind)
            .execute(&mut tx)
            .await?;
        if inserted == 0 {
            return Err(Error::AlreadyExists {
                kind: Kind::Dataset,
                name: dataset.to_string(),
            });
        }
        admit(&mut tx, tenant).await?;
        if label_kind.is_multi() {
            refuse_earlier_releases(&mut tx).await?;
        }
        let id = dataset.to_string();
        request.remember(&mut tx, tenant, id).await?;
        audit::acted(&mut tx, tenant, named(dataset, kind), now).await?;
        let record = get(&mut tx, tenant, dataset).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn get_dataset(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<DatasetRecord> {
        let mut tx = self.list().await?;
        get(&mut tx, tenant, dataset).await
    }

    async fn list_datasets(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<DatasetRecord>> {
        let mut tx = self.list().await?;
        let sql = "SELECT * FROM datasets WHERE tenant = $1 AND id > $2 AND delete_time IS NULL \
                   ORDER BY id LIMIT $3";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut tx)
            .await?;
        let mut datasets = Vec::with_capacity(found.len());
        let mut left = LISTED_LABELS;
        for row in &found {
            let limit = left.min(SHOWN_LABELS);
            let dataset = with_counts(&mut tx, row, limit).await?;
            left -= limit.min(u32::try_from(dataset.labels).unwrap_or(u32::MAX));
            datasets.push(dataset);
        }
        Ok(page.page(LISTING, datasets, |dataset| dataset.id.to_string()))
    }

    async fn add_examples_within(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        examples: &[ExampleRecord],
        limit: Option<u64>,
    ) -> Result<DatasetRecord> {
        let (mut tx, now) = self.write().await?;
        let limit = usage::of(&mut tx, tenant).await?.examples.or(limit);
        if limit.is_some() {
            locks::tenant(&mut tx, tenant).await?;
        }
        locks::dataset(&mut tx, tenant, dataset).await?;
        let before = get(&mut tx, tenant, dataset).await?;
        check_labels(&before, examples)?;
        let mut changes = Changes::default();
        let videos = labels::put(&mut tx, (tenant, dataset), examples, &mut changes).await?;
        if !videos.is_empty() {
            return Err(Error::VideosNotFound { videos });
        }
        changes.write(&mut tx, tenant, dataset).await?;
        let record = get(&mut tx, tenant, dataset).await?;
        let labels = usize::try_from(record.labels).unwrap_or(usize::MAX);
        if labels > MAX_LABELS {
            return Err(Error::TooManyLabels {
                dataset: dataset.clone(),
                labels,
                limit: MAX_LABELS,
            });
        }
        if let Some(limit) = limit {
            let more = record.examples.saturating_sub(before.examples);
            usage::check_examples(&mut tx, tenant, more, limit).await?;
        }
        let detail = format!("examples={}", examples.len());
        audit::acted(&mut tx, tenant, named(dataset, detail), now).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn remove_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        videos: &[VideoId],
    ) -> Result<DatasetRecord> {
        self.deleting(|| remove(self, tenant, dataset, videos))
            .await
    }

    async fn list_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<ExampleRecord>> {
        let mut tx = self.list().await?;
        row(&mut tx, tenant, dataset).await?;
        let sql = "SELECT video, label, split FROM examples \
                   WHERE tenant = $1 AND dataset = $2 AND video > $3 ORDER BY video LIMIT $4";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .bind(page.start(EXAMPLES)?)
            .bind(page.limit())
            .fetch_all(&mut tx)
            .await?;
        let examples: Vec<_> = found.iter().map(example).collect::<Result<_>>()?;
        Ok(page.page(EXAMPLES, examples, |example| example.video.to_string()))
    }

    async fn list_label_counts(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<LabelCount>> {
        let mut tx = self.read().await?;
        row(&mut tx, tenant, dataset).await?;
        labels::list(&mut tx, tenant, dataset, page).await
    }

    async fn delete_dataset(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
        self.deleting(|| delete(self, tenant, dataset)).await
    }
}

/// Has releases refuse to start on this database that would take a set of labels for one label.
/// Refuses a data set that was just made, where it is one too many of its tenant; the caller's transaction, which has the tenant's lock, is then taken back.
async fn admit(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT COUNT(*) AS found FROM \
               (SELECT 1 FROM datasets WHERE tenant = $1 LIMIT $2) AS own";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(rows::int("limit", DATASETS + 1)?)
        .fetch_one(conn)
        .await?;
    match row.number::<u64>("found")? > DATASETS {
        true => Err(Error::QuotaExceeded {
            quota: Quota::Datasets,
            limit: DATASETS,
            used: DATASETS,
            more: 1,
        }),
        false => Ok(()),
    }
}

async fn refuse_earlier_releases(conn: &mut Conn) -> Result<()> {
    let sql = "UPDATE schema_state SET min_release = $1 WHERE min_release < $1";
    query(sql).bind(MULTI_SCHEMA).execute(conn).await?;
    Ok(())
}

/// Checks that every example has as many labels as the kind of the data set's labels allows.
fn check_labels(dataset: &DatasetRecord, examples: &[ExampleRecord]) -> Result<()> {
    if dataset.label_kind.is_multi() {
        return Ok(());
    }
    match examples.iter().find(|own| own.labels.only().is_none()) {
        None => Ok(()),
        Some(example) => Err(Error::LabelCount {
            dataset: dataset.id.clone(),
            video: example.video,
            labels: example.labels.iter().count(),
        }),
    }
}

async fn delete(store: &Database, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
    let (mut tx, now) = store.write().await?;
    locks::dataset(&mut tx, tenant, dataset).await?;
    let row = row(&mut tx, tenant, dataset).await?;
    let sql = "SELECT id FROM jobs INDEXED BY unfinished_jobs_by_tenant \
               WHERE tenant = $1 AND dataset = $2 AND end_time IS NULL LIMIT 1";
    let job = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .fetch_optional(&mut tx)
        .await?;
    if let Some(job) = job {
        let user = job.text("id")?;
        return Err(Error::InUse {
            kind: Kind::Dataset,
            name: dataset.to_string(),
            user_kind: Kind::Job,
            user,
        });
    }
    removal::begin(&mut tx, &row, now).await?;
    audit::acted(&mut tx, tenant, named(dataset, "deleted"), now).await?;
    tx.commit().await
}

async fn remove(
    store: &Database,
    tenant: &TenantId,
    dataset: &DatasetId,
    videos: &[VideoId],
) -> Result<DatasetRecord> {
    let (mut tx, now) = store.write().await?;
    locks::dataset(&mut tx, tenant, dataset).await?;
    let mut changes = Changes::default();
    for video in videos {
        labels::remove(&mut tx, (tenant, dataset), *video, &mut changes).await?;
    }
    changes.write(&mut tx, tenant, dataset).await?;
    let record = get(&mut tx, tenant, dataset).await?;
    let detail = format!("examples={}", videos.len());
    audit::acted(&mut tx, tenant, named(dataset, detail), now).await?;
    tx.commit().await?;
    Ok(record)
}

/// A data set and what becomes of it, as the audit log has them.
pub(super) fn named(dataset: &DatasetId, detail: impl Into<String>) -> (String, String) {
    (format!("datasets/{dataset}"), detail.into())
}

/// The row of a data set that is not being removed.
pub(super) async fn row(conn: &mut Conn, tenant: &TenantId, dataset: &DatasetId) -> Result<Row> {
    query("SELECT * FROM datasets WHERE tenant = $1 AND id = $2 AND delete_time IS NULL")
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Error::NotFound {
            kind: Kind::Dataset,
            name: dataset.to_string(),
        })
}

async fn get(conn: &mut Conn, tenant: &TenantId, dataset: &DatasetId) -> Result<DatasetRecord> {
    let row = row(conn, tenant, dataset).await?;
    with_counts(conn, &row, SHOWN_LABELS).await
}

/// The data set with the counts of at most `limit` labels.
async fn with_counts(conn: &mut Conn, row: &Row, limit: u32) -> Result<DatasetRecord> {
    let (tenant, id) = (row.text("tenant")?, row.text("id")?);
    Ok(DatasetRecord {
        counts: labels::first(conn, (&tenant, &id), limit).await?,
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        display_name: row.text("display_name")?,
        label_kind: row.name("label_kind")?,
        labels: row.number("labels")?,
        examples: row.number("examples")?,
        create_time: row.int("create_time")?,
    })
}

pub(super) fn example(row: &Row) -> Result<ExampleRecord> {
    Ok(ExampleRecord {
        video: row.id("video")?,
        labels: ExampleLabels::read(row.text("label")?),
        split: row.name("split")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Config;
    use crate::spec::Split;

    #[tokio::test]
    async fn a_data_set_of_several_labels_is_for_releases_that_know_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        let sqlite = Database::open(Config::at(path)).await.unwrap();
        let tenant: TenantId = "owner".parse().unwrap();
        for (name, label_kind, expected) in [
            ("one", LabelKind::Single, 0),
            ("some", LabelKind::Multi, MULTI_SCHEMA),
            ("another", LabelKind::Single, MULTI_SCHEMA),
        ] {
            let dataset: DatasetId = name.parse().unwrap();
            let new = NewDataset {
                display_name: "",
                label_kind,
            };
            let created = sqlite.create_dataset(&tenant, &dataset, new, None).await;
            created.unwrap();
            let mut reader = sqlite.look().await.unwrap();
            let state = query("SELECT min_release FROM schema_state").fetch_one(&mut reader);
            let found = state.await.unwrap().int("min_release").unwrap();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn one_label_too_many_is_refused_and_nothing_is_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        let sqlite = Database::open(Config::at(path)).await.unwrap();
        let tenant: TenantId = "owner".parse().unwrap();
        let dataset: DatasetId = "many".parse().unwrap();
        let created = sqlite
            .create_dataset(&tenant, &dataset, "".into(), None)
            .await;
        created.unwrap();
        let (mut tx, _) = sqlite.write().await.unwrap();
        let videos = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
                      INSERT INTO videos (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
                      SELECT 'owner', printf('00000000-0000-7000-8000-%012d', i), '', 1, x'00', '{}', 0 FROM n";
        query(videos)
            .bind(MAX_LABELS as i64 + 1)
            .execute(&mut tx)
            .await
            .unwrap();
        let examples = "INSERT INTO examples (tenant, dataset, video, label, split) \
                        SELECT tenant, 'many', id, id, 'train' FROM videos ORDER BY id LIMIT $1";
        query(examples)
            .bind(MAX_LABELS as i64)
            .execute(&mut tx)
            .await
            .unwrap();
        let counts = "INSERT INTO label_counts (tenant, dataset, label, train, validation, test) \
                      SELECT tenant, dataset, label, 1, 0, 0 FROM examples";
        query(counts).execute(&mut tx).await.unwrap();
        query("UPDATE datasets SET labels = $1, examples = $1")
            .bind(MAX_LABELS as i64)
            .execute(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let last = format!("00000000-0000-7000-8000-{:012}", MAX_LABELS + 1);
        let example = |label: &str| ExampleRecord {
            video: last.parse().unwrap(),
            labels: label.into(),
            split: Split::Train,
        };
        let refused = sqlite
            .add_examples(&tenant, &dataset, &[example("new")])
            .await;
        assert!(
            matches!(&refused, Err(Error::TooManyLabels { labels, .. }) if *labels == MAX_LABELS + 1),
            "{refused:?}"
        );
        let known = "00000000-0000-7000-8000-000000000001";
        let added = sqlite
            .add_examples(&tenant, &dataset, &[example(known)])
            .await;
        assert_eq!(added.unwrap().examples, MAX_LABELS as u64 + 1);
    }
}
