//! Follows the change feed: what this process keeps of tasks stays true, whichever process changed them.
//!
//! Invariant: a change is applied before the position in the feed moves past it. What is to serve is announced by the feed where processes share the records;
//! where one process has them alone, whoever changes them announces it, and the feed only what was deleted. An announcement is a hint: the records are
//! authoritative, and the engine reads them again and again.

use std::convert::Infallible;

use tokio::time::Instant;

use super::view::asked;
use super::{Inner, Registry, Result};
use crate::metadata::{self, ChangeRecord, Cursor, Plan, Topic};
use crate::shutdown::Signal;
use crate::telemetry::Metrics;

/// Changes that are read at once.
const PAGE: u32 = 1000;

impl Registry {
    /// Has the feed read soon, since another process has changed something.
    pub fn look(&self) {
        self.inner.view.heard.notify_one();
    }

    /// Keeps the view up to date until the drain.
    ///
    /// # Errors
    /// Never: while the database is unavailable, the feed waits for it.
    pub async fn follow(
        self,
        metrics: Metrics,
        drain: Signal,
    ) -> std::result::Result<(), Infallible> {
        let mut cursor = None;
        let mut is_up = true;
        loop {
            let caught_up = self.catch_up(&mut cursor).await;
            metrics.database_up(caught_up.is_ok());
            metrics.view_age(self.inner.view.age().unwrap_or_default());
            match (&caught_up, is_up) {
                (Err(error), true) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the database is unavailable; known tasks continue to be served"
                    );
                }
                (Ok(()), false) => tracing::info!("the database is available again"),
                (Ok(()), true) | (Err(_), false) => {}
            }
            is_up = caught_up.is_ok();
            tokio::select! {
                () = drain.draining() => return Ok(()),
                // A database that is unavailable is not asked again for every call that fails.
                () = self.inner.view.hint.notified(), if is_up => {
                    self.inner.metadata.tell(Topic::Tasks);
                }
                () = self.inner.view.heard.notified(), if is_up => {}
                () = tokio::time::sleep(metadata::spread(self.inner.config.feed_poll)) => {}
            }
        }
    }

    async fn catch_up(&self, cursor: &mut Option<Cursor>) -> Result<()> {
        let Inner { view, metadata, .. } = &*self.inner;
        loop {
            // Taken before the read, so that the view never claims to be newer than it is.
            let begun = Instant::now();
            let page = asked(false, metadata.changes_since(cursor.clone(), PAGE)).await?;
            if page.is_gap {
                tracing::warn!("changes of tasks were missed; all tasks are read again");
            }
            if page.is_gap || cursor.is_none() {
                let known = view.clear();
                self.inner.cache.remove_all(|_| true);
                self.inner.forms.remove_all(|_| true);
                // They may be gone or have moved: whoever keeps versions of them has to look again.
                for (tenant, task) in known {
                    self.announce(&tenant, &task);
                }
            }
            for tenant in &page.videos {
                view.forget_videos(tenant);
            }
            for change in &page.changes {
                self.apply(change).await;
            }
            *cursor = Some(page.cursor);
            if page.is_last {
                view.confirm(begun);
                return Ok(());
            }
        }
    }

    async fn apply(&self, change: &ChangeRecord) {
        let ChangeRecord { tenant, task, .. } = change;
        if change.is_deleted {
            self.forget(tenant, task);
            return self.announce(tenant, task);
        }
        let view = &self.inner.view;
        let key = (tenant.clone(), task.clone());
        // A process that has the records alone has announced its own changes, and there are no others.
        let is_shared = self.inner.replica.is_some();
        if !is_shared && view.serving(&key).is_none() {
            return;
        }
        let ticket = view.ticket();
        match asked(false, self.inner.metadata.get_task(tenant, task)).await {
            Ok(record) if view.is_another(&record) => {
                self.forget(tenant, task);
                self.announce(tenant, task);
            }
            Ok(record) => {
                let served = view.serving(&key);
                if served.is_some() && !view.learn(ticket, &record) {
                    view.doubt(&key);
                }
                let has_moved = served.is_some_and(|own| own != record.serving);
                let is_moving = record.desired != record.serving && record.serving_error.is_none();
                let is_pending = record.split.as_ref().is_some_and(Plan::is_pending);
                if is_shared && (is_moving || has_moved || is_pending) {
                    self.announce(tenant, task);
                }
            }
            // The task was deleted meanwhile, which the feed will say, or cannot be read: then the next caller that asks for it tries again.
            Err(_) => view.doubt(&key),
        }
    }
}
