//! Tenants and API keys on record.
//!
//! Invariant: a record has hashes of secrets, never a secret.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cursor, Timestamp};
use crate::ids::{KeyId, TaskId, TenantId};
use crate::spec::{Digest, Scopes};

/// Whether a tenant's callers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Requests of the tenant are served.
    Active,
    /// Requests of the tenant are refused; nothing of it is deleted.
    Suspended,
}

/// What a tenant may store; `None` means no limit, of unfinished jobs that of all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Videos.
    pub videos: Option<u64>,
    /// Bytes of videos and adapter versions.
    pub bytes: Option<u64>,
    /// Tasks.
    pub tasks: Option<u64>,
    /// Adapter versions.
    pub versions: Option<u64>,
    /// Unfinished jobs.
    pub jobs: Option<u32>,
}

impl fmt::Display for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = self.jobs.map(u64::from);
        let limits = [
            ("videos", self.videos),
            ("bytes", self.bytes),
            ("tasks", self.tasks),
            ("versions", self.versions),
            ("unfinished_jobs", jobs),
        ];
        for (place, (name, limit)) in limits.into_iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            match limit {
                Some(limit) => write!(f, "{gap}{name}={limit}")?,
                None => write!(f, "{gap}{name}=none")?,
            }
        }
        Ok(())
    }
}

/// What a tenant stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Videos.
    pub videos: u64,
    /// Bytes of videos and adapter versions.
    pub bytes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Adapter versions.
    pub versions: u64,
    /// Unfinished jobs.
    pub jobs: u64,
}

/// A kind of thing of which a tenant may store so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Videos.
    Videos,
    /// Bytes of videos and adapter versions.
    Bytes,
    /// Tasks.
    Tasks,
    /// Adapter versions; an unfinished job counts as the version that it may become.
    Versions,
    /// API keys, those that have ended included. Their number is the same for every tenant.
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
    /// Changes with everything that is changed of the tenant.
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
    /// What the tenant may store: all limits together.
    pub quotas: Option<Quotas>,
}

/// How a secret was hashed.
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
    /// The secret before, while it is still accepted.
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

/// A change of a tenant or a key.
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
    /// The method, as the API calls it.
    pub method: String,
    /// Name of what was changed, for example `keys/{key_id}`.
    pub resource: String,
    /// What it became, for example its scopes.
    pub detail: String,
}

/// Which keys an administrator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// Every key.
    Any,
    /// The keys of one tenant.
    Tenant(TenantId),
}

/// What changed of the credentials.
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
