//! Copies the objects that a database names from one store to another.
//!
//! Invariant: every byte that is copied is hashed, and an object that differs from its record is named.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::blocking::blocking_io;
use crate::ids::TenantId;
use crate::metadata::BlobName;
use crate::metadata::backup::NamedBlob;
use crate::store::{Bucket, Error, Key, Store, layout};
use crate::telemetry::Metrics;

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Two stores.
pub(super) struct Transfer {
    pub(super) from: Store,
    pub(super) to: Store,
}

/// Objects that were copied.
#[derive(Default)]
pub(super) struct Done {
    pub(super) keys: HashSet<Key>,
    pub(super) bytes: u64,
    /// Keys of objects that differ from their records.
    pub(super) damaged: Vec<String>,
}

impl Transfer {
    /// Copies what has not been copied yet. Returns the keys of objects that do not exist.
    pub(super) async fn copy(
        &self,
        blobs: Vec<NamedBlob>,
        done: &mut Done,
    ) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for blob in blobs {
            let key = key(&blob)?;
            if done.keys.contains(&key) {
                continue;
            }
            match self.copied(&key, &blob).await {
                Ok((bytes, is_damaged)) => {
                    done.bytes += bytes;
                    if is_damaged {
                        done.damaged.push(key.to_string());
                    }
                    done.keys.insert(key);
                }
                Err(Error::NotFound { key }) => missing.push(key),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Copies an object. Returns its size, and whether its bytes are not those of its record.
    async fn copied(&self, key: &Key, blob: &NamedBlob) -> Result<(u64, bool), Error> {
        let file = self.from.open_file(key).await?;
        let mut writer = self.to.writer(key).await?;
        loop {
            let piece = piece(Arc::clone(&file), writer.size())
                .await
                .map_err(|error| Error::of_storage("read", key.as_str(), error.into()))?;
            if piece.is_empty() {
                break;
            }
            writer.write(&piece).await?;
        }
        let written = writer.finish().await?;
        let is_damaged = blob.sha256.is_some_and(|sha256| sha256 != written.sha256);
        Ok((written.size, is_damaged))
    }
}

/// Opens the store of a data directory: a bucket, or the folder beside the database.
pub(super) fn store(bucket: Option<&Bucket>, data_dir: &Path) -> Result<Store, Error> {
    match bucket {
        Some(bucket) => Store::in_bucket(bucket, Metrics::new()),
        None => Store::open(&data_dir.join("objects")),
    }
}

/// Returns the bytes of a file from `offset` on; none at its end.
async fn piece(file: Arc<File>, offset: u64) -> std::io::Result<Vec<u8>> {
    let read = blocking_io(move || {
        let mut bytes = vec![0; PIECE];
        let read = file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    });
    read.await
}

fn key(blob: &NamedBlob) -> Result<Key, Error> {
    key_of(&blob.tenant, &blob.name)
}

/// Returns the key of an object that a record names.
pub(super) fn key_of(tenant: &TenantId, name: &BlobName) -> Result<Key, Error> {
    Ok(match name {
        BlobName::Video(video) => layout::video(tenant, *video),
        BlobName::Part(upload, number) => layout::part(tenant, *upload, *number),
        BlobName::Version(task, version, sha256) => {
            layout::version(tenant, task, *version, *sha256)
        }
        BlobName::Job(_, key) => Key::parse(key)?,
        BlobName::Snapshot(digest) => layout::snapshot(tenant, *digest),
    })
}
