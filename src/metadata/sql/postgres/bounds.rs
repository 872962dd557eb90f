//! How long a server may keep a caller waiting.
//!
//! Invariant: a statement ends a little after its limit on the server at the latest, also when the server has fallen silent without a word: a connection
//! notices that by itself only after many minutes.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::super::super::{Error, Result};

/// Time for the server to say that a statement has taken too long.
const MARGIN: Duration = Duration::from_secs(3);

/// The bounds of a connection.
pub(in super::super) struct Bounds {
    longest: Duration,
    /// The turn of its transaction, where such transactions are limited; held until it ends.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Bounds {
    /// The bounds of a connection whose statements have this limit.
    pub(super) fn new(limit: Duration, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            longest: limit.saturating_add(MARGIN),
            _turn: turn,
        }
    }

    /// Runs a statement within the bounds.
    pub(in super::super) async fn keep<T>(
        &self,
        statement: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.longest, statement).await {
            Ok(done) => Ok(done?),
            Err(late) => Err(Error::Unavailable(late.into())),
        }
    }
}
