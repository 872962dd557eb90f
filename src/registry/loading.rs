//! Files of versions: read, compared with their records, and kept in memory as far as there is room for them.
//!
//! Invariant: bytes that are handed out have the digest of the version's record, and a file of that digest was compared with the whole record in this
//! process.

use std::sync::Arc;

use bytes::Bytes;

use super::manifest::{self, Mismatch};
use super::{Error, Registry, Result};
use crate::blocking::blocking;
use crate::ids::VersionRef;
use crate::metadata::VersionRecord;
use crate::spec::{AdapterConfig, Digest};
use crate::store::{self, layout};

/// Most versions whose [`Form`] is kept: some 300 bytes each.
pub(super) const FORMS: u64 = 20_000;

/// A version's record, and its file, which was checked against it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Record of the version.
    pub record: Arc<VersionRecord>,
    /// Bytes of the safetensors file.
    pub bytes: Bytes,
}

/// What is needed to read the weights in a version's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// sha256 of the file.
    pub sha256: Digest,
    /// Shape of the version's adapters.
    pub adapter: AdapterConfig,
    /// Number of classes of the version's head.
    pub classes: usize,
    /// Digest of the backbone that the version was trained on.
    pub backbone_digest: Digest,
}

impl From<&VersionRecord> for Form {
    fn from(record: &VersionRecord) -> Self {
        let manifest = &record.manifest;
        Self {
            sha256: record.sha256,
            adapter: manifest.adapter,
            classes: manifest.labels.len(),
            backbone_digest: manifest.backbone_digest,
        }
    }
}

impl Registry {
    /// Reads a version's file and checks it against its record.
    ///
    /// # Errors
    /// [`store::Error::Digest`] when the file is damaged, [`Error::Manifest`] when it disagrees with the record; when there is no such version.
    pub async fn load(&self, version: &VersionRef) -> Result<Loaded> {
        match self.inner.cache.get(version) {
            Some(loaded) => Ok(loaded),
            None => self.read(version).await,
        }
    }

    /// Same as [`Registry::load`], but reads the record even when the file is in memory: for a caller who may see only what exists now.
    ///
    /// # Errors
    /// Same as [`Registry::load`].
    pub async fn load_current(&self, version: &VersionRef) -> Result<Loaded> {
        match self.inner.cache.get(version) {
            Some(loaded) => {
                self.get_version(version).await?;
                Ok(loaded)
            }
            None => self.read(version).await,
        }
    }

    /// Same as [`Registry::load`], for a caller who wants only the weights. Where files are not kept in memory, a version that was loaded before costs one read
    /// of its file and the comparison of its sha256: the record, and what the file says of itself, were compared then.
    ///
    /// # Errors
    /// Same as [`Registry::load`].
    pub async fn load_weights(&self, version: &VersionRef) -> Result<(Form, Bytes)> {
        let forms = &self.inner.forms;
        let keeps_files = self.inner.config.cache_bytes > 0;
        if keeps_files {
            let loaded = self.load(version).await?;
            return Ok((Form::from(&*loaded.record), loaded.bytes));
        }
        if let Some(form) = forms.get(version) {
            // The view may have forgotten the task since the form was kept.
            self.follow_task(version).await;
            return Ok((form, self.stored(version, form.sha256).await?));
        }
        let ticket = forms.ticket();
        let loaded = self.load(version).await?;
        let form = Form::from(&*loaded.record);
        forms.insert(ticket, version.clone(), form, 1);
        Ok((form, loaded.bytes))
    }

    async fn read(&self, version: &VersionRef) -> Result<Loaded> {
        let ticket = self.inner.cache.ticket();
        self.follow_task(version).await;
        let record = self.get_version(version).await?;
        let bytes = self.stored(version, record.sha256).await?;
        let loaded = Loaded {
            record: Arc::new(record),
            bytes,
        };
        self.check(version, loaded.clone()).await?;
        let size = loaded.bytes.len() as u64;
        self.inner
            .cache
            .insert(ticket, version.clone(), loaded.clone(), size);
        Ok(loaded)
    }

    /// Reads a version's file and compares its sha256.
    async fn stored(&self, version: &VersionRef, sha256: Digest) -> Result<Bytes> {
        let key = layout::version(&version.tenant, &version.task, version.version, sha256);
        match self.inner.store.get_verified(&key, sha256).await {
            Ok(bytes) => Ok(bytes),
            Err(missing @ store::Error::NotFound { .. }) => {
                // The version may have been deleted between reading its record and its file, which is no damage.
                self.get_version(version).await?;
                Err(missing.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Checks a file against its record, off the async threads: a manifest can be a megabyte.
    async fn check(&self, version: &VersionRef, loaded: Loaded) -> Result<()> {
        let work = move || manifest::check(&loaded.bytes, &loaded.record.manifest);
        let checked = blocking(work).await;
        // A check that was aborted counts as a failed check.
        let checked = checked.unwrap_or_else(|error| Err(Mismatch::Malformed(error.to_string())));
        checked.map_err(|mismatch| match mismatch {
            Mismatch::Malformed(problem) => Error::Malformed {
                version: version.to_string(),
                problem,
            },
            Mismatch::Field(field) => Error::Manifest {
                version: version.clone(),
                field,
            },
        })
    }
}
