//! What a process says of itself to those who look after all of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::ids::VersionRef;
use crate::spec::{Digest, Precision};

/// Most adapter sets that a report names.
pub const REPORTED_SETS: usize = 2000;

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// It serves and trains.
    All,
    /// It only serves.
    Serve,
    /// It only trains.
    Train,
}

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// It takes requests or jobs.
    Ready,
    /// It finishes what it has, and ends.
    Draining,
}

/// An adapter set in a process's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedSet {
    /// Tenant that owns the version.
    pub tenant: String,
    /// Name of the version below its tenant.
    pub version: String,
    /// Bytes of the set; 0 when the version cannot be served there.
    pub bytes: u64,
}

impl ReportedSet {
    /// A set of a version.
    pub fn new(version: &VersionRef, bytes: u64) -> Self {
        Self {
            tenant: version.tenant.to_string(),
            version: version.to_string(),
            bytes,
        }
    }
}

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// What the process is there for.
    pub role: ReplicaRole,
    /// How the process is.
    pub state: ReplicaState,
    /// Release of the program.
    pub release: String,
    /// Digest of the backbone.
    pub backbone: Digest,
    /// Precision in which the backbone computes.
    pub precision: Precision,
    /// Time when the process started.
    pub start_time: Timestamp,
    /// Clips between admission and answer.
    pub used_clips: u64,
    /// Most clips between admission and answer.
    pub clip_capacity: u64,
    /// Number of adapter sets in memory.
    pub resident_sets: u64,
    /// Bytes of the adapter sets in memory.
    pub resident_bytes: u64,
    /// Adapter sets by tenant and version, the first [`REPORTED_SETS`] of them.
    pub sets: Vec<ReportedSet>,
}

/// A process on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRecord {
    /// Name of the process: its machine's, and a suffix that is new at each start.
    pub name: String,
    /// What the process said last.
    pub report: ReplicaReport,
    /// Time when it said so.
    pub report_time: Timestamp,
    /// Time when an operator asked that the process drain.
    pub drain_time: Option<Timestamp>,
    /// How long ago that was.
    pub age: Duration,
}
