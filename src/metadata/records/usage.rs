//! What tenants used, on record.

use crate::ids::{TaskId, TenantId};

use super::Timestamp;

/// Counts of one tenant, task and hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Calls of the API.
    pub requests: u64,
    /// Frames of clips that were answered, each as often as it ran through a version.
    pub clip_frames: u64,
    /// Microseconds of the device.
    pub device_micros: u64,
    /// Microseconds of processors that decoded.
    pub decode_micros: u64,
    /// Bytes of the bodies of calls.
    pub received_bytes: u64,
    /// Bytes of the bodies of answers.
    pub sent_bytes: u64,
}

impl Amounts {
    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        for (own, other) in [
            (&mut self.requests, other.requests),
            (&mut self.clip_frames, other.clip_frames),
            (&mut self.device_micros, other.device_micros),
            (&mut self.decode_micros, other.decode_micros),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.sent_bytes, other.sent_bytes),
        ] {
            *own = own.saturating_add(other);
        }
    }
}

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageKey {
    /// Tenant that used it; `None` for all that were beyond the bound of the counting process's memory.
    pub tenant: Option<TenantId>,
    /// Hour since the Unix epoch.
    pub hour: i64,
    /// Task that it was used for, if any.
    pub task: Option<TaskId>,
}

/// Counts that a process brings together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    /// Name of the process, which no other has.
    pub process: String,
    /// Number of the batch; every batch of a process has a larger one than those before.
    pub sequence: u64,
    /// The counts, each key once.
    pub counts: Vec<(UsageKey, Amounts)>,
}

/// What a tenant asked of one process within a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDemand {
    /// Tenant with limits of a second.
    pub tenant: TenantId,
    /// What was asked for, granted or not.
    pub asked: Amounts,
}

/// What a tenant asked of a process, as the others hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetDemand {
    /// Name of the process.
    pub process: String,
    /// The tenant, and what it asked for.
    pub demand: TenantDemand,
}

/// Length of the spans that usage is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageSpan {
    /// An hour.
    Hour,
    /// A day, from midnight to midnight UTC.
    Day,
}

impl UsageSpan {
    /// Hours of the span.
    pub fn hours(self) -> i64 {
        match self {
            Self::Hour => 1,
            Self::Day => 24,
        }
    }
}

/// Which usage is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// From this hour since the Unix epoch on.
    pub begin: i64,
    /// Up to this hour, which is not part of it.
    pub end: i64,
    /// Spans that are summed over.
    pub span: UsageSpan,
}

/// What a tenant used for a task in one span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Tenant that used it; `None` for all that were beyond the bound of a process's memory.
    pub tenant: Option<TenantId>,
    /// Task that it was used for, if any.
    pub task: Option<TaskId>,
    /// Begin of the span.
    pub begin: Timestamp,
    /// End of the span.
    pub end: Timestamp,
    /// What was counted.
    pub amounts: Amounts,
    /// Frames of the clips of training steps.
    pub trained_clip_frames: u64,
    /// Sum over the hours of the bytes that were stored.
    pub byte_hours: u64,
}
