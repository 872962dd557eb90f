//! Work that nobody waits for: clips of shadow versions.
//!
//! Invariant: it takes nothing that a request could use. Its room in the queue is its own; it runs when no request waits, in small batches; its sets are
//! loaded into free room only and are the first to leave.

use std::time::Instant;

use super::admission::Demand;
use super::request::Ran;
use super::{Answer, Config, Error, Handle, Limit, Permit};
use crate::fair::Class;
use crate::ids::{TenantId, VersionRef};
use crate::model::{Pictures, Readout};

/// Part of the queue's clips that is added for work that nobody waits for.
const CLIPS: usize = 4;
/// Part of the queue's bytes that is added for it.
const BYTES: u64 = 8;

/// Room in the queue for work that nobody waits for; dropping it frees the room.
#[derive(Debug)]
pub struct Spare(Permit);

impl Config {
    /// Returns the room for work that nobody waits for, which is not part of the queue's.
    pub(super) fn spare(&self) -> Demand {
        Demand {
            clips: (self.queue_clips / CLIPS).max(1),
            bytes: self.queue_bytes / BYTES,
        }
    }
}

impl Handle {
    /// Reserves room for clips that nobody waits for, unless requests wait now.
    ///
    /// # Errors
    /// [`Error::QueueFull`] while requests wait or there is no room, [`Error::TooManyClips`], [`Error::TooManyBytes`], [`Error::NotReady`],
    /// [`Error::Stopped`].
    pub fn admit_spare(
        &self,
        tenant: &TenantId,
        clips: usize,
        frames: usize,
    ) -> Result<Spare, Error> {
        if !*self.core.ready.borrow() {
            return Err(Error::NotReady);
        }
        if self.core.queue.is_wanted() {
            let limit = Limit::Queue;
            return Err(Error::QueueFull { clips, limit });
        }
        let frame = (size_of::<f32>() * self.core.backbone.config().frame_len()) as u64;
        let bytes = frame.saturating_mul((clips * frames) as u64);
        let demand = Demand { clips, bytes };
        let permit = self.core.spare.admit((tenant, Class::Batch), demand)?;
        Ok(Spare(permit))
    }

    /// Classifies clips with a version when no request waits.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when requests came first until the deadline, [`Error::NoRoom`] when the version is not resident, and those of
    /// [`Handle::classify`].
    pub async fn classify_spare(
        &self,
        Spare(permit): Spare,
        version: &VersionRef,
        clips: Vec<impl Into<Pictures>>,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let clips: Vec<Pictures> = clips.into_iter().map(Into::into).collect();
        let values: usize = clips.iter().map(Pictures::values).sum();
        let bytes = (values * size_of::<f32>()) as u64;
        let count = clips.len();
        let demand = Demand {
            clips: count,
            bytes,
        };
        if !permit.covers(demand) {
            let (clips, limit) = (count, Limit::Permit);
            return Err(Error::QueueFull { clips, limit });
        }
        let running = self
            .core
            .run_spare(permit.tenant(), version, clips, deadline);
        let ran = tokio::time::timeout_at(deadline.into(), running).await;
        let ran: Ran = ran.unwrap_or(Err(Error::DeadlineExceeded))?;
        Ok(ran.into())
    }
}

impl super::Core {
    async fn run_spare(
        &self,
        tenant: &TenantId,
        version: &VersionRef,
        clips: Vec<Pictures>,
        deadline: Instant,
    ) -> Result<Ran, Error> {
        let pin = self.residency.spare(version)?;
        let ready = self.pinned(pin, Readout::Logits, clips)?;
        let mut queued = Vec::new();
        let pending = self.pending(tenant, ready, Some(deadline), &mut queued);
        self.queue.push_spare(tenant, queued);
        self.device.wake();
        pending.uncounted().await
    }
}
