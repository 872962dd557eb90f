//! Admission of requests by the handle: room in the queue, the tenant's rate, and whether the deadline can be met.
//!
//! Invariant: a request is admitted or refused before anything of it is decoded, and one that is refused is not charged.

use std::time::{Duration, Instant};

use super::account::Taken;
use super::admission::Demand;
use super::{Error, Handle, Permit};
use crate::fair::Class;
use crate::ids::{TenantId, VersionRef};
use crate::telemetry::metrics::Dropped;

/// Longest time between two looks whether a tenant's rate has room for a stream that waits.
const LOOK: Duration = Duration::from_secs(1);

/// Clips that a request will bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Number of clips.
    pub clips: usize,
    /// Frames of each clip.
    pub frames: usize,
    /// Number of versions that each clip runs through; they share its planes.
    pub readers: usize,
}

/// What a request asks of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Number of clips.
    pub clips: usize,
    /// Frames of each clip.
    pub frames: usize,
    /// How urgent the request is.
    pub class: Class,
    /// When the answer is no longer wanted.
    pub deadline: Option<Instant>,
}

impl Ask {
    /// Returns an interactive request without a deadline.
    pub fn new(clips: usize, frames: usize) -> Self {
        Self {
            clips,
            frames,
            class: Class::Interactive,
            deadline: None,
        }
    }

    fn frames_of_all(self) -> u64 {
        (self.clips as u64).saturating_mul(self.frames as u64)
    }
}

