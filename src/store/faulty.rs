//! A store whose writes fail when a test says so.
//!
//! Invariant: reads, listings and deletions are those of the store below; a write that fails leaves nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Which write fails. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Writes until the one that fails, that one included; 0 or less means none.
    countdown: Arc<AtomicI64>,
}

impl Faults {
    /// Makes the `n`-th write from now fail, from 1; a blob that is written in pieces counts once for each piece and once for its end.
    pub fn fail_write(&self, n: i64) {
        self.countdown.store(n, Ordering::SeqCst);
    }

    fn check(&self) -> Result<()> {
        if self.countdown.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(Error::Generic {
                store: "faulty",
                source: "this write was told to fail".into(),
            });
        }
        Ok(())
    }
}

pub(super) fn wrap(below: Arc<dyn ObjectStore>, faults: Faults) -> Arc<dyn ObjectStore> {
    Arc::new(Faulty { below, faults })
}

#[derive(Debug)]
struct Faulty {
    below: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.below)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.faults.check()?;
        self.below.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let below = self.below.put_multipart_opts(location, options).await?;
        let faults = self.faults.clone();
        Ok(Box::new(FaultyUpload { below, faults }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.below.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.below.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.below.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.check()?;
        self.below.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    below: Box<dyn MultipartUpload>,
    faults: Faults,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        match self.faults.check() {
            Ok(()) => self.below.put_part(payload),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.check()?;
        self.below.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.below.abort().await
    }
}
