//! Drain signal: one side asks every loop to finish, and the loops see it.
//!
//! Invariant: a drain is never withdrawn; once a loop has seen it, it stays seen.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Sender that starts the drain. Dropping it starts the drain as well, because nobody is left who could stop the loops later.
#[derive(Debug)]
pub struct Drain {
    token: CancellationToken,
    _at_the_latest: DropGuard,
}

/// Receiver that tells a loop whether the drain has started.
#[derive(Debug, Clone)]
pub struct Signal(CancellationToken);

/// Returns a drain that has not started, and its signal.
pub fn channel() -> (Drain, Signal) {
    let token = CancellationToken::new();
    let drain = Drain {
        token: token.clone(),
        _at_the_latest: token.clone().drop_guard(),
    };
    (drain, Signal(token))
}

impl Drain {
    /// Starts the drain: every holder of the signal is asked to finish.
    pub fn start(&self) {
        self.token.cancel();
    }
}

impl Signal {
    /// Returns whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the drain starts; returns at once when it already has.
    pub async fn draining(&self) {
        self.0.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_reaches_every_signal() {
        let (drain, signal) = channel();
        let other = signal.clone();
        assert!(!signal.is_draining());
        drain.start();
        other.draining().await;
        assert!(signal.is_draining() && other.is_draining());
    }

    #[tokio::test]
    async fn a_lost_drain_asks_too() {
        let (drain, signal) = channel();
        drop(drain);
        signal.draining().await;
        assert!(signal.is_draining());
    }
}
