//! What the engine holds at a moment: clips between admission and answer, and adapter sets.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Handle, Rate};
use crate::ids::{TenantId, VersionRef};

/// One resident or quarantined adapter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidencyRecord {
    /// Version of the set.
    pub version: VersionRef,
    /// Bytes on the device; 0 when quarantined.
    pub bytes: u64,
    /// Time when a batch last used the set.
    pub last_used: SystemTime,
    /// Whether the set stays because its task is pinned.
    pub is_pinned: bool,
    /// Reason of the quarantine; `None` when the set is resident.
    pub quarantine: Option<Arc<str>>,
}

/// What is in use at a moment, of all tenants together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InUse {
    /// Clips between admission and answer.
    pub clips: usize,
    /// Most clips between admission and answer.
    pub clips_capacity: usize,
    /// Bytes of the planes of those clips.
    pub bytes: u64,
    /// Most bytes of the planes.
    pub bytes_capacity: u64,
    /// Frames of the clips that wait for a batch.
    pub waiting_frames: u64,
    /// Adapter sets in memory.
    pub sets: usize,
    /// Bytes of those sets, also of those that are being loaded.
    pub set_bytes: u64,
    /// How fast the device classifies; `None` before the warm-up.
    pub rate: Option<Rate>,
}

impl Handle {
    /// Returns what is in use now.
    pub fn in_use(&self) -> InUse {
        let core = &self.core;
        let used = core.admission.used();
        let (waiting_frames, rate) = core.queue.state();
        let (sets, set_bytes) = core.residency.size();
        InUse {
            clips: used.clips,
            clips_capacity: core.config.queue_clips,
            bytes: used.bytes,
            bytes_capacity: core.config.queue_bytes,
            waiting_frames,
            sets,
            set_bytes,
            rate,
        }
    }

    /// Returns the tenant's adapter sets that are resident or quarantined.
    pub fn residency(&self, tenant: &TenantId) -> Vec<ResidencyRecord> {
        self.core.residency.records(tenant)
    }

    /// Returns the adapter sets of all tenants that are resident or quarantined.
    pub fn all_residency(&self) -> Vec<ResidencyRecord> {
        self.core.residency.all_records()
    }

    /// Returns whether a version's adapter set is resident.
    pub fn is_resident(&self, version: &VersionRef) -> bool {
        self.core.residency.is_resident(version)
    }

    /// Returns the most bytes of files of versions that one tenant may pin: half of what may be pinned in all.
    pub fn pin_limit(&self) -> u64 {
        self.core.config.pinned_bytes() / 2
    }
}
