//! Work that keeps what is prepared after it from the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use frameshift::device::{self, Step, Walk};

use crate::server::until;

/// Work that nobody waits for and that has no end until it is told: what is prepared after it gets no slice meanwhile.
pub(crate) struct Endless(Arc<AtomicBool>);

impl Endless {
    /// Starts it on a device, and waits for its first slice.
    pub(crate) async fn start(device: &device::Handle) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let (own, walk) = (device.clone(), Self(has_ended.clone()));
        let before = device.stats().serving_slices;
        tokio::spawn(async move { own.prepare(walk).await });
        until(|| async { device.stats().serving_slices > before }).await;
        Self(has_ended)
    }

    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Walk for Endless {
    type Output = ();

    fn advance(&mut self) -> Step {
        std::thread::sleep(Duration::from_millis(1));
        match self.0.load(Ordering::SeqCst) {
            true => Step::Done,
            false => Step::More,
        }
    }

    fn finish(self) {}
}
