//! What the callers of one connection have shown: a connection with bad credentials alone is read slowly, so that a flood of them costs little.
//!
//! Invariant: a connection on which a credential was accepted is never held back again, whatever else comes on it; a pause is never longer than [`LONGEST`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// Calls that may be refused on a connection before it is read slowly, where its address is not crowded: of callers without a credential, for example, which no
/// address is charged for.
const FREE: u32 = 1000;
/// Pause after each read of a connection that is read slowly, and for each refusal on it.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, much shorter than the time that pings of either side may take.
const LONGEST: Duration = Duration::from_secs(2);
/// Most bytes of a read of a connection that is read slowly: some tens of calls.
pub(super) const SIP: usize = 1 << 10;

/// The standing of a connection; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// A plain mutex, because it is held for a comparison and never across an await.
    state: Mutex<State>,
    /// The reader of the connection, while it pauses.
    reader: AtomicWaker,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// No credential was accepted, and so many were refused.
    Unknown(u32),
    /// Credentials were refused, none was accepted, and the connection is read at this time.
    Slow(Instant),
    /// A credential was accepted.
    Proven,
}

impl Default for State {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

impl Standing {
    /// Notes that a credential was accepted.
    pub(super) fn proven(&self) {
        let before = std::mem::replace(&mut *self.lock(), State::Proven);
        if let State::Slow(_) = before {
            self.0.reader.wake();
        }
    }

    /// Notes that a credential was refused, and whether that was so because too many of its address were.
    pub(super) fn refused(&self, is_crowded: bool) {
        let mut state = self.lock();
        match *state {
            State::Unknown(refused) if !is_crowded && refused < FREE => {
                *state = State::Unknown(refused + 1);
            }
            State::Unknown(_) => *state = State::Slow(Instant::now() + PAUSE),
            State::Slow(until) => *state = State::Slow(later(until)),
            State::Proven => {}
        }
    }

    /// Whether the connection is read slowly.
    pub(super) fn is_slow(&self) -> bool {
        matches!(*self.lock(), State::Slow(_))
    }

    /// The time at which the connection is to be read, when that is not now.
    fn pause(&self) -> Option<Instant> {
        match *self.lock() {
            State::Slow(until) if until > Instant::now() => Some(until),
            State::Slow(_) | State::Unknown(_) | State::Proven => None,
        }
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
        let mut state = self.lock();
        if let State::Slow(until) = *state {
            *state = State::Slow(later(until));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a pause that becomes longer.
fn later(until: Instant) -> Instant {
    let now = Instant::now();
    (until.max(now) + PAUSE).min(now + LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_bad_credentials_is_read_slowly_until_a_good_one_comes() {
        let standing = Standing::default();
        for _ in 0..FREE {
            standing.refused(false);
            standing.read();
            assert_eq!(standing.pause(), None, "a mistake costs nothing");
        }
        standing.refused(false);
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
        standing.read();
        assert_eq!(standing.pause(), Some(Instant::now() + 2 * PAUSE));
        (0..100).for_each(|_| standing.refused(true));
        assert_eq!(standing.pause(), Some(Instant::now() + LONGEST));
        tokio::time::advance(LONGEST).await;
        assert_eq!((standing.pause(), standing.is_slow()), (None, true));
        standing.read();
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
        standing.proven();
        (0..100).for_each(|_| standing.refused(true));
        assert_eq!((standing.pause(), standing.is_slow()), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_too_many_refused_credentials_is_slow_at_once() {
        let standing = Standing::default();
        standing.refused(true);
        assert_eq!(standing.pause(), Some(Instant::now() + PAUSE));
    }
}
