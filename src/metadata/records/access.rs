//! Tenants and API keys on record.
//!
//! Invariant: a record has hashes of secrets, never a secret.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cursor, Timestamp};
use crate::fair::Weight;
use crate::ids::{KeyId, TaskId, TenantId};
use crate::spec::{Digest, Rate, Scopes};

/// Whether a tenant's callers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Requests of the tenant are served.
    Active,
    /// Requests of the tenant are refused; nothing of it is deleted.
    Suspended,
    /// Requests of the tenant are refused, and all of it is being deleted, or was.
    Erasing,
}

/// What a tenant may store and use; `None` means that the server's settings apply, which limit unfinished jobs, open uploads and streams, and other things
/// where the operator says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Most videos.
    pub videos: Option<u64>,
    /// Most bytes of videos and adapter versions.
    pub bytes: Option<u64>,
    /// Most tasks.
    pub tasks: Option<u64>,
    /// Most adapter versions.
    pub versions: Option<u64>,
    /// Most unfinished jobs.
    pub jobs: Option<u32>,
    /// Most examples of data sets.
    pub examples: Option<u64>,
    /// Most bytes of unfinished uploads.
    pub upload_bytes: Option<u64>,
    /// Limits of a second.
    pub rates: Rates,
    /// Limits of what is under way at once.
    pub at_once: AtOnce,
}

/// What a tenant may have under way at once, in each process by itself; `None` means as much as the process's settings say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AtOnce {
    /// Calls of the API that are not answered to their end.
    pub requests: Option<u32>,
    /// Client streams, live ones aside.
    pub streams: Option<u32>,
    /// Live streams.
    pub live_streams: Option<u32>,
    /// Clips between admission and answer.
    pub clips: Option<u32>,
}

impl AtOnce {
    /// Returns the same limits, with those of `others` where this has none.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            requests: self.requests.or(others.requests),
            streams: self.streams.or(others.streams),
            live_streams: self.live_streams.or(others.live_streams),
            clips: self.clips.or(others.clips),
        }
    }
}

/// What a tenant may use in a second, of all servers together; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Frames of classified clips, each as often as it runs through a version.
    pub clip_frames: Option<u64>,
    /// Calls of the API.
    pub requests: Option<u64>,
}

impl Rates {
    /// The limit of one of the rates.
    pub fn get(self, rate: Rate) -> Option<u64> {
        match rate {
            Rate::ClipFrames => self.clip_frames,
            Rate::Requests => self.requests,
        }
    }
}

/// How long a tenant's things stay; `None` means as long as those of all tenants, of videos that they stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stay {
    /// Videos that no data set and no unfinished job names, from their upload on.
    pub videos: Option<Duration>,
    /// Jobs that have ended, from their end on.
    pub jobs: Option<Duration>,
    /// Unfinished uploads, from the last write on.
    pub uploads: Option<Duration>,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = [
            ("videos", self.videos),
            ("jobs", self.jobs),
            ("uploads", self.uploads),
        ];
        write_all(
            f,
            times.map(|(name, time)| (name, time.map(|time| time.as_secs()))),
        )
    }
}

/// Writes `name=value` for each, with spaces between them.
fn write_all<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    values: [(&str, Option<u64>); N],
) -> fmt::Result {
    for (place, (name, value)) in values.into_iter().enumerate() {
        let gap = if place == 0 { "" } else { " " };
        match value {
            Some(value) => write!(f, "{gap}{name}={value}")?,
            None => write!(f, "{gap}{name}=none")?,
        }
    }
    Ok(())
}

/// What every server keeps in memory of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether the tenant's callers are served.
    pub state: TenantState,
    /// Share of the tenant, relative to the others' weights.
    pub weight: Weight,
    /// Limits of a second.
    pub rates: Rates,
    /// Limits of what is under way at once.
    pub at_once: AtOnce,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            state: TenantState::Active,
            weight: Weight::ONE,
            rates: Rates::default(),
            at_once: AtOnce::default(),
        }
    }
}

impl fmt::Display for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = self.jobs.map(u64::from);
        let at_once = |limit: Option<u32>| limit.map(u64::from);
        let limits = [
            ("videos", self.videos),
            ("bytes", self.bytes),
            ("tasks", self.tasks),
            ("versions", self.versions),
            ("unfinished_jobs", jobs),
            (Quota::Examples.name(), self.examples),
            ("open_upload_bytes", self.upload_bytes),
            (Rate::ClipFrames.name(), self.rates.clip_frames),
            (Rate::Requests.name(), self.rates.requests),
            ("concurrent_requests", at_once(self.at_once.requests)),
            ("concurrent_streams", at_once(self.at_once.streams)),
            (
                "concurrent_live_streams",
                at_once(self.at_once.live_streams),
            ),
            ("admitted_clips", at_once(self.at_once.clips)),
        ];
        write_all(f, limits)
    }
}

/// Amounts that a tenant stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Number of videos.
    pub videos: u64,
    /// Bytes of videos and adapter versions.
    pub bytes: u64,
    /// Number of tasks.
    pub tasks: u64,
    /// Number of adapter versions.
    pub versions: u64,
    /// Number of unfinished jobs.
    pub jobs: u64,
    /// Number of examples of data sets.
    pub examples: u64,
    /// Bytes of unfinished uploads, those of parts that are being written included.
    pub upload_bytes: u64,
}

/// Quantity of what a tenant stores that a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Number of videos.
    Videos,
    /// Bytes of videos and adapter versions.
    Bytes,
    /// Number of tasks.
    Tasks,
    /// Number of adapter versions; an unfinished job counts as the version that it may become.
    Versions,
    /// Number of examples of data sets.
    Examples,
    /// Number of data sets, those that are being removed included; the limit is the same for every tenant.
    Datasets,
    /// Number of API keys, those that have ended included; the limit is the same for every tenant.
    Keys,
}

