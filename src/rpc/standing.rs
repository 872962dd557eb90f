//! What the callers of one connection have shown: a connection with bad credentials alone is read slowly, and ended after a while, so that a flood of them
//! costs little.
//!
//! Invariant: a connection on which a credential was accepted is never held back again, whatever else comes on it; a pause is never longer than [`LONGEST`], and
//! pauses follow refusals: what comes without them, such as the rest of calls that were given up, is read nearly as fast as ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::telemetry::Metrics;

/// Calls that may be refused on a connection before it is read slowly, where its address is not crowded: of callers without a credential, for example, which no
/// address is charged for.
const FREE: u32 = 1000;
/// Calls that may be refused on a connection, because too many of its address were, before it is read slowly: a good key that nobody has used yet is among them
/// while others at its address try bad ones, and is tried again.
const FREE_CROWDED: u32 = 32;
/// Pause for each refusal on a connection that is read slowly.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause: one after another, they keep back what comes behind refused calls, also answers to pings, until the connection is ended ([`SLOW`]).
const LONGEST: Duration = Duration::from_secs(2);
/// Pause after each read of a connection that is read slowly, in which its calls are refused.
const SETTLE: Duration = Duration::from_millis(5);
/// Most bytes of the first read of a connection that is read slowly, and of one after a refusal: some tens of calls. It doubles with each read without one.
pub(super) const SIP: usize = 1 << 10;
/// Most bytes of any read of a connection that is read slowly.
const DRAUGHT: usize = 1 << 16;
/// Time for which a connection is read slowly before it is ended: it holds a place, and what its client has sent.
pub(super) const SLOW: Duration = Duration::from_secs(60);

/// The standing of a connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Standing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A plain mutex, because it is held for a comparison and never across an await.
    state: Mutex<State>,
    /// The reader of the connection, while it pauses.
    reader: AtomicWaker,
    metrics: Metrics,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// No credential was accepted, and so many were refused, some of them because too many of the address were.
    Unknown { refused: u32, crowded: u32 },
    /// Credentials were refused, and none was accepted.
    Slow(Slow),
    /// A credential was accepted.
    Proven,
}

#[derive(Debug, Clone, Copy)]
struct Slow {
    since: Instant,
    /// The time at which the connection is read.
    until: Instant,
    /// Most bytes of that read.
    most: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Slow(_) = state {
            self.metrics.slow_connections(-1);
        }
    }
}

impl Standing {
    pub(super) fn new(metrics: Metrics) -> Self {
        let state = State::Unknown {
            refused: 0,
            crowded: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            reader: AtomicWaker::new(),
            metrics,
        }))
    }

    /// Notes that a credential was accepted.
    pub(super) fn proven(&self) {
        let before = std::mem::replace(&mut *self.lock(), State::Proven);
        if let State::Slow(_) = before {
            self.0.metrics.slow_connections(-1);
            self.0.reader.wake();
        }
    }

    /// Notes that a credential was refused, and whether that was so because too many of its address were.
    pub(super) fn refused(&self, is_crowded: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        match &mut *state {
            State::Unknown { refused, crowded } => {
                *refused += 1;
                *crowded += u32::from(is_crowded);
                if *refused > FREE || *crowded > FREE_CROWDED {
                    *state = State::Slow(Slow {
                        since: now,
                        until: now + PAUSE,
                        most: SIP,
                    });
                    self.0.metrics.slow_connections(1);
                }
            }
            State::Slow(slow) => {
                slow.until = (slow.until.max(now) + PAUSE).min(now + LONGEST);
                slow.most = SIP;
            }
            State::Proven => {}
        }
    }

    fn slow(&self) -> Option<Slow> {
        match *self.lock() {
            State::Slow(slow) => Some(slow),
            State::Unknown { .. } | State::Proven => None,
        }
    }

    /// Whether the connection was read slowly for so long that it is to end.
    pub(super) fn is_over(&self) -> bool {
        let slow = self.slow();
        slow.is_some_and(|slow| slow.since.elapsed() >= SLOW)
    }

    /// Most bytes of the next read of a connection that is read slowly.
    pub(super) fn most(&self) -> Option<usize> {
        self.slow().map(|slow| slow.most)
    }

    /// The time at which the connection is to be read, when that is not now.
    fn pause(&self) -> Option<Instant> {
        let until = self.slow()?.until;
        (until > Instant::now()).then_some(until)
    }

    /// As [`Standing::pause`]; `waker` is woken when a credential is accepted meanwhile.
    pub(super) fn pause_of(&self, waker: &Waker) -> Option<Instant> {
        self.pause()?;
        self.0.reader.register(waker);
        // A credential may have been accepted before the waker was there.
        self.pause()
    }

    /// Notes that the connection was read.
    pub(super) fn read(&self) {
        if let State::Slow(slow) = &mut *self.lock() {
            slow.until = slow.until.max(Instant::now() + SETTLE);
            slow.most = (2 * slow.most).min(DRAUGHT);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> (Standing, Metrics) {
        let metrics = Metrics::new();
        (Standing::new(metrics.clone()), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_bad_credentials_is_read_slowly_until_a_good_one_comes() {
        let (standing, metrics) = new();
        for _ in 0..FREE {
            standing.refused(false);
            standing.read();
            assert_eq!(standing.pause(), None, "a mistake costs nothing");
        }
        standing.refused(false);
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
        (0..100).for_each(|_| standing.refused(true));
        assert_eq!(standing.pause(), Some(Instant::now() + LONGEST));
        tokio::time::advance(LONGEST).await;
        assert_eq!((standing.pause(), standing.most()), (None, Some(SIP)));
        standing.refused(true);
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
        let text = metrics.text();
        assert!(text.contains("frameshift_slow_connections 1"), "{text}");
        standing.proven();
        (0..100).for_each(|_| standing.refused(true));
        assert_eq!((standing.pause(), standing.most()), (None, None));
        let text = metrics.text();
        assert!(text.contains("frameshift_slow_connections 0"), "{text}");
        assert!(text.contains("frameshift_connections_slowed_total 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_too_many_refused_credentials_is_slow_soon() {
        let (standing, metrics) = new();
        for _ in 0..FREE_CROWDED {
            standing.refused(true);
            assert_eq!(standing.pause(), None, "a good key may come again");
        }
        standing.refused(true);
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
        drop(standing);
        assert!(metrics.text().contains("frameshift_slow_connections 0"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_without_refusals_is_read_faster_and_faster() {
        let (standing, _) = new();
        (0..=FREE_CROWDED).for_each(|_| standing.refused(true));
        tokio::time::advance(PAUSE).await;
        let (begun, mut bytes) = (Instant::now(), 0);
        while bytes < 16 << 20 {
            assert_eq!(standing.pause(), None);
            bytes += standing.most().unwrap();
            standing.read();
            tokio::time::advance(SETTLE).await;
        }
        assert!(begun.elapsed() < 2 * LONGEST, "{:?}", begun.elapsed());
        standing.refused(true);
        assert_eq!(standing.most(), Some(SIP));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_slow_for_so_long_only() {
        let (standing, _) = new();
        assert!(!standing.is_over());
        (0..=FREE_CROWDED).for_each(|_| standing.refused(true));
        for _ in 1..SLOW.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            standing.refused(true);
            assert!(!standing.is_over());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(standing.is_over());
        standing.proven();
        assert!(!standing.is_over());
    }
}
