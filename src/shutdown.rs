//! Drain and its signal: one side asks every loop to finish, and the loops notice.
//!
//! Invariant: a drain never ends; a loop that has seen it does not see it withdrawn.

use tokio::sync::watch;

/// Requests the drain. Dropping it requests it as well: nobody is left to run for.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Notices the drain.
#[derive(Debug, Clone)]
pub struct Signal(watch::Receiver<bool>);

/// A drain and its signal.
pub fn channel() -> (Drain, Signal) {
    let (sender, receiver) = watch::channel(false);
    (Drain(sender), Signal(receiver))
}

impl Drain {
    /// Asks every holder of the signal to finish.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Signal {
    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the drain.
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
