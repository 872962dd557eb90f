//! Moves serving versions: a desired version becomes resident and warmed up while the old one answers, then replaces it by compare-and-swap.
//!
//! Invariant: a version serves only after a forward pass of it gave finite logits; when it cannot, the old version keeps serving, and the registry
//! records the reason.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Duration, MissedTickBehavior};

use super::residency::Pin;
use super::{Core, Desired, Error, Role, Unavailable, Unfit, Versions, warmup};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::shutdown::Signal;

/// Most moves at a time; further ones wait for the next poll. Their loads take turns anyway.
const MOVES: usize = 32;

/// How long a process that has no version of a task in memory leaves a proof to those that have one; a little longer than the registry prefers them.
const YIELD: Duration = Duration::from_millis(1100);
/// How often a process that still loads a version says so; several times while the registry waits for its word.
const RENEWAL: Duration = Duration::from_secs(10);

/// The engine's loop.
pub struct Service {
    core: Arc<Core>,
    versions: Arc<dyn Versions>,
    moving: HashSet<VersionRef>,
    /// Moves in progress. Each says whether its version is to be tried again.
    moves: JoinSet<(VersionRef, bool)>,
    /// Sets that are being warmed up again, at most one per resident set, and sets of shadow versions, which are loaded if there is room.
    exams: JoinSet<()>,
    /// Tasks that may have changed but could not be read, or whose notice was lost; at most one entry per task with sets in the table.
    unsure: HashSet<(TenantId, TaskId)>,
    /// Whether moves were left to the next look, since too many were in progress.
    is_full: bool,
    /// Tasks whose versions were to stay resident when that was last read; as many as are pinned.
    pinned: HashSet<(TenantId, TaskId)>,
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
            is_full: false,
            pinned: HashSet::new(),
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
                Some(moved) = self.moves.join_next() => self.ended(moved).await,
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
        self.leave().await;
        self.core.spare.close();
        self.core.admission.close();
        self.core.admission.idle().await;
        Ok(())
    }

    /// Leaves moves that are in progress to other processes.
    async fn leave(&mut self) {
        self.moves.shutdown().await;
        for version in std::mem::take(&mut self.moving) {
            self.release(&version).await;
        }
    }

    async fn ended(&mut self, moved: Result<(VersionRef, bool), tokio::task::JoinError>) {
        match moved {
            Ok((version, is_retried)) => {
                self.moving.remove(&version);
                // A task's versions are proved together: the proof stays while another of them is loaded.
                let is_of_task =
                    |own: &VersionRef| own.tenant == version.tenant && own.task == version.task;
                if is_retried && !self.moving.iter().any(is_of_task) {
                    self.release(&version).await;
                }
                // The version that serves from now on is to stay in memory from now on, too.
                let task = (version.tenant, version.task);
                if self.pinned.contains(&task) {
                    self.keep().await;
                }
            }
            Err(error) => {
                // The name of the version is lost. Moves in progress are looked at again, which is harmless.
                tracing::error!(%error, "a move of a serving version failed unexpectedly");
                self.moving.clear();
            }
        }
    }

    /// Leaves the proof of a version's task to other processes.
    async fn release(&self, version: &VersionRef) {
        if let Err(error) = self.versions.release(version).await {
            tracing::debug!(%version, %error, "a proof is not left to others before its time is over");
        }
    }

    /// Acts on a task that was announced. The records of all tasks are read only where those of this one leave something to do: versions of a task may change
    /// many times a second, beside a thousand tasks that do not.
    async fn changed(&mut self, tenant: &TenantId, task: &TaskId) {
        let Some(desired) = self.settle(tenant, task).await else {
            self.look().await;
            return self.keep().await;
        };
        let waits =
            |own: &Desired| own.is_due && !own.failed && !self.moving.contains(&own.version);
        if self.is_full || desired.iter().any(waits) {
            self.look().await;
        }
        let was_pinned = self.pinned.contains(&(tenant.clone(), task.clone()));
        if was_pinned || desired.iter().any(|own| own.is_pinned) {
            self.keep().await;
        }
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
        let task = |(own, _): &(VersionRef, u64)| (own.tenant.clone(), own.task.clone());
        self.pinned = pinned.iter().map(task).collect();
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
                if let Err(error) = core.residency.acquire_ahead(&version).await {
                    tracing::warn!(tenant = %version.tenant, %version, %error, "a pinned version is not resident");
                }
            });
        }
    }

    /// Removes the sets of a task that was deleted, and retries a quarantined version that was requested anew. Returns the versions that the task should serve;
    /// `None` when it is gone or could not be read.
    async fn settle(&mut self, tenant: &TenantId, task: &TaskId) -> Option<Vec<Desired>> {
        match self.versions.desired(tenant, task).await {
            Ok(desired) => {
                self.drop_strangers(tenant, task, &desired).await;
                for own in &desired {
                    // A main version that already serves is not among the pending ones. Its recorded failure does not count, because a request that
                    // was refused under the old verdict may have recorded it after the version was requested anew. Others have their own records.
                    let is_due = own.role == Role::Main || !own.failed;
                    if is_due && self.core.residency.refusal(&own.version).is_some() {
                        self.begin(own.clone(), false);
                    } else if own.is_elsewhere && self.core.residency.is_behind(&own.version) {
                        self.follow(own.version.clone());
                    }
                }
                Some(desired)
            }
            Err(Unavailable::Missing) => {
                self.core.residency.forget(tenant, task);
                None
            }
            Err(error) => {
                tracing::warn!(%tenant, %task, %error, "cannot read a task that changed; it is retried");
                self.unsure.insert((tenant.clone(), task.clone()));
                None
            }
        }
    }

    /// Removes the sets of versions that do not exist, since an earlier task of the same name was deleted or a failover of the database lost them. A version
    /// that is to serve exists, and so did one in memory before the question, since only what is committed is loaded.
    async fn drop_strangers(&self, tenant: &TenantId, task: &TaskId, desired: &[Desired]) {
        let mut others = self.core.residency.of_task(tenant, task);
        others.retain(|version| desired.iter().all(|own| own.version != *version));
        if others.is_empty() {
            return;
        }
        // One question for all of them: a task whose versions change all the time has many that served once.
        let numbers = match self.versions.numbers(tenant, task).await {
            Ok(numbers) => numbers,
            Err(error) => {
                return tracing::debug!(%tenant, %task, %error, "it is not known which versions still exist");
            }
        };
        for version in others {
            let is_own = |own: &RangeInclusive<_>| own.contains(&version.version);
            if !numbers.as_ref().is_some_and(is_own) {
                self.core.residency.remove(&version);
            }
        }
    }

    /// Loads a version that another process has made the serving one, in place of the one that answers here until then.
    fn follow(&mut self, version: VersionRef) {
        let core = self.core.clone();
        self.exams.spawn(async move {
            let loaded = core.residency.acquire_ahead(&version).await;
            tracing::info!(tenant = %version.tenant, %version, is_resident = loaded.is_ok(), "a version that serves elsewhere was loaded");
        });
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
        self.is_full = false;
        for desired in pending {
            if !desired.failed {
                self.begin(desired, true);
            }
        }
    }

    /// Starts a move, unless it is in progress or too many others are. One that is to be claimed is left to the process that has it.
    fn begin(&mut self, desired: Desired, to_claim: bool) {
        if self.moving.contains(&desired.version) {
            return;
        }
        if self.moves.len() >= MOVES {
            self.is_full = true;
            return;
        }
        self.moving.insert(desired.version.clone());
        let core = self.core.clone();
        let versions = self.versions.clone();
        self.moves.spawn(async move {
            let versions = versions.as_ref();
            let is_retried = match to_claim {
                true if !is_claimed(&core, versions, &desired.version).await => false,
                true => {
                    renewing(
                        versions,
                        &desired.version,
                        advance(&core, versions, &desired),
                    )
                    .await
                }
                false => advance(&core, versions, &desired).await,
            };
            (desired.version, is_retried)
        });
    }
}

