//! Rates of tenants.

use std::time::Duration;

/// A quantity of which a tenant may have so much in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rate {
    /// Frames of classified clips, each as often as it runs through a version.
    ClipFrames,
    /// Calls of the API.
    Requests,
}

impl Rate {
    /// Every rate.
    pub const ALL: [Self; 2] = [Self::ClipFrames, Self::Requests];

    /// The name of the limit, as the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipFrames => "clip_frames_per_second",
            Self::Requests => "requests_per_second",
        }
    }
}

/// Reason why a tenant gets nothing now: it has used what it may have in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant may have {limit} {}, and has used them", rate.name())]
pub struct RateExceeded {
    /// Quantity that is limited.
    pub rate: Rate,
    /// Limit of the tenant, of all servers together.
    pub limit: u64,
    /// Time until there is some again; `None` for a limit of 0.
    pub wait: Option<Duration>,
}
