//! Counts what tenants use, and brings the counts to the records.
//!
//! Invariant: a count is in memory or in exactly one batch; a batch whose fate is unknown is brought again under its number, so that it counts once. What
//! a killed process had not brought is lost: at most the counts of one interval. Memory is bounded: what goes beyond it is counted for nobody in particular.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::faults;
use crate::ids::{TaskId, TenantId};
use crate::metadata::{self, Amounts, MetadataStore, Timestamp, UsageBatch, UsageKey};
use crate::telemetry;

/// Most keys that are counted apart between two batches: some 200 bytes each.
const KEYS: usize = 50_000;
/// Most keys of a batch: one transaction of some milliseconds.
const BATCH: usize = 1000;
/// Microseconds of an hour.
const HOUR: i64 = 60 * 60 * 1_000_000;

/// Counts of this process. Clones share them.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

struct Inner {
    process: String,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// A plain mutex, because it is held for a few additions and never across an await.
    open: Mutex<HashMap<UsageKey, Amounts>>,
    /// The batch that is being brought. Held across the call that does, so that batches follow each other.
    batch: tokio::sync::Mutex<Batches>,
}

#[derive(Default)]
struct Batches {
    newest: u64,
    pending: Option<UsageBatch>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter")
            .field("process", &self.0.process)
            .finish_non_exhaustive()
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::with_clock(telemetry::now_micros)
    }
}

impl Meter {
    /// A meter that counts by this clock, in microseconds since the Unix epoch.
    pub fn with_clock(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            process: telemetry::replica::name(),
            clock: Box::new(clock),
            open: Mutex::default(),
            batch: tokio::sync::Mutex::default(),
        }))
    }

    /// Name under which this process brings its counts.
    pub fn process(&self) -> &str {
        &self.0.process
    }

    /// Counts a call of a tenant.
    pub fn request(&self, tenant: &TenantId) {
        let amounts = Amounts {
            requests: 1,
            ..Amounts::default()
        };
        self.count(tenant, None, amounts);
    }

    /// Counts clip-frames that were answered, for a task or for none.
    pub fn answered(&self, tenant: &TenantId, task: Option<&TaskId>, clip_frames: u64) {
        let amounts = Amounts {
            clip_frames,
            ..Amounts::default()
        };
        self.count(tenant, task, amounts);
    }

    /// Counts time of the device, for a task or for none.
    pub fn computed(&self, tenant: &TenantId, task: Option<&TaskId>, time: Duration) {
        let amounts = Amounts {
            device_micros: micros(time),
            ..Amounts::default()
        };
        self.count(tenant, task, amounts);
    }

    /// Counts processor time of decoding.
    pub fn decoded(&self, tenant: &TenantId, time: Duration) {
        let amounts = Amounts {
            decode_micros: micros(time),
            ..Amounts::default()
        };
        self.count(tenant, None, amounts);
    }

    /// Counts bytes of the bodies of calls and of answers.
    pub fn transferred(&self, tenant: &TenantId, received: u64, sent: u64) {
        let amounts = Amounts {
            received_bytes: received,
            sent_bytes: sent,
            ..Amounts::default()
        };
        self.count(tenant, None, amounts);
    }

    fn count(&self, tenant: &TenantId, task: Option<&TaskId>, amounts: Amounts) {
        let hour = (self.0.clock)().div_euclid(HOUR);
        let key = UsageKey {
            tenant: Some(tenant.clone()),
            hour,
            task: task.cloned(),
        };
        let mut open = self.open();
        let key = match open.len() < KEYS || open.contains_key(&key) {
            true => key,
            false => UsageKey {
                tenant: None,
                hour,
                task: None,
            },
        };
        open.entry(key).or_default().add(amounts);
    }

    /// Brings the counts to the records. Returns whether there were any.
    ///
    /// # Errors
    /// When the records cannot be reached; the counts are brought with the next call.
    pub async fn flush(&self, records: &dyn MetadataStore) -> metadata::Result<bool> {
        let mut has_flushed = false;
        let mut batches = self.0.batch.lock().await;
        // What was pending before, then what was counted since.
        loop {
            let batch = match batches.pending.take() {
                Some(batch) => batch,
                None => {
                    let counts = self.some();
                    if counts.is_empty() {
                        break;
                    }
                    batches.newest += 1;
                    UsageBatch {
                        process: self.0.process.clone(),
                        sequence: batches.newest,
                        counts,
                    }
                }
            };
            let batch = batches.pending.insert(batch);
            records.record_usage(batch).await?;
            faults::point("usage-flushed");
            batches.pending = None;
            has_flushed = true;
        }
        Ok(has_flushed)
    }

    /// Takes some of the counts.
    fn some(&self) -> Vec<(UsageKey, Amounts)> {
        let mut open = self.open();
        let keys: Vec<UsageKey> = open.keys().take(BATCH).cloned().collect();
        let take = |key: UsageKey| open.remove_entry(&key);
        keys.into_iter().filter_map(take).collect()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<UsageKey, Amounts>> {
        // A map is whole after every single operation.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nearest number of microseconds, so that many short times are counted neither too low nor too high.
fn micros(time: Duration) -> u64 {
    u64::try_from((time.as_nanos() + 500) / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
