//! Moves serving versions: a desired version becomes resident and warmed up while the old one answers, then replaces it by compare-and-swap.
//!
//! Invariant: a version serves only after a forward pass of it gave finite logits; when it cannot, the old version keeps serving, and the registry
//! records the reason.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::residency::Pin;
use super::{Core, Desired, Error, Role, Unavailable, Unfit, Versions, warmup};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::shutdown::Signal;

/// Most moves at a time; further ones wait for the next poll. Their loads take turns anyway.
const MOVES: usize = 32;

/// The engine's loop.
pub struct Service {
    core: Arc<Core>,
    versions: Arc<dyn Versions>,
    moving: HashSet<VersionRef>,
    moves: JoinSet<VersionRef>,
    /// Sets that are being warmed up again, at most one per resident set, and sets of shadow versions, which are loaded if there is room.
    exams: JoinSet<()>,
    /// Tasks that may have changed but could not be read, or whose notice was lost; at most one entry per task with sets in the table.
    unsure: HashSet<(TenantId, TaskId)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

impl Service {
    pub(super) fn new(core: Arc<Core>, versions: Arc<dyn Versions>) -> Self {
        Self {
            core,
            versions,
            moving: HashSet::new(),
            moves: JoinSet::new(),
            exams: JoinSet::new(),
            unsure: HashSet::new(),
        }
    }

    /// Warms up the backbone, becomes ready, and moves serving versions until the drain; then refuses new requests and returns when every permit has
    /// been returned. If it returns earlier, the process has to drain.
    ///
    /// # Errors
    /// When the backbone's first forward pass fails or gives values that are not finite.
    pub async fn run(mut self, drain: Signal) -> Result<(), Unfit> {
        let mut changes = self.versions.changes();
        tokio::select! {
            warm = warmup::backbone(&self.core.device, &self.core.backbone) => self.core.queue.warmed_up(warm?),
            () = drain.draining() => {
                self.core.admission.close();
                self.core.spare.close();
                return Ok(());
            }
        }
        self.core.ready.send_replace(true);
        let mut poll = tokio::time::interval(self.core.config.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announced = true;
        loop {
            tokio::select! {
                biased;
                () = drain.draining() => break,
                Some(moved) = self.moves.join_next() => self.ended(moved),
                Some(_) = self.exams.join_next() => {}
                suspects = self.core.residency.suspects() => self.examine(suspects),
                change = changes.recv(), if announced => match change {
                    Ok((tenant, task)) => self.changed(&tenant, &task).await,
                    Err(RecvError::Lagged(_)) => {
                        // Any of the tasks with sets in the table may be among the lost ones.
                        self.unsure.extend(self.core.residency.tasks());
                        self.look_again().await;
                    }
                    Err(RecvError::Closed) => announced = false,
                },
                _ = poll.tick() => self.look_again().await,
            }
        }
        self.core.ready.send_replace(false);
        self.core.spare.close();
        self.core.admission.close();
        self.core.admission.idle().await;
        Ok(())
    }

    fn ended(&mut self, moved: Result<VersionRef, tokio::task::JoinError>) {
        match moved {
            Ok(version) => {
                self.moving.remove(&version);
            }
            Err(error) => {
                // The name of the version is lost. Moves in progress are looked at again, which is harmless.
                tracing::error!(%error, "a move of a serving version failed unexpectedly");
                self.moving.clear();
            }
        }
    }

    async fn changed(&mut self, tenant: &TenantId, task: &TaskId) {
        self.settle(tenant, task).await;
        self.look().await;
        self.keep().await;
    }

    /// Reads the tasks again that could not be read, then looks for moves and for sets that are to be resident if there is room.
    async fn look_again(&mut self) {
        for (tenant, task) in std::mem::take(&mut self.unsure) {
            self.settle(&tenant, &task).await;
        }
        self.look().await;
        self.keep().await;
        for version in self.core.residency.missed() {
            let core = self.core.clone();
            self.exams.spawn(async move {
                let loaded = core.residency.acquire_spare(&version).await;
                tracing::debug!(%version, is_resident = loaded.is_ok(), "a shadow version was looked up");
            });
        }
    }

    /// Keeps what is pinned resident, as far as it fits the part of the budget for that, and loads what is not.
    async fn keep(&mut self) {
        let pinned = match self.versions.pinned().await {
            Ok(pinned) => pinned,
            Err(error) => {
                tracing::warn!(%error, "cannot read which versions are pinned; those that were stay so");
                return;
            }
        };
        let mut left = self.core.config.pinned_bytes();
        let fits = |(version, bytes): (VersionRef, u64)| {
            left = left.checked_sub(bytes)?;
            Some(version)
        };
        // The first one that does not fit is the last one: which ones are kept does not depend on what follows.
        let kept: HashSet<VersionRef> = pinned.into_iter().map_while(fits).collect();
        for version in self.core.residency.keep(kept) {
            let core = self.core.clone();
            self.exams.spawn(async move {
                if let Err(error) = core.residency.acquire(&version).await {
                    tracing::warn!(tenant = %version.tenant, %version, %error, "a pinned version is not resident");
                }
            });
        }
    }

    /// Removes the sets of a task that was deleted, and retries a quarantined version that was requested anew.
    async fn settle(&mut self, tenant: &TenantId, task: &TaskId) {
        match self.versions.desired(tenant, task).await {
            Ok(desired) => {
                for own in desired {
                    // A main version that already serves is not among the pending ones. Its recorded failure does not count, because a request that
                    // was refused under the old verdict may have recorded it after the version was requested anew. Others have their own records.
                    let is_due = own.role == Role::Main || !own.failed;
                    if is_due && self.core.residency.refusal(&own.version).is_some() {
                        self.begin(own);
                    }
                }
            }
            Err(Unavailable::Missing) => self.core.residency.forget(tenant, task),
            Err(error) => {
                tracing::warn!(%tenant, %task, %error, "cannot read a task that changed; it is retried");
                self.unsure.insert((tenant.clone(), task.clone()));
            }
        }
    }

    fn examine(&mut self, suspects: Vec<Pin>) {
        for pin in suspects {
            let core = self.core.clone();
            self.exams
                .spawn(async move { core.residency.examine(pin).await });
        }
    }

    /// Starts every pending move that is not in progress.
    async fn look(&mut self) {
        let pending = match self.versions.pending().await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::warn!(%error, "cannot read the desired versions; the present ones keep serving");
                return;
            }
        };
        for desired in pending {
            if !desired.failed {
                self.begin(desired);
            }
        }
    }

