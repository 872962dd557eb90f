//! A data set in one state of the database, read page by page and stored as a snapshot.
//!
//! Invariant: a snapshot is what its data set held in one state of the database, whatever is written meanwhile; no transaction that writes adds more
//! than a page of it, and none but the last makes it readable. Behind a pooler nobody who writes has a second transaction: the pooler may have fewer
//! connections than there are who wait for one.

mod spool;

use sha2::{Digest as _, Sha256};

use super::super::{Error, Result, Timestamp};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::snapshots::{add, complete, is_complete};
use super::{Database, datasets};
use crate::blocking::blocking;
use crate::ids::{DatasetId, TenantId};
use crate::spec::{Digest, LabelKind};
use spool::Spool;

/// Examples of a page: a few milliseconds of the only writer's time.
pub(super) const PAGE: u32 = 1000;

/// Which state of a data set: a data set that is made anew begins to count again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    revision: i64,
    create_time: Timestamp,
}

impl State {
    pub(super) fn of(dataset: &Row) -> Result<Self> {
        Ok(Self {
            revision: dataset.int("revision")?,
            create_time: dataset.int("create_time")?,
        })
    }
}

/// A data set in one state of the database, for as long as this lives.
pub(super) struct Source<'a> {
    /// `None` once everything was read.
    tx: Option<Conn>,
    tenant: &'a TenantId,
    dataset: &'a DatasetId,
    /// Examples of a page.
    page: u32,
    pub(super) state: State,
    pub(super) examples: u64,
    label_kind: LabelKind,
    /// The digest of this state, when somebody has taken a snapshot of it before.
    pub(super) known: Option<Digest>,
}

/// An example with all that the digest is over.
pub(super) struct Line {
    video: String,
    sha256: Digest,
    label: String,
    split: String,
}

impl<'a> Source<'a> {
    pub(super) async fn open(
        store: &Database,
        tenant: &'a TenantId,
        dataset: &'a DatasetId,
        page: u32,
    ) -> Result<Self> {
        let mut tx = store.copy().await?;
        let row = datasets::row(&mut tx, tenant, dataset).await?;
        let label_kind = row.name("label_kind")?;
        let known = match row.optional_blob("snapshot")? {
            Some(_) => {
                let digest = row.digest("snapshot")?;
                let is_like = is_of_kind(&mut tx, tenant, (digest, label_kind)).await?;
                is_like.then_some(digest)
            }
            None => None,
        };
        Ok(Self {
            tx: Some(tx),
            tenant,
            dataset,
            page,
            state: State::of(&row)?,
            examples: row.number("examples")?,
            label_kind,
            known,
        })
    }

    fn tx(&mut self) -> Result<&mut Conn> {
        let ended = || Error::Backend("the transaction has ended".into());
        self.tx.as_mut().ok_or_else(ended)
    }

    /// The examples after a video, at most a page of them.
    pub(super) async fn lines(&mut self, after: &str) -> Result<Vec<Line>> {
        let sql = "SELECT video, videos.sha256 AS sha256, label, split \
                   FROM examples CROSS JOIN videos \
                   WHERE videos.tenant = examples.tenant AND videos.id = examples.video \
                   AND examples.tenant = $1 AND dataset = $2 AND video > $3 \
                   ORDER BY video LIMIT $4";
        let found = query(sql)
            .bind(self.tenant.as_str())
            .bind(self.dataset.as_str())
            .bind(after)
            .bind(self.page)
            .fetch_all(self.tx()?)
            .await?;
        let line = |row: &Row| {
            Ok(Line {
                video: row.text("video")?,
                sha256: row.digest("sha256")?,
                label: row.text("label")?,
                split: row.text("split")?,
            })
        };
        found.iter().map(line).collect()
    }

    /// Digest of all examples.
    pub(super) async fn digest(&mut self) -> Result<Digest> {
        if let Some(known) = self.known {
            return Ok(known);
        }
        let (mut hasher, mut after) = (Sha256::new(), String::new());
        if self.label_kind.is_multi() {
            // Equal examples of either kind are different data sets.
            hasher.update("multi\n");
        }
        loop {
            let lines = self.lines(&after).await?;
            let Some(last) = lines.last() else {
                return Ok(Digest(hasher.finalize().into()));
            };
            after.clone_from(&last.video);
            hasher = blocking(move || {
                for line in &lines {
                    hasher.update(line.text());
                }
                hasher
            })
            .await?;
        }
    }

