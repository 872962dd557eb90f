//! A store for tests, whose writes, reads and listings fail, and whose reads wait, when a test asks for it.
//!
//! Invariant: the underlying store performs every call that is not told to fail; a write that fails leaves nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::watch;

/// Faults that a test injects. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    writes: Countdown,
    reads: Countdown,
    lists: Countdown,
    aborted: Arc<AtomicI64>,
    held: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

/// Number of calls up to and including the one that fails; 0 or less means that none fails.
#[derive(Debug, Clone, Default)]
struct Countdown(Arc<AtomicI64>);

impl Faults {
    /// Makes the `n`-th write from now fail, counted from 1. A blob that is written in pieces counts once per piece and once for its completion.
    pub fn fail_write(&self, n: i64) {
        self.writes.0.store(n, Ordering::SeqCst);
    }

    /// Makes the `n`-th read from now fail, counted from 1; a read of a blob's size counts as well.
    pub fn fail_read(&self, n: i64) {
        self.reads.0.store(n, Ordering::SeqCst);
    }

    /// Makes the `n`-th listing from now fail, counted from 1, after its first blob.
    pub fn fail_list(&self, n: i64) {
        self.lists.0.store(n, Ordering::SeqCst);
    }

    /// Returns the number of blobs that were started in pieces and aborted.
    pub fn aborted(&self) -> i64 {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Makes reads wait, or lets them continue.
    pub fn hold_reads(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Waits until a read waits.
    pub async fn reader_waits(&self) {
        // The sender lives as long as `self`.
        let _ = self
            .waiting
            .subscribe()
            .wait_for(|readers| *readers > 0)
            .await;
    }

    async fn pass(&self) {
        self.waiting.send_modify(|readers| *readers += 1);
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        self.waiting.send_modify(|readers| *readers -= 1);
    }
}

impl Countdown {
    fn check(&self, what: &'static str) -> Result<()> {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(Error::Generic {
                store: "faulty",
                source: format!("this {what} was told to fail").into(),
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
        self.faults.writes.check("write")?;
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
        self.faults.pass().await;
        self.faults.reads.check("read")?;
        self.below.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.below.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let below = self.below.list(prefix);
        match self.faults.lists.check("listing") {
            Ok(()) => below,
            Err(error) => below.take(1).chain(stream::iter([Err(error)])).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.lists.check("listing")?;
        self.below.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.writes.check("write")?;
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
        match self.faults.writes.check("write") {
            Ok(()) => self.below.put_part(payload),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.writes.check("write")?;
        self.below.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.aborted.fetch_add(1, Ordering::SeqCst);
        self.below.abort().await
    }
}
