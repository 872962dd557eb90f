//! Circuit before a bucket: when it fails again and again, calls are refused at once instead of waiting for their time limits.
//!
//! Invariant: while the circuit is open, one call in a second reaches the bucket; the first success closes it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::time::Instant;

use crate::telemetry::Metrics;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 10;
/// Time between two calls that are let through while it is open.
const PAUSE: Duration = Duration::from_secs(1);

/// Refusal while the circuit is open.
#[derive(Debug, thiserror::Error)]
#[error("the bucket failed {failures} times in a row and is tried again within a second")]
struct Open {
    failures: u32,
}

/// Store below a circuit.
#[derive(Debug)]
struct Circuit {
    below: Arc<dyn ObjectStore>,
    state: State,
}

/// Failures in a row; clones share them.
#[derive(Debug, Clone)]
struct State {
    /// Held for a look only, never across an await.
    counts: Arc<Mutex<Counts>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Counts {
    failures: u32,
    /// When the next call may pass; set while the circuit is open.
    next: Option<Instant>,
}

pub(super) fn wrap(below: Arc<dyn ObjectStore>, metrics: Metrics) -> Arc<dyn ObjectStore> {
    let state = State {
        counts: Arc::default(),
        metrics,
    };
    Arc::new(Circuit { below, state })
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call pass, or refuses it.
    fn enter(&self) -> Result<()> {
        let mut counts = self.lock();
        let Some(next) = counts.next else {
            return Ok(());
        };
        let now = Instant::now();
        if now < next {
            let failures = counts.failures;
            return Err(Error::Generic {
                store: "circuit",
                source: Box::new(Open { failures }),
            });
        }
        counts.next = Some(now + PAUSE);
        Ok(())
    }

    /// Counts the outcome of a call that passed.
    fn leave<T>(&self, outcome: Result<T>) -> Result<T> {
        let is_failure = outcome.as_ref().is_err_and(is_failure);
        let mut counts = self.lock();
        if !is_failure {
            if counts.next.take().is_some() {
                tracing::info!("the bucket answers again");
                self.metrics.bucket_failing(false);
            }
            counts.failures = 0;
            return outcome;
        }
        counts.failures = counts.failures.saturating_add(1);
        if counts.failures >= FAILURES && counts.next.is_none() {
            counts.next = Some(Instant::now() + PAUSE);
            self.metrics.bucket_failing(true);
            if let Err(error) = &outcome {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "the bucket keeps failing: calls are refused at once");
            }
        }
        outcome
    }

    async fn call<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.enter()?;
        let outcome = work.await;
        self.leave(outcome)
    }
}

/// Returns whether an error says that the bucket does not work, and not that it answered with a refusal.
fn is_failure(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.below.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Circuit {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let work = self.below.put_opts(location, payload, options);
        self.state.call(work).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.below.put_multipart_opts(location, options);
        let below = self.state.call(work).await?;
        let state = self.state.clone();
        Ok(Box::new(Upload { below, state }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let work = self.below.get_opts(location, options);
        self.state.call(work).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if let Err(error) = self.state.enter() {
            return stream::iter([Err(error)]).boxed();
        }
        let state = self.state.clone();
        let deleted = self.below.delete_stream(locations);
        deleted.map(move |outcome| state.leave(outcome)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.state.enter() {
            return stream::iter([Err(error)]).boxed();
        }
        let state = self.state.clone();
        let listed = self.below.list(prefix);
        listed.map(move |outcome| state.leave(outcome)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let work = self.below.list_with_delimiter(prefix);
        self.state.call(work).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = self.below.copy_opts(from, to, options);
        self.state.call(work).await
    }
}

#[derive(Debug)]
struct Upload {
    below: Box<dyn MultipartUpload>,
    state: State,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        if let Err(error) = self.state.enter() {
            return std::future::ready(Err(error)).boxed();
        }
        let state = self.state.clone();
        let part = self.below.put_part(payload);
        part.map(move |outcome| state.leave(outcome)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.state.enter()?;
        let outcome = self.below.complete().await;
        self.state.leave(outcome)
    }

    async fn abort(&mut self) -> Result<()> {
        // Not counted: the parts of an upload are given up although the bucket fails.
        self.below.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Faults;
    use super::super::faulty;
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_keeps_failing_is_left_alone_and_tried_once_a_second() {
        let (faults, metrics) = (Faults::default(), Metrics::new());
        let below = faulty::wrap(Arc::new(InMemory::new()), faults.clone());
        let store = wrap(below, metrics.clone());
        let key = Path::from("a");
        let is_open = || metrics.text().contains("frameshift_bucket_failing 1\n");
        store.put(&key, "x".into()).await.expect("written");
        for n in 1..=FAILURES {
            assert!(!is_open(), "after {n} failures");
            faults.fail_read(1);
            store.get(&key).await.expect_err("told to fail");
        }
        assert!(is_open());
        let refused = store.get(&key).await.expect_err("refused");
        assert!(refused.to_string().contains("10 times"), "{refused}");
        assert!(store.put(&key, "x".into()).await.is_err());
        // The call that is let through fails, so that the next one is refused again.
        tokio::time::advance(PAUSE).await;
        faults.fail_read(1);
        let failed = store.get(&key).await.expect_err("told to fail");
        assert!(failed.to_string().contains("told to fail"), "{failed}");
        assert!(store.get(&key).await.is_err());
        tokio::time::advance(PAUSE).await;
        store.get(&key).await.expect("let through");
        assert!(!is_open());
        store.get(&key).await.expect("closed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_not_there_is_no_failure_of_the_bucket() {
        let store = wrap(Arc::new(InMemory::new()), Metrics::new());
        for _ in 0..2 * FAILURES {
            let error = store.get(&Path::from("none")).await.expect_err("nothing");
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
    }
}