    /// Stores what the data set holds under its digest, unless it is stored already, and notes the digest in the data set if that has not changed since.
    /// Returns whether the snapshot is complete: it is not when it was forgotten meanwhile.
    pub(super) async fn copy(&mut self, store: &Database, digest: Digest) -> Result<bool> {
        let tenant = self.tenant;
        let is_there = is_complete(self.tx()?, tenant, digest).await?;
        if is_there && self.known.is_some() {
            return Ok(true);
        }
        let is_apart = store.backend.is_pooled();
        match (is_there, is_apart) {
            (true, _) => {}
            (false, false) => self.copy_pages(store, digest).await?,
            (false, true) => self.spool_pages(store, digest).await?,
        }
        if is_apart {
            self.tx = None;
        }
        let (mut tx, _) = store.write().await?;
        // The data set is locked before its snapshot, as by who submits a job.
        self.note(&mut tx, digest).await?;
        let is_complete = complete(&mut tx, self.tenant, digest).await?;
        tx.commit().await?;
        Ok(is_complete)
    }

    /// Stores every example, a page in a transaction.
    async fn copy_pages(&mut self, store: &Database, digest: Digest) -> Result<()> {
        let mut after = String::new();
        loop {
            let lines = self.lines(&after).await?;
            let (is_first, is_last) = (after.is_empty(), lines.len() < self.page as usize);
            if let Some(last) = lines.last() {
                after.clone_from(&last.video);
            }
            let values = blocking(move || json(&lines)).await??;
            self.write(store, digest, (values, is_first)).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// As [`Self::copy_pages`], once everything was read and the transaction that did has ended.
    async fn spool_pages(&mut self, store: &Database, digest: Digest) -> Result<()> {
        let mut spool = Spool::new().await?;
        let mut after = String::new();
        loop {
            let lines = self.lines(&after).await?;
            let is_last = lines.len() < self.page as usize;
            if let Some(last) = lines.last() {
                after.clone_from(&last.video);
            }
            spool.push(blocking(move || json(&lines)).await??).await?;
            if is_last {
                break;
            }
        }
        self.tx = None;
        let mut number = 0;
        while let Some(values) = spool.page(number).await? {
            self.write(store, digest, (values, number == 0)).await?;
            number += 1;
        }
        Ok(())
    }

    /// Stores a page of examples, as JSON.
    async fn write(
        &mut self,
        store: &Database,
        digest: Digest,
        (values, is_first): (String, bool),
    ) -> Result<()> {
        let (mut tx, now) = store.write().await?;
        if is_first {
            let of = (digest, self.label_kind);
            begin(&mut tx, self.tenant, of, now).await?;
        }
        add(&mut tx, self.tenant, digest, values).await?;
        tx.commit().await
    }

    async fn note(&self, conn: &mut Conn, digest: Digest) -> Result<()> {
        let sql = "UPDATE datasets SET snapshot = $1 WHERE tenant = $2 AND id = $3 \
                   AND revision = $4 AND create_time = $5";
        query(sql)
            .bind(digest.0.to_vec())
            .bind(self.tenant.as_str())
            .bind(self.dataset.as_str())
            .bind(self.state.revision)
            .bind(self.state.create_time)
            .execute(conn)
            .await?;
        Ok(())
    }
}

impl Line {
    /// The example as the digest is over it. No part can hold a tab or a line's end, so that no two snapshots have one text.
    fn text(&self) -> String {
        let Self {
            video,
            sha256,
            label,
            split,
        } = self;
        format!("{video}\t{sha256}\t{label}\t{split}\n")
    }
}

/// Examples as a statement reads them row by row.
pub(super) fn json(lines: &[Line]) -> Result<String> {
    let values = lines
        .iter()
        .map(|line| (&line.video, &line.label, &line.split));
    rows::json("examples", &values.collect::<Vec<_>>())
}

/// Begins a snapshot, or one again whose examples were forgotten or are not all there: what there is of them is the same, since the digest is.
pub(super) async fn begin(
    conn: &mut Conn,
    tenant: &TenantId,
    (digest, kind): (Digest, LabelKind),
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO snapshots (tenant, digest, create_time, complete, label_kind, blob) \
               VALUES ($1, $2, $3, 0, $4, $5) \
               ON CONFLICT (tenant, digest) DO UPDATE \
               SET forgotten = 0, complete = 0, create_time = excluded.create_time \
               WHERE snapshots.forgotten > 0 OR snapshots.complete = 0";
    query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .bind(now)
        .bind(rows::name("label_kind", kind)?)
        .bind(digest.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a snapshot is one of a data set of this kind: a release that knows only one kind takes each for that.
async fn is_of_kind(
    conn: &mut Conn,
    tenant: &TenantId,
    (digest, kind): (Digest, LabelKind),
) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM snapshots \
               WHERE tenant = $1 AND digest = $2 AND label_kind = $3) AS found";
    let row = query(sql)
        .bind(tenant.as_str())
        .bind(digest.0.to_vec())
        .bind(rows::name("label_kind", kind)?)
        .fetch_one(conn)
        .await?;
    row.flag("found")
}
