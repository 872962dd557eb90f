//! Values of labels that are known when the program is compiled: who called, and why something ended.

use std::fmt;

use crate::ids::TenantId;

/// Caller of a request, as far as the stack knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A caller of this tenant.
    Tenant(TenantId),
    /// A caller whose tenant cannot be read; it is refused.
    Malformed,
    /// A caller whose credential is missing or not accepted.
    Unproven,
    /// An operator, who has no tenant.
    Operator,
    /// A caller of a method that knows no tenants: health, reflection, or no method of the server.
    Nobody,
}

impl Caller {
    /// Label of callers whose tenant cannot be read; no tenant's name begins with an underscore.
    const MALFORMED: &str = "_malformed";
    const UNPROVEN: &str = "_unproven";
    const OPERATOR: &str = "_operator";
    const NOBODY: &str = "_none";
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => tenant.fmt(f),
            Self::Malformed => f.write_str(Self::MALFORMED),
            Self::Unproven => f.write_str(Self::UNPROVEN),
            Self::Operator => f.write_str(Self::OPERATOR),
            Self::Nobody => f.write_str(Self::NOBODY),
        }
    }
}

/// Memory of an accelerator in bytes, and what its uploads took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes of the device, for all processes.
    pub total: u64,
    /// Bytes that this process has taken from the driver.
    pub reserved: u64,
    /// Bytes of them that buffers use.
    pub used: u64,
    /// Time that uploads took since the start, all together.
    pub uploading: std::time::Duration,
}

/// On whose behalf the device ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Classification, and the warming of adapter sets.
    Serving,
    /// Fine-tuning and its evaluation.
    Training,
}

impl DeviceKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Training => "training",
        }
    }
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseKind {
    /// A job that a worker has.
    Job,
    /// What one server at a time does for all.
    Duty,
}

impl LeaseKind {
    pub(super) const ALL: [Self; 2] = [Self::Job, Self::Duty];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Duty => "duty",
        }
    }
}

/// Why a request left the queue without a batch, or never entered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The deadline of the request passed.
    Expired,
    /// The caller of the request left.
    Cancelled,
    /// The queue was full, or the tenant's share of it.
    QueueFull,
    /// The tenant had used its clip-frames of the second.
    RateExceeded,
    /// The queue was too long for its deadline.
    Unreachable,
}

impl Dropped {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
            Self::RateExceeded => "rate_exceeded",
            Self::Unreachable => "deadline_unreachable",
        }
    }
}

/// Why the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionEnd {
    /// As many connections were open as there may be.
    Refused,
    /// The client did not speak HTTP/2 in time.
    Silent,
    /// The server drained.
    Drained,
    /// No credential was accepted on it, and many were refused, for a minute.
    Unproven,
}

impl ConnectionEnd {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Drained => "drained",
            Self::Unproven => "unproven",
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The client's certificate was not accepted, or the client had none.
    Certificate,
    /// The handshake took too long.
    Slow,
    /// Too many handshakes were under way, and this one was the oldest.
    Crowded,
    /// Anything else went wrong: no TLS, an old version, a client that left.
    Broken,
}

impl TlsFailure {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Broken => "broken",
        }
    }
}