    /// Starts a move, unless it is in progress or too many others are.
    fn begin(&mut self, desired: Desired) {
        if self.moves.len() >= MOVES || self.moving.contains(&desired.version) {
            return;
        }
        self.moving.insert(desired.version.clone());
        let core = self.core.clone();
        let versions = self.versions.clone();
        self.moves.spawn(async move {
            advance(&core, versions.as_ref(), &desired).await;
            desired.version
        });
    }
}

/// Makes a desired version resident and then the serving one, or one that was proved; a failure that may be temporary is retried at the next poll.
async fn advance(core: &Core, versions: &dyn Versions, desired: &Desired) {
    let version = &desired.version;
    // The version was requested anew, so an earlier verdict does not count.
    core.residency.retry(version);
    let acquired = match desired.role {
        Role::Main | Role::Member => core.residency.acquire(version).await,
        Role::Shadow => core.residency.acquire_spare(version).await,
    };
    let (outcome, told) = match acquired {
        // The pin lives until the registry has recorded the move, so that the set is still resident when the first request arrives.
        Ok(_pin) => ("moved", served(versions, desired).await),
        Err(
            error @ (Error::Quarantined { .. }
            | Error::Damaged { .. }
            | Error::TooLarge { .. }
            | Error::NotFound { .. }),
        ) => ("refused", refuse(versions, desired, &error).await),
        Err(error @ Error::NoRoom { .. }) => {
            tracing::debug!(tenant = %version.tenant, %version, %error, "a shadow version is not resident yet");
            ("retried", Ok(true))
        }
        Err(error) => {
            tracing::warn!(tenant = %version.tenant, %version, %error, "a desired version is not resident yet");
            ("retried", Ok(true))
        }
    };
    match told {
        Ok(true) => core.metrics.serving_move(outcome),
        Ok(false) => tracing::debug!(%version, "another version is desired by now"),
        Err(error) => {
            core.metrics.serving_move("retried");
            tracing::warn!(tenant = %version.tenant, %version, %error, "cannot record a move in the registry");
        }
    }
    if outcome == "moved" {
        tracing::info!(tenant = %version.tenant, %version, "a version is resident and warmed up");
    }
}

async fn served(versions: &dyn Versions, desired: &Desired) -> Result<bool, Unavailable> {
    match desired.role {
        Role::Main => versions.moved(&desired.version).await,
        Role::Member | Role::Shadow => versions.noted(&desired.version, None).await,
    }
}

async fn refuse(
    versions: &dyn Versions,
    Desired { version, role, .. }: &Desired,
    error: &Error,
) -> Result<bool, Unavailable> {
    tracing::warn!(tenant = %version.tenant, %version, %error, "a desired version cannot serve");
    let why = error.to_string();
    match role {
        Role::Main => versions.failed(version, &why).await,
        Role::Member | Role::Shadow => versions.noted(version, Some(&why)).await,
    }
}
