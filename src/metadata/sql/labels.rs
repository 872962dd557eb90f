//! How many examples of each label a data set has: a row for each label, kept by the transactions that change examples.
//!
//! Invariant: the rows say what counting the examples would say; examples are changed nowhere else.

use std::collections::BTreeMap;

use super::super::{ExampleRecord, LabelCount, Page, PageRequest, Result};
use super::database::{Conn, Row, query};
use super::locks;
use super::rows::{self, Columns};
use crate::ids::{DatasetId, TenantId, VideoId};
use crate::spec::{ExampleLabels, Split};

/// By how much the counts of a label change: of the training, the validation and the test split.
type Change = [i64; 3];

/// Changes of one data set's counts that are written once, however many examples make them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    labels: BTreeMap<String, Change>,
    examples: i64,
}

impl Changes {
    fn add(&mut self, labels: &ExampleLabels, split: Split, by: i64) {
        let at = match split {
            Split::Train => 0,
            Split::Validation => 1,
            Split::Test => 2,
        };
        self.examples += by;
        for label in labels.iter() {
            let counts = self.labels.entry(label.to_owned()).or_default();
            if let Some(count) = counts.get_mut(at) {
                *count += by;
            }
        }
    }

    /// Writes the counts, and that the examples are others now.
    pub(super) async fn write(
        self,
        conn: &mut Conn,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<()> {
        let mut labels = 0;
        for (label, change) in self.labels {
            if change == [0; 3] {
                continue;
            }
            labels += apply(conn, (tenant, dataset), &label, change).await?;
        }
        // Examples may have changed places under equal counts, so that the revision does not follow from the counts.
        let sql = "UPDATE datasets SET labels = labels + $1, examples = examples + $2, \
                   revision = revision + 1, snapshot = NULL WHERE tenant = $3 AND id = $4";
        query(sql)
            .bind(labels)
            .bind(self.examples)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// Changes one label's counts. Returns by how much the number of labels changes.
async fn apply(
    conn: &mut Conn,
    (tenant, dataset): (&TenantId, &DatasetId),
    label: &str,
    [train, validation, test]: Change,
) -> Result<i64> {
    let sql = "UPDATE label_counts SET train = train + $1, validation = validation + $2, \
               test = test + $3 WHERE tenant = $4 AND dataset = $5 AND label = $6 \
               RETURNING train + validation + test AS examples";
    let row = query(sql)
        .bind(train)
        .bind(validation)
        .bind(test)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(label)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else {
        let sql = "INSERT INTO label_counts (tenant, dataset, label, train, validation, test) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        query(sql)
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .bind(label)
            .bind(train)
            .bind(validation)
            .bind(test)
            .execute(conn)
            .await?;
        return Ok(1);
    };
    if row.int("examples")? > 0 {
        return Ok(0);
    }
    query("DELETE FROM label_counts WHERE tenant = $1 AND dataset = $2 AND label = $3")
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(label)
        .execute(conn)
        .await?;
    Ok(-1)
}

/// Adds examples or changes them, in a few statements however many there are. Returns the videos that the tenant does not have; then nothing is added.
pub(super) async fn put(
    conn: &mut Conn,
    (tenant, dataset): (&TenantId, &DatasetId),
    examples: &[ExampleRecord],
    changes: &mut Changes,
) -> Result<Vec<VideoId>> {
    // Of a video that is named twice the last word counts.
    let examples: BTreeMap<VideoId, &ExampleRecord> =
        examples.iter().map(|own| (own.video, own)).collect();
    let mut values = Vec::with_capacity(examples.len());
    for example in examples.values() {
        let split = rows::name("split", example.split)?;
        values.push((example.video.to_string(), example.labels.text(), split));
    }
    let values = rows::json("examples", &values)?;
    locks::videos(conn, tenant, &values).await?;
    let missing = missing(conn, tenant, &values).await?;
    if !missing.is_empty() {
        return Ok(missing);
    }
    for row in &before(conn, (tenant, dataset), &values).await? {
        let labels = ExampleLabels::read(row.text("label")?);
        changes.add(&labels, row.name("split")?, -1);
    }
    let sql = "INSERT INTO examples (tenant, dataset, video, label, split) \
               SELECT $1, $2, value ->> 0, value ->> 1, value ->> 2 FROM json_each($3) \
               WHERE true ON CONFLICT (tenant, dataset, video) \
               DO UPDATE SET label = excluded.label, split = excluded.split";
    query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(&values)
        .execute(conn)
        .await?;
    for example in examples.values() {
        changes.add(&example.labels, example.split, 1);
    }
    Ok(Vec::new())
}

/// The videos of some examples, as JSON, that the tenant does not have.
async fn missing(conn: &mut Conn, tenant: &TenantId, values: &str) -> Result<Vec<VideoId>> {
    let sql = "SELECT value ->> 0 AS video FROM json_each($2) WHERE NOT EXISTS \
               (SELECT 1 FROM videos WHERE tenant = $1 AND id = value ->> 0 \
               AND delete_time IS NULL)";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(values)
        .fetch_all(conn)
        .await?;
    found.iter().map(|row| row.id("video")).collect()
}

/// What a data set has for the videos of some examples, as JSON.
async fn before(
    conn: &mut Conn,
    (tenant, dataset): (&TenantId, &DatasetId),
    values: &str,
) -> Result<Vec<Row>> {
    let sql = "SELECT label, split FROM examples WHERE tenant = $1 AND dataset = $2 \
               AND video IN (SELECT value ->> 0 FROM json_each($3))";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(values)
        .fetch_all(conn)
        .await?;
    Ok(found)
}

/// Removes an example; one that is not there is removed already.
pub(super) async fn remove(
    conn: &mut Conn,
    (tenant, dataset): (&TenantId, &DatasetId),
    video: VideoId,
    changes: &mut Changes,
) -> Result<()> {
    if let Some((labels, split)) = find(conn, (tenant, dataset), video).await? {
        query("DELETE FROM examples WHERE tenant = $1 AND dataset = $2 AND video = $3")
            .bind(tenant.as_str())
            .bind(dataset.as_str())
            .bind(video.to_string())
            .execute(conn)
            .await?;
        changes.add(&labels, split, -1);
    }
    Ok(())
}

/// Takes a video out of every data set.
pub(super) async fn forget_video(conn: &mut Conn, tenant: &TenantId, video: VideoId) -> Result<()> {
    let found = query("SELECT dataset FROM examples WHERE tenant = $1 AND video = $2")
        .bind(tenant.as_str())
        .bind(video.to_string())
        .fetch_all(&mut *conn)
        .await?;
    for row in &found {
        let dataset: DatasetId = row.id("dataset")?;
        let mut changes = Changes::default();
        remove(conn, (tenant, &dataset), video, &mut changes).await?;
        changes.write(conn, tenant, &dataset).await?;
    }
    Ok(())
}

async fn find(
    conn: &mut Conn,
    (tenant, dataset): (&TenantId, &DatasetId),
    video: VideoId,
) -> Result<Option<(ExampleLabels, Split)>> {
    let sql = "SELECT label, split FROM examples WHERE tenant = $1 AND dataset = $2 AND video = $3";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(video.to_string())
        .fetch_optional(conn)
        .await?;
    found
        .map(|row| {
            let labels = ExampleLabels::read(row.text("label")?);
            Ok((labels, row.name("split")?))
        })
        .transpose()
}

/// The counts of the first labels of a data set, at most `limit` of them.
pub(super) async fn first(
    conn: &mut Conn,
    (tenant, dataset): (&str, &str),
    limit: u32,
) -> Result<Vec<LabelCount>> {
    let sql =
        "SELECT * FROM label_counts WHERE tenant = $1 AND dataset = $2 ORDER BY label LIMIT $3";
    let found = query(sql)
        .bind(tenant)
        .bind(dataset)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    Ok(found.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

/// A page of labels with their counts.
pub(super) async fn list(
    conn: &mut Conn,
    tenant: &TenantId,
    dataset: &DatasetId,
    page: &PageRequest,
) -> Result<Page<LabelCount>> {
    // The data set is in the token: a page of one data set's labels does not continue another's.
    let listing = format!("labels/{dataset}");
    let sql = "SELECT * FROM label_counts WHERE tenant = $1 AND dataset = $2 AND label > $3 \
               ORDER BY label LIMIT $4";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(dataset.as_str())
        .bind(page.start(&listing)?)
        .bind(page.limit())
        .fetch_all(conn)
        .await?;
    let labels: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
    let name = |counts: &Vec<LabelCount>| {
        let label = counts.first().map(|count| count.label.clone());
        label.unwrap_or_default()
    };
    let Page { items, next } = page.page(&listing, labels, name);
    Ok(Page {
        items: items.concat(),
        next,
    })
}

/// The splits of a label that have examples.
fn read(row: &Row) -> Result<Vec<LabelCount>> {
    let label = row.text("label")?;
    let splits = [
        (Split::Train, row.number("train")?),
        (Split::Validation, row.number("validation")?),
        (Split::Test, row.number("test")?),
    ];
    let counts = splits.into_iter().filter(|(_, examples)| *examples > 0);
    Ok(counts
        .map(|(split, examples)| LabelCount {
            label: label.clone(),
            split,
            examples,
        })
        .collect())
}
