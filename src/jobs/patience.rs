//! How long a job waits for an answer of the database or of the object store.
//!
//! Invariant: what never answers counts as an outage after a while, so that no runner waits for it for ever.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::Config;
use super::failure::Failure;
use crate::{metadata, store};

/// Time limits of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Time limit of a call to the database.
    pub(super) answer: Duration,
    /// Time limit of a call that moves an object.
    pub(super) transfer: Duration,
}

impl Patience {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            answer: config.answer,
            transfer: config.transfer,
        }
    }

    /// A call to the database; the database counts as away when it does not answer in time.
    pub(super) async fn records<T>(
        &self,
        call: impl Future<Output = metadata::Result<T>>,
    ) -> metadata::Result<T> {
        let answered = timeout(self.answer, call).await;
        answered.unwrap_or_else(|_| Err(metadata::Error::Unavailable(SILENT.into())))
    }

    /// A call to the object store, which counts as away when it does not end in time.
    pub(super) async fn objects<T>(
        &self,
        action: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, store::Error> {
        let answered = timeout(self.transfer, call).await;
        answered.unwrap_or_else(|_| Err(store::Error::of_storage(action, key, SILENT.into())))
    }

    /// Something that asks the database.
    pub(super) async fn asking<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answered = timeout(self.answer, work).await;
        answered.unwrap_or_else(|_| Err(metadata::Error::Unavailable(SILENT.into()).into()))
    }

    /// Something that moves objects and asks the database, too.
    pub(super) async fn moving<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answered = timeout(self.transfer, work).await;
        let silent = || store::Error::of_storage("move", "*", SILENT.into());
        answered.unwrap_or_else(|_| Err(silent().into()))
    }
}

/// Why a call that was given up failed.
const SILENT: &str = "there was no answer in time";
