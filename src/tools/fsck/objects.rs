//! Objects against records, both ways.
//!
//! Invariant: an object that vanished while it was looked at is a finding only if its record is still there.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::super::transfer;
use super::source::Source;
use super::{Error, Report};
use crate::ids::TenantId;
use crate::metadata::{BlobKind, BlobName, BlobPlace, RecordedBlob, Videos};
use crate::store::{self, Blob, Key, Store, layout::Name};
use crate::telemetry;

/// Records that are read at a time.
const PAGE: u32 = 1000;
/// Objects that are looked at at a time.
const LOOKS: usize = 16;
/// Objects that are read at a time: each takes a few MiB of memory, and hashing takes a core.
const READS: usize = 4;
/// Age at which an object that no record names is a finding; a younger one may be about to be named.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);

/// How the objects are looked at.
pub(super) struct Objects {
    pub(super) store: Store,
    pub(super) is_deep: bool,
    pub(super) repairs: bool,
}

/// What is wrong with an object that a record names.
struct Wrong {
    blob: RecordedBlob,
    finding: Value,
    is_missing: bool,
}

impl Objects {
    /// Looks at every object that records name.
    pub(super) async fn named(
        &self,
        source: &mut Source,
        report: &mut Report,
    ) -> Result<(), Error> {
        for kind in BlobKind::ALL {
            let mut after = BlobPlace::default();
            loop {
                let page = source.database.recorded_blobs(kind, &after, PAGE).await?;
                let (blobs, next) = page;
                self.page(source, blobs, report).await?;
                match next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn page(
        &self,
        source: &mut Source,
        blobs: Vec<RecordedBlob>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let most = if self.is_deep { READS } else { LOOKS };
        let looks = blobs.into_iter().map(|blob| self.look(blob));
        let mut looks = stream::iter(looks).buffer_unordered(most);
        let mut missing = Vec::new();
        while let Some((bytes, wrong)) = looks.try_next().await? {
            report.objects += 1;
            report.bytes += bytes;
            match wrong {
                Some(wrong) if wrong.is_missing => missing.push(wrong),
                Some(wrong) => report.found(wrong.finding, false),
                None => {}
            }
        }
        drop(looks);
        if missing.is_empty() {
            return Ok(());
        }
        source.refresh().await?;
        let names: Vec<(TenantId, BlobName)> = missing
            .iter()
            .map(|wrong| (wrong.blob.tenant.clone(), wrong.blob.name.clone()))
            .collect();
        let named = source.database.named(&names).await?;
        for (wrong, is_named) in missing.into_iter().zip(named) {
            if is_named {
                report.found(wrong.finding, false);
            }
        }
        Ok(())
    }

    /// Looks at one object. Returns its size, and what is wrong with it.
    async fn look(&self, blob: RecordedBlob) -> Result<(u64, Option<Wrong>), store::Error> {
        let key = transfer::key_of(&blob.tenant, &blob.name)?;
        let is_read = self.is_deep && blob.sha256.is_some();
        let found = match is_read {
            true => self
                .store
                .measured(&key)
                .await
                .map(|w| (w.size, Some(w.sha256))),
            false => self.store.size(&key).await.map(|size| (size, None)),
        };
        let wrong = |finding: &str, expected: Value, found: Value, is_missing| Wrong {
            finding: json!({
                "finding": finding,
                "tenant": blob.tenant.as_str(),
                "object": key.as_str(),
                "expected": expected,
                "found": found,
            }),
            blob: blob.clone(),
            is_missing,
        };
        let (size, sha256) = match found {
            Ok(found) => found,
            Err(store::Error::NotFound { .. }) => {
                let size = blob.size.into();
                return Ok((0, Some(wrong("object_missing", size, Value::Null, true))));
            }
            Err(error) => return Err(error),
        };
        if let Some(expected) = blob.size.filter(|expected| *expected != size) {
            let wrong = wrong("object_size", expected.into(), size.into(), false);
            return Ok((size, Some(wrong)));
        }
        let damaged = match (blob.sha256, sha256) {
            (Some(expected), Some(found)) if expected != found => {
                let (expected, found) = (expected.to_string(), found.to_string());
                Some(wrong(
                    "object_damaged",
                    expected.into(),
                    found.into(),
                    false,
                ))
            }
            _ => None,
        };
        Ok((size, damaged))
    }

    /// Looks for objects that no record names.
    pub(super) async fn unnamed(&self, source: &Source, report: &mut Report) -> Result<(), Error> {
        let now = telemetry::now_micros();
        let age = i64::try_from(YOUNG.as_micros()).unwrap_or(i64::MAX);
        let old = |blob: &Blob| blob.modified <= now.saturating_sub(age);
        let mut pages = self.store.list().try_ready_chunks(PAGE as usize).boxed();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| error.1)?;
            let asked: Vec<(Blob, (TenantId, BlobName))> = page
                .into_iter()
                .filter(old)
                .filter_map(|blob| Some((name_of(&blob.key)?, blob)))
                .map(|(name, blob)| (blob, name))
                .collect();
            let (blobs, names): (Vec<Blob>, Vec<_>) = asked.into_iter().unzip();
            if names.is_empty() {
                continue;
            }
            let named = source.database.named(&names).await?;
            for (blob, is_named) in blobs.into_iter().zip(named) {
                if is_named {
                    continue;
                }
                if self.repairs {
                    self.store.discard(&blob.key, now).await?;
                }
                let finding = json!({
                    "finding": "object_unnamed",
                    "object": blob.key.as_str(),
                    "bytes": blob.size,
                });
                report.found(finding, self.repairs);
            }
        }
        Ok(())
    }
}

/// Returns what a record would call the blob of a key.
fn name_of(key: &Key) -> Option<(TenantId, BlobName)> {
    let (tenant, name) = key.name()?;
    let name = match name {
        Name::Video(video) => BlobName::Video(video),
        Name::Part(upload, number) => BlobName::Part(upload, number),
        Name::Version(task, version, sha256) => BlobName::Version(task, version, sha256),
        Name::Job(job, _) => BlobName::Job(job, key.to_string()),
        Name::Snapshot(digest) => BlobName::Snapshot(digest),
    };
    Some((tenant, name))
}