impl Quota {
    /// The name of the quota, as the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Videos => "videos",
            Self::Bytes => "bytes",
            Self::Tasks => "tasks",
            Self::Versions => "versions",
            Self::Examples => "dataset_examples",
            Self::Datasets => "datasets",
            Self::Keys => "keys",
        }
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRecord {
    /// Id of the tenant.
    pub id: TenantId,
    /// Name of the tenant for people.
    pub display_name: String,
    /// Whether the tenant's callers are served.
    pub state: TenantState,
    /// What the tenant may store.
    pub quotas: Quotas,
    /// What the tenant stores.
    pub stored: Stored,
    /// Share of the tenant, relative to the others' weights.
    pub weight: Weight,
    /// How long the tenant's things stay.
    pub stay: Stay,
    /// Etag of the tenant, which differs after every change of it.
    pub etag: String,
    /// Time when the tenant was created.
    pub create_time: Timestamp,
}

/// Changes of a tenant; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantUpdate {
    /// Name of the tenant or key for people.
    pub display_name: Option<String>,
    /// Whether the tenant's callers are served.
    pub state: Option<TenantState>,
    /// What the tenant may store and use: all limits together.
    pub quotas: Option<Quotas>,
    /// Share of the tenant, relative to the others' weights.
    pub weight: Option<Weight>,
    /// How long the tenant's things stay: all times together.
    pub stay: Option<Stay>,
}

/// Method by which a secret was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKind {
    /// SHA-256.
    Sha256,
    /// HMAC with SHA-256, whose key is the server's pepper.
    HmacSha256,
}

/// Hash of a key's secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash {
    /// How the secret was hashed.
    pub kind: HashKind,
    /// Hash of the secret.
    pub digest: Digest,
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash verifies guesses, so it is kept out of logs as well.
        write!(f, "SecretHash({:?})", self.kind)
    }
}

/// The secret that a rotation replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousSecret {
    /// Hash of the secret.
    pub hash: SecretHash,
    /// Time from which the secret is refused.
    pub end: Timestamp,
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Public part of the key.
    pub id: KeyId,
    /// Tenant of the key's callers; `None` for an operator's key.
    pub tenant: Option<TenantId>,
    /// Name of the key for people.
    pub display_name: String,
    /// What the key's callers may do.
    pub scopes: Scopes,
    /// Tasks that the key's callers may classify with; `None` for all.
    pub tasks: Option<BTreeSet<TaskId>>,
    /// Hash of the newest secret.
    pub hash: SecretHash,
    /// Secret before the rotation, while it is still accepted.
    pub previous: Option<PreviousSecret>,
    /// Principal that created the key.
    pub created_by: String,
    /// Time when the key was created.
    pub create_time: Timestamp,
    /// Time from which the key is refused; `None` for never.
    pub expire_time: Option<Timestamp>,
    /// Time when the key was revoked.
    pub revoke_time: Option<Timestamp>,
    /// Day of the newest use, in days since the Unix epoch.
    pub last_use: Option<i64>,
}

/// A key and the state of its tenant, which both decide whether a caller is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// Record of the key.
    pub key: KeyRecord,
    /// State of the key's tenant; active for an operator's key.
    pub state: TenantState,
}

/// A key that is about to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Public part of the key.
    pub id: KeyId,
    /// Tenant of the key's callers; `None` for an operator's key.
    pub tenant: Option<TenantId>,
    /// Name of the key for people.
    pub display_name: String,
    /// What the key's callers may do.
    pub scopes: Scopes,
    /// Tasks that the key's callers may classify with; `None` for all.
    pub tasks: Option<BTreeSet<TaskId>>,
    /// Hash of the secret.
    pub hash: SecretHash,
    /// Principal that creates the key.
    pub created_by: String,
    /// Time for which the key is accepted; `None` for ever.
    pub lifetime: Option<Duration>,
}

/// Author of a change, as the audit log records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Principal that makes the change, for example `keys/{key_id}`.
    pub principal: String,
    /// Address that the call came from; empty when it came from none.
    pub source: String,
    /// Id of the call, as the log has it; empty when there was none.
    pub request_id: String,
}

/// Refused credentials of one source, summed up for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Address that the calls came from.
    pub source: String,
    /// Path of the method that was called last.
    pub called: String,
    /// Reason of the last refusal, and how many came before it.
    pub detail: String,
}

/// A change of a tenant, a key or a resource of a tenant, or refused credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Id of the record, in the order of time.
    pub id: String,
    /// Time of the change.
    pub time: Timestamp,
    /// Tenant of what was changed; `None` for operators' keys.
    pub tenant: Option<TenantId>,
    /// Author of the change.
    pub actor: Actor,
    /// Method that made the change, as the API calls it.
    pub method: String,
    /// Name of what was changed, for example `keys/{key_id}`.
    pub resource: String,
    /// New state of what was changed, for example its scopes.
    pub detail: String,
}

/// Keys that an administrator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// Every key.
    Any,
    /// The keys of one tenant.
    Tenant(TenantId),
}

/// Change of the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessChange {
    /// A key.
    Key(KeyId),
    /// A tenant.
    Tenant(TenantId),
}

/// A page of the feed of changes of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessChanges {
    /// The changes, oldest first.
    pub changes: Vec<AccessChange>,
    /// Where the next page begins.
    pub cursor: Cursor,
    /// Whether changes were missed, so that everything kept has to be dropped.
    pub is_gap: bool,
    /// Whether the feed was read to its end.
    pub is_last: bool,
}
