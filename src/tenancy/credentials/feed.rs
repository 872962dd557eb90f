//! The change feed of tenants and keys, and what is put on record of their use.
//!
//! Invariant: what changed anywhere is forgotten here at the latest when the feed was read; without the database the feed waits.

use std::convert::Infallible;
use std::sync::{MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Credentials;
use super::untold::Untold;
use crate::ids::KeyId;
use crate::metadata::{self, AccessChange, Cursor, RefusedRecord, Timestamp, Topic};
use crate::shutdown::Signal;
use crate::telemetry;

/// Changes that are read at once.
const PAGE: u32 = 1000;
/// Microseconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// Most keys whose use waits to be noted.
const USES: usize = 10_000;

impl Credentials {
    /// Has the audit log told of refused credentials of a source, when the feed is read next. Of more than so many a minute it has the number; the log has each.
    pub fn refusal(&self, refused: RefusedRecord) {
        self.refused().add(refused, Instant::now());
    }

    /// Notes a use, to be put on record when the feed is read next.
    pub(super) fn used(
        &self,
        id: &KeyId,
        presented: [u8; 32],
        noted: Option<i64>,
        wall: Timestamp,
    ) {
        let today = wall.div_euclid(DAY);
        if noted.is_some_and(|noted| noted >= today) {
            return;
        }
        {
            let mut uses = self.uses();
            if uses.len() < USES || uses.contains_key(id) {
                uses.insert(id.clone(), today);
            }
        }
        self.cache().noted(id, presented, today);
    }

    /// Forgets what is known of a key that this process changed, and has the feed read soon.
    pub(in crate::tenancy) fn changed(&self, change: &AccessChange) {
        self.apply(change);
        self.0.metadata.tell(Topic::Access);
        self.0.hint.notify_one();
    }

    /// Has the feed read soon, since another process has changed something.
    pub fn look(&self) {
        self.0.hint.notify_one();
    }

    fn apply(&self, change: &AccessChange) {
        let mut cache = self.cache();
        match change {
            AccessChange::Key(key) => cache.forget_key(key),
            AccessChange::Tenant(tenant) => cache.forget_tenant(tenant),
        }
    }

    /// Follows the change feed until the drain, and puts uses of keys on record.
    ///
    /// # Errors
    /// Never: while the database is unavailable, the feed waits for it.
    pub async fn follow(self, drain: Signal) -> Result<(), Infallible> {
        let mut cursor = None;
        let mut is_up = true;
        let mut pruned = None;
        loop {
            let today = telemetry::now_micros().div_euclid(DAY);
            if is_up && pruned != Some(today) {
                pruned = Some(today);
                self.prune().await;
            }
            let caught_up = self.catch_up(&mut cursor).await;
            match (&caught_up, is_up) {
                (Err(error), true) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, "changes of keys cannot be read");
                }
                (Ok(()), false) => tracing::info!("changes of keys can be read again"),
                (Ok(()), true) | (Err(_), false) => {}
            }
            is_up = caught_up.is_ok();
            tokio::select! {
                () = drain.draining() => {
                    self.note_uses().await;
                    self.note_refused().await;
                    return Ok(());
                }
                () = self.0.hint.notified(), if is_up => {}
                () = tokio::time::sleep(metadata::spread(self.0.config.feed_poll)) => {}
            }
        }
    }

    async fn catch_up(&self, cursor: &mut Option<Cursor>) -> metadata::Result<()> {
        self.note_uses().await;
        self.note_refused().await;
        loop {
            let page = self.0.metadata.access_changes(cursor.clone(), PAGE).await?;
            if page.is_gap || cursor.is_none() {
                self.cache().clear();
            }
            for change in &page.changes {
                self.apply(change);
            }
            *cursor = Some(page.cursor);
            if page.is_last {
                return Ok(());
            }
        }
    }

    /// Forgets the oldest part of the audit log; what cannot be forgotten today goes tomorrow.
    async fn prune(&self) {
        while let Ok(1..) = self.0.metadata.forget_audit(metadata::AUDIT_KEPT).await {}
    }

    fn refused(&self) -> MutexGuard<'_, Untold> {
        self.0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the audit log of refused credentials; while the records are away, the log has them alone.
    async fn note_refused(&self) {
        let refused = self.refused().take(Instant::now());
        if refused.is_empty() {
            return;
        }
        if let Err(error) = self.0.metadata.note_refused(&refused).await {
            tracing::debug!(%error, "refused credentials are not on record");
        }
    }

    /// Puts uses on record. One that cannot be is noted again by the next use after the credential was looked up anew.
    async fn note_uses(&self) {
        let uses: Vec<(KeyId, i64)> = self.uses().drain().collect();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.0.metadata.note_key_use(&uses).await {
            tracing::debug!(%error, "uses of keys are not on record");
        }
    }
}