/// Whether this process is to prove a version. One that has no version of the task in memory asks once more when those that have one did not begin.
async fn is_claimed(core: &Core, versions: &dyn Versions, version: &VersionRef) -> bool {
    let is_near = core.residency.is_near(version);
    for is_last in [is_near, true] {
        match versions.claim(version, is_near).await {
            Ok(true) => return true,
            Ok(false) if is_last => return false,
            Ok(false) => tokio::time::sleep(YIELD).await,
            Err(error) => {
                tracing::warn!(tenant = %version.tenant, %version, %error, "cannot claim the proof of a version; it is retried");
                return false;
            }
        }
    }
    false
}

/// Waits for a move whose proof this process has, and keeps the proof for as long as that takes.
pub(super) async fn renewing(
    versions: &dyn Versions,
    version: &VersionRef,
    advance: impl Future<Output = bool>,
) -> bool {
    let mut advance = std::pin::pin!(advance);
    loop {
        tokio::select! {
            biased;
            is_retried = &mut advance => return is_retried,
            () = tokio::time::sleep(RENEWAL) => {}
        }
        tokio::select! {
            biased;
            is_retried = &mut advance => return is_retried,
            renewed = versions.claim(version, false) => if let Err(error) = renewed {
                tracing::debug!(%version, %error, "a proof is not renewed");
            },
        }
    }
}

/// Makes a desired version resident and then the serving one, or one that was proved. Returns whether it failed in a way that may be temporary; then it is
/// tried again at the next poll.
async fn advance(core: &Core, versions: &dyn Versions, desired: &Desired) -> bool {
    let version = &desired.version;
    // The version was requested anew, so an earlier verdict does not count.
    core.residency.retry(version);
    let acquired = match desired.role {
        Role::Main | Role::Member => core.residency.acquire_ahead(version).await,
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
    outcome == "retried"
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
