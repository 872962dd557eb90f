//! Snapshots that nobody trains on any more: their examples leave the database for a blob, and come back when somebody reads them.
//!
//! Invariant: a blob is whole before the record says so, and rows go only after that; a blob that cannot be read leaves the snapshot as it is.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::archive::{self, Decoder, Encoder};
use super::{Library, Result};
use crate::blocking::blocking;
use crate::faults;
use crate::ids::{JobId, TenantId};
use crate::metadata::{self, Archive, BlobName, PagePlace, Unarchived};
use crate::spec::Digest;
use crate::store::{self, Recorded, Written, layout};

/// Examples that are read or written at a time.
const PAGE: u32 = 1000;

/// Snapshots at most that one process stores again at a time.
const REFILLS: usize = 16;

/// A file that is read from front to back by position.
struct Reader {
    file: Arc<File>,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Who may store the examples of a snapshot again: one at a time in this process, of those whose digests begin alike.
#[derive(Debug)]
pub(super) struct Refills([Arc<Mutex<()>>; REFILLS]);

impl Default for Refills {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl Refills {
    /// Waits until nobody else has it. A mutex of Tokio's, since it is held while the database and the store are waited for.
    async fn take(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let own = &self.0[usize::from(digest.0[0]) % REFILLS];
        Arc::clone(own).lock_owned().await
    }
}

impl Library {
    /// Copies the examples of snapshots that no unfinished job reads, and that have not been read for so long, into blobs. Returns how many snapshots.
    ///
    /// # Errors
    /// When the database or the store fails, also for a single one, after the others had their turn; what was copied stays.
    pub(super) async fn archive_snapshots(&self, age: Duration) -> Result<u64> {
        let metadata = &self.inner.metadata;
        let (mut archived, mut after) = (0, None);
        let mut failed = None;
        loop {
            let unread = metadata.unarchived_snapshots(age, after.as_ref()).await?;
            if unread.is_empty() {
                return failed.map_or(Ok(archived), Err);
            }
            for Unarchived { tenant, digest, .. } in &unread {
                match self.archive(tenant, *digest).await {
                    Ok(is_noted) => archived += u64::from(is_noted),
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            after = unread.into_iter().last();
        }
    }

    /// Copies the examples of a snapshot into its blob. Returns whether the record says so; it does not when the snapshot is gone.
    async fn archive(&self, tenant: &TenantId, digest: Digest) -> Result<bool> {
        let written = match self.write_archive(tenant, digest).await {
            Ok(written) => written,
            // Its tenant is being erased, or the last job that named it is gone.
            Err(super::Error::Metadata(metadata::Error::NotFound { .. })) => return Ok(false),
            Err(error) => return Err(error),
        };
        faults::point("snapshot-archived");
        let archive = Archive {
            size_bytes: written.size,
            sha256: written.sha256,
        };
        let metadata = &self.inner.metadata;
        let is_noted = metadata.note_archive(tenant, digest, archive).await?;
        let blob = [(tenant.clone(), BlobName::Snapshot(digest))];
        if !is_noted && metadata.named(&blob).await? == [false] {
            let key = layout::snapshot(tenant, digest);
            self.inner.store.delete(&key).await?;
        }
        Ok(is_noted)
    }

    async fn write_archive(&self, tenant: &TenantId, digest: Digest) -> Result<Written> {
        let key = layout::snapshot(tenant, digest);
        let mut writer = self.inner.store.writer(&key).await?;
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let mut after = None;
        loop {
            let page = self
                .inner
                .metadata
                .snapshot_examples(tenant, digest, after, PAGE)
                .await?;
            page.iter()
                .for_each(|example| encoder.add(example, &mut bytes));
            writer.write(&bytes).await?;
            bytes.clear();
            after = page.last().map(|example| example.video);
            if page.len() < PAGE as usize {
                break;
            }
        }
        encoder.finish(&mut bytes);
        writer.write(&bytes).await?;
        Ok(writer.finish().await?)
    }

    /// Makes sure that the examples of a snapshot can be read, which may be in its blob alone. They stay for as long as those of one that was just taken.
    ///
    /// # Errors
    /// When the tenant has no such snapshot, or the database or the store fails.
    pub async fn open_snapshot(&self, tenant: &TenantId, digest: Digest) -> Result<()> {
        let metadata = &self.inner.metadata;
        if metadata.find_archive(tenant, digest).await?.is_none() {
            return Ok(());
        }
        let one = self.inner.refills.take(digest).await;
        // Whoever had it before may have stored everything.
        let Some(archive) = metadata.find_archive(tenant, digest).await? else {
            return Ok(());
        };
        // A caller who goes away, as at a deadline, leaves the work to go on: the next one would else begin it again.
        let (library, tenant) = (self.clone(), tenant.clone());
        let refilling = tokio::spawn(async move {
            let _one = one;
            library.refill(&tenant, digest, archive).await
        });
        let ended = refilling.await;
        ended.map_err(|ended| archive::Error::Read(ended.into()))?
    }

    /// Stores the examples in a blob as rows again.
    async fn refill(&self, tenant: &TenantId, digest: Digest, archive: Archive) -> Result<()> {
        let metadata = &self.inner.metadata;
        let key = layout::snapshot(tenant, digest);
        let recorded = Recorded {
            size: archive.size_bytes,
            sha256: archive.sha256,
        };
        let opened = self.inner.store.open_recorded(&key, recorded).await?;
        if !opened.is_verified {
            let found = self.inner.store.digest_file(&key, &opened.file).await?;
            if found != archive.sha256 {
                return Err(store::Error::Digest {
                    key: key.to_string(),
                    expected: archive.sha256,
                    found,
                }
                .into());
            }
        }
        let mut decoder = self
            .reading(move || {
                let file = opened.file;
                Decoder::new(BufReader::new(Reader { file, at: 0 }))
            })
            .await?;
        let mut is_first = true;
        loop {
            let read = self
                .reading(move || {
                    let page = decoder.page(PAGE as usize)?;
                    Ok((decoder, page))
                })
                .await?;
            let page;
            (decoder, page) = read;
            let is_last = page.len() < PAGE as usize;
            let place = PagePlace { is_first, is_last };
            let is_whole = metadata.refill_snapshot(tenant, digest, &page, place);
            if is_whole.await? || is_last {
                return Ok(());
            }
            is_first = false;
        }
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> std::result::Result<T, archive::Error> + Send + 'static,
    ) -> Result<T> {
        let read = blocking(read).await;
        Ok(read.map_err(|ended| archive::Error::Read(ended.into()))??)
    }

    /// The snapshot that a job reads or read, whose examples can be read.
    ///
    /// # Errors
    /// When the tenant has no such job, when the examples are gone, or when the database or the store fails.
    pub async fn snapshot_of_job(&self, tenant: &TenantId, job: JobId) -> Result<Digest> {
        let digest = self.inner.metadata.get_job(tenant, job).await?;
        let digest = digest.dataset_digest;
        self.open_snapshot(tenant, digest).await?;
        Ok(digest)
    }
}