impl Handle {
    /// Reserves room for an interactive request without a deadline, as [`Handle::admit_for`] does.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit(&self, tenant: &TenantId, clips: usize, frames: usize) -> Result<Permit, Error> {
        self.admit_for(tenant, Ask::new(clips, frames))
    }

    /// Reserves room for a request's clips, before anything is decoded. The room is freed when the permit is dropped.
    ///
    /// # Errors
    /// [`Error::QueueFull`] when there is no room now, [`Error::Unreachable`] when the queue is too long for the deadline, [`Error::DeadlineExceeded`],
    /// [`Error::BeyondQuota`], [`Error::TooManyClips`], [`Error::TooManyBytes`], [`Error::NotReady`], [`Error::Stopped`].
    pub fn admit_for(&self, tenant: &TenantId, ask: Ask) -> Result<Permit, Error> {
        let (asks, frames) = ((tenant, ask.class), ask.frames_of_all());
        self.admitted(asks, ask.deadline, self.demand(ask.clips, frames), frames)
    }

    /// Reserves room for all clips of an interactive request without a deadline, as [`Handle::admit_all_for`] does.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit_all(&self, tenant: &TenantId, loads: &[Load]) -> Result<Permit, Error> {
        self.admit_all_for((tenant, Class::Interactive), None, loads)
    }

    /// Reserves room for all of a request's clips or for none of them, before anything is decoded.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit_all_for(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        loads: &[Load],
    ) -> Result<Permit, Error> {
        self.admitted(asks, deadline, self.demand_of_all(loads), frames_of(loads))
    }

    /// Returns whether a request with these clips would be admitted at present, without a charge to the tenant's rate.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn would_admit(&self, asks: (&TenantId, Class), loads: &[Load]) -> Result<(), Error> {
        let (demand, most) = (self.demand_of_all(loads), self.most(asks.0));
        let admitted = self.core.admission.admit_within(asks, demand, most);
        admitted.map(drop)
    }

    /// Waits for room in the queue, for callers that go on rather than retry, such as streams; the deadline is the caller's own.
    ///
    /// # Errors
    /// [`Error::BeyondQuota`], [`Error::TooManyClips`], [`Error::TooManyBytes`], [`Error::NotReady`], [`Error::Stopped`].
    pub async fn reserve(&self, tenant: &TenantId, ask: Ask) -> Result<Permit, Error> {
        let (asks, frames) = ((tenant, ask.class), ask.frames_of_all());
        self.reserved(asks, self.demand(ask.clips, frames), frames)
            .await
    }

    /// Waits for room for all of a request's clips, as [`Handle::reserve`] does.
    ///
    /// # Errors
    /// Same as [`Handle::reserve`].
    pub async fn reserve_all(
        &self,
        asks: (&TenantId, Class),
        loads: &[Load],
    ) -> Result<Permit, Error> {
        self.reserved(asks, self.demand_of_all(loads), frames_of(loads))
            .await
    }

    /// Starts to load the adapter sets that an admitted request will need, so that they load while its video is decoded.
    pub fn prefetch<'a>(&self, versions: impl IntoIterator<Item = &'a VersionRef>) {
        for version in versions {
            self.core.residency.prefetch(version);
        }
    }

    /// Starts to load an adapter set in whose place another one answers until then, so that the load gives way to requests.
    pub fn prefetch_ahead(&self, version: &VersionRef) {
        self.core.residency.prefetch_ahead(version);
    }

    fn admitted(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        demand: Demand,
        frames: u64,
    ) -> Result<Permit, Error> {
        let most = self.most(asks.0);
        let admitted = self.core.admission.admit_within(asks, demand, most);
        if admitted.is_ok() && !*self.core.ready.borrow() {
            return Err(Error::NotReady);
        }
        let admitted =
            admitted.and_then(|permit| self.reachable(asks, deadline, frames).map(|()| permit));
        let charge = || {
            self.core
                .account
                .charge(asks.0, frames)
                .map_err(Error::from)
        };
        let admitted = admitted.and_then(|permit| charge().map(|()| permit));
        let dropped = match &admitted {
            Err(Error::QueueFull { .. }) => Some(Dropped::QueueFull),
            Err(Error::RateExceeded(_)) => Some(Dropped::RateExceeded),
            Err(Error::Unreachable { .. }) => Some(Dropped::Unreachable),
            Err(Error::DeadlineExceeded) => Some(Dropped::Expired),
            Ok(_) | Err(_) => None,
        };
        if let Some(reason) = dropped {
            self.core.metrics.dropped(asks.0, reason);
        }
        admitted
    }

    async fn reserved(
        &self,
        asks: (&TenantId, Class),
        demand: Demand,
        frames: u64,
    ) -> Result<Permit, Error> {
        let taken = self.charged(asks.0, frames).await?;
        let most = || self.most(asks.0);
        let permit = self.core.admission.reserve(asks, demand, most).await?;
        match *self.core.ready.borrow() {
            true => {
                taken.keep();
                Ok(permit)
            }
            false => Err(Error::NotReady),
        }
    }

    /// Most clips that a tenant may have between admission and answer.
    fn most(&self, tenant: &TenantId) -> Option<usize> {
        self.core.account.clips(tenant)
    }

    /// Takes frames from the tenant's rate; waits until there are some. They go back when what is returned is dropped.
    async fn charged<'a>(&'a self, tenant: &'a TenantId, frames: u64) -> Result<Taken<'a>, Error> {
        let account = &*self.core.account;
        let mut over = match account.charge(tenant, frames) {
            Ok(()) => return Ok(Taken::new(account, tenant, frames)),
            Err(over) => over,
        };
        loop {
            // A limit of 0 allows none, however long somebody waits.
            let Some(wait) = over.wait else {
                return Err(over.into());
            };
            // The limit may be raised meanwhile.
            tokio::time::sleep(wait.min(LOOK)).await;
            match account.charge_again(tenant, frames) {
                Ok(()) => return Ok(Taken::new(account, tenant, frames)),
                Err(still) => over = still,
            }
        }
    }

    /// Checks that the deadline can be met, as far as the queue is known. Nobody is refused for an estimate while nothing waits.
    fn reachable(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        frames: u64,
    ) -> Result<(), Error> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        let queue = &self.core.queue;
        match queue.wait(asks, frames) {
            Some(wait) if wait > left => Err(Error::Unreachable { wait, left }),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the room that clips with these frames in all take.
    fn demand(&self, clips: usize, frames: u64) -> Demand {
        let frame = size_of::<f32>() * self.core.backbone.config().frame_len();
        Demand {
            clips,
            bytes: (frame as u64).saturating_mul(frames),
        }
    }

    /// Returns what a request with several versions takes: those that read the same clips share their planes, but each clip runs once for each of them.
    fn demand_of_all(&self, loads: &[Load]) -> Demand {
        let sum = |each: fn(&Load) -> usize| loads.iter().map(each).sum::<usize>();
        self.demand(
            sum(|load| load.clips * load.readers),
            sum(|load| load.clips * load.frames) as u64,
        )
    }
}

/// Frames of all clips, each as often as it runs.
fn frames_of(loads: &[Load]) -> u64 {
    let frames = |load: &Load| (load.clips * load.frames * load.readers) as u64;
    loads.iter().map(frames).sum()
}
