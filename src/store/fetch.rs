//! Reading an object of a bucket in ranges of a few MiB, so that no request takes long.
//!
//! Invariant: either all bytes of one object come in order, or an error does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, Result};
use tokio::time::Instant;

/// Bytes that one request asks for.
const RANGE: u64 = 8 << 20;

/// Time within which a refusal comes; what takes longer is an outage, and another question would only take as long again.
const PROMPT: Duration = Duration::from_secs(5);

/// An object that is being read.
pub(super) struct Fetch {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// Bytes that were handed out.
    read: u64,
    /// End of the range that is being read.
    end: u64,
    range: BoxStream<'static, Result<Bytes>>,
}

/// The store sent other bytes than it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected} bytes, got {found}")]
struct Odd {
    expected: u64,
    found: u64,
}

impl Fetch {
    /// Asks for the first bytes of an object.
    pub(super) async fn begin(objects: &Arc<dyn ObjectStore>, path: &Path) -> Result<Self> {
        let asked = Instant::now();
        let first = objects.get_opts(path, range(0)).await;
        let (size, end, range) = match first {
            Ok(found) => (found.meta.size, found.range.end, found.into_stream()),
            Err(error @ Error::NotFound { .. }) => return Err(error),
            Err(error) if asked.elapsed() > PROMPT => return Err(error),
            // There is no range of an empty object, which the stores say in words of their own.
            Err(error) => match objects.head(path).await {
                Ok(meta) if meta.size == 0 => (0, 0, stream::empty().boxed()),
                Ok(_) | Err(_) => return Err(error),
            },
        };
        Ok(Self {
            objects: Arc::clone(objects),
            path: path.clone(),
            size,
            read: 0,
            end,
            range,
        })
    }

    /// Size of the object in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.range.next().await {
                let piece = piece?;
                self.read += piece.len() as u64;
                if self.read > self.end {
                    return Err(odd(self.end, self.read));
                }
                return Ok(Some(piece));
            }
            if self.read != self.end {
                return Err(odd(self.end, self.read));
            }
            if self.read == self.size {
                return Ok(None);
            }
            let next = self.objects.get_opts(&self.path, range(self.read)).await?;
            let (size, begin, end) = (next.meta.size, next.range.start, next.range.end);
            if size != self.size || begin != self.read || end <= begin {
                return Err(odd(self.size, size));
            }
            self.end = end;
            self.range = next.into_stream();
        }
    }
}

fn range(begin: u64) -> GetOptions {
    GetOptions {
        range: Some(GetRange::Bounded(begin..begin + RANGE)),
        ..GetOptions::default()
    }
}

fn odd(expected: u64, found: u64) -> Error {
    Error::Generic {
        store: "bucket",
        source: Box::new(Odd { expected, found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn an_object_is_read_whole_whatever_its_size() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("a");
        for size in [0, 1, RANGE - 1, RANGE, RANGE + 1, 3 * RANGE] {
            let bytes: Vec<u8> = (0..size).map(|i| (i >> 7) as u8).collect();
            objects.put(&path, bytes.clone().into()).await.expect("put");
            let mut fetch = Fetch::begin(&objects, &path).await.expect("begun");
            assert_eq!(fetch.size(), size);
            let mut found = Vec::new();
            while let Some(piece) = fetch.next().await.expect("read") {
                found.extend_from_slice(&piece);
            }
            assert!(found == bytes, "{size}");
        }
    }

    #[tokio::test]
    async fn an_object_that_is_replaced_meanwhile_is_an_error() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("a");
        let bytes = vec![1; 2 * RANGE as usize];
        objects.put(&path, bytes.into()).await.expect("put");
        let mut fetch = Fetch::begin(&objects, &path).await.expect("begun");
        let other = vec![2; 3 * RANGE as usize];
        objects.put(&path, other.into()).await.expect("put");
        let read = async {
            while fetch.next().await?.is_some() {}
            Ok::<(), Error>(())
        };
        assert!(read.await.is_err());
    }
}
