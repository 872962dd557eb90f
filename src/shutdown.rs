//! Drain signal: one side asks every loop to finish, and the loops see it.
//!
//! Invariant: a drain is never withdrawn; once a loop has seen it, it stays seen.

use tokio::sync::watch;

/// Sender that starts the drain. Dropping it starts the drain as well, because nobody is left who could stop the loops later.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Receiver that tells a loop whether the drain has started.
#[derive(Debug, Clone)]
pub struct Signal(watch::Receiver<bool>);

/// Returns a drain that has not started, and its signal.
pub fn channel() -> (Drain, Signal) {
    let (sender, receiver) = watch::channel(false);
    (Drain(sender), Signal(receiver))
}

impl Drain {
    /// Starts the drain: every holder of the signal is asked to finish.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Signal {
    /// Returns whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until the drain starts; returns at once when it already has.
    pub async fn draining(&mut self) {
        // An error means that the sender was dropped, which requests the drain as well.
        let _ = self.0.wait_for(|draining| *draining).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_reaches_every_signal() {
        let (drain, signal) = channel();
        let mut other = signal.clone();
        assert!(!signal.is_draining());
        drain.start();
        other.draining().await;
        assert!(signal.is_draining() && other.is_draining());
    }

    #[tokio::test]
    async fn a_lost_drain_asks_too() {
        let (drain, mut signal) = channel();
        drop(drain);
        signal.draining().await;
        assert!(signal.is_draining());
    }
}
