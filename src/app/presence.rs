//! Tells the records what this process is and has, for those who look after all processes, and hears from them whether it is to drain.
//!
//! Invariant: nothing depends on this loop but an operator's wish that the process drain, which it finds as soon as the records can be read; a report that cannot be written is left out, and the next one has the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use crate::config::settings::Role;
use crate::engine;
use crate::metadata::{
    MetadataStore, REPORTED_SETS, ReplicaReport, ReplicaRole, ReplicaState, ReportedSet,
};
use crate::model::Backbone;
use crate::shutdown::Signal;
use crate::telemetry;

/// Time between two reports.
const EVERY: Duration = Duration::from_secs(10);
/// Time between two looks whether the process is to drain; a hint makes it look at once.
const LOOK: Duration = Duration::from_secs(2);
/// How long a report may take, so that an outage does not hold up the drain.
const PATIENCE: Duration = Duration::from_secs(3);

/// What operators ask of this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    hint: Arc<Notify>,
    drain: Arc<watch::Sender<bool>>,
}

impl Asked {
    /// Has the records looked at soon, since something may be asked.
    pub(super) fn look(&self) {
        self.hint.notify_one();
    }

    /// Waits until the process is asked to drain.
    pub(super) async fn to_drain(&self) {
        let mut drain = self.drain.subscribe();
        // The sender is part of this.
        let _ = drain.wait_for(|asked| *asked).await;
    }
}

/// What a process reports about itself.
pub(super) struct Presence {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) engine: engine::Handle,
    pub(super) backbone: Arc<Backbone>,
    pub(super) asked: Asked,
}

impl Presence {
    /// Reports until the second drain; the first one makes the process one that drains.
    pub(super) async fn report(self, drain: Signal, end: Signal) -> Result<(), Infallible> {
        let start_time = telemetry::now_micros();
        let mut ready = self.engine.ready();
        tokio::select! {
            _ = ready.wait_for(|ready| *ready) => {}
            () = end.draining() => return Ok(()),
        }
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut state, mut told) = (ReplicaState::Ready, None);
        loop {
            let is_ready = state == ReplicaState::Ready;
            let is_look = tokio::select! {
                () = end.draining() => break,
                () = drain.draining(), if is_ready => {
                    state = ReplicaState::Draining;
                    false
                }
                _ = ticks.tick() => false,
                _ = looks.tick(), if is_ready => true,
                () = self.asked.hint.notified(), if is_ready => true,
            };
            if is_look {
                self.hear().await;
                continue;
            }
            let report = self.now(state, start_time);
            // Where nobody else shares the records, only what is new is worth a write.
            if self.metadata.is_exclusive() && told.as_ref() == Some(&report) {
                continue;
            }
            let written = self.metadata.report_replica(&self.name, &report);
            match tokio::time::timeout(PATIENCE, written).await {
                Ok(Ok(())) => told = Some(report),
                Ok(Err(error)) => tracing::debug!(%error, "the process is not on record now"),
                Err(_) => tracing::debug!("the process is not on record in time"),
            }
        }
        // A row that stays is shown as lost, and goes in time.
        let forgotten = self.metadata.forget_replica(&self.name);
        let _ = tokio::time::timeout(PATIENCE, forgotten).await;
        Ok(())
    }

    /// Looks whether an operator asked that the process drain.
    async fn hear(&self) {
        let asked = self.metadata.is_drain_asked(&self.name);
        // While the records are away, nothing new is asked.
        if let Ok(Ok(true)) = tokio::time::timeout(PATIENCE, asked).await {
            self.asked
                .drain
                .send_if_modified(|asked| !std::mem::replace(asked, true));
        }
    }

    fn now(&self, state: ReplicaState, start_time: i64) -> ReplicaReport {
        let used = self.engine.in_use();
        let sets = self.engine.all_residency();
        let sets = sets.iter().take(REPORTED_SETS);
        ReplicaReport {
            role: match self.role {
                Role::All => ReplicaRole::All,
                Role::Serve => ReplicaRole::Serve,
                Role::Train => ReplicaRole::Train,
            },
            state,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            backbone: self.backbone.digest(),
            precision: self.backbone.precision(),
            start_time,
            used_clips: used.clips as u64,
            clip_capacity: used.clips_capacity as u64,
            resident_sets: used.sets as u64,
            resident_bytes: used.set_bytes,
            sets: sets
                .map(|own| ReportedSet::new(&own.version, own.bytes))
                .collect(),
        }
    }
}
