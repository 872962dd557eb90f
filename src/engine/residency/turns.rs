//! Turns of loads: a few at a time, fair by tenant.
//!
//! Invariant: never more turns than there are; a tenant without a turn waits for at most one load of each other tenant before its next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::engine::Error;
use crate::fair::{self, Verdict, Weights};
use crate::ids::TenantId;

/// Hands out turns; clones share them.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>, Arc<dyn Weights>);

struct State {
    free: usize,
    // A plain mutex guards it: it is held for a few steps in memory, never across an await.
    waiting: fair::Queue<oneshot::Sender<Turn>>,
}

/// A turn; dropping it hands it to the next load.
pub(super) struct Turn {
    /// Taken when the turn was handed on already.
    home: Option<Turns>,
}

impl Turns {
    pub(super) fn new(turns: usize, weights: Arc<dyn Weights>) -> Self {
        let state = State {
            free: turns,
            waiting: fair::Queue::default(),
        };
        Self(Arc::new(Mutex::new(state)), weights)
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the turns are gone.
    pub(super) async fn wait(&self, tenant: &TenantId) -> Result<Turn, Error> {
        let weight = self.1.of(tenant);
        let waiting = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(self.turn());
            }
            let (sender, waiting) = oneshot::channel();
            state.waiting.push((tenant, weight), 1, sender);
            waiting
        };
        waiting.await.map_err(|_| Error::Stopped)
    }

    /// A turn that nobody waits for, if there is one.
    pub(super) fn free(&self) -> Option<Turn> {
        let mut state = self.lock();
        state.free = state.free.checked_sub(1)?;
        Some(self.turn())
    }

    /// Number of a tenant's loads that wait for a turn.
    pub(super) fn waiting(&self, tenant: &TenantId) -> usize {
        self.lock().waiting.len_of(tenant)
    }

    fn turn(&self) -> Turn {
        let home = Some(self.clone());
        Turn { home }
    }

    /// Hands a turn to whoever is next.
    fn hand_on(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.waiting.take(|_| Verdict::Take, &mut Vec::new());
                if next.is_none() {
                    state.waiting.rest();
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else {
                return;
            };
            match next.item.send(self.turn()) {
                Ok(()) => return,
                // Whoever waited has left, so the turn is still to be handed on, by this loop.
                Err(mut turn) => turn.home = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.home.take() {
            turns.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair::Equal;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_tenant_with_many_loads_delays_anothers_only_one_by_one_load() {
        let turns = Turns::new(2, Arc::new(Equal));
        let (many, one) = (tenant("many"), tenant("one"));
        let first = turns.wait(&many).await.unwrap();
        let _second = turns.wait(&many).await.unwrap();
        let mut waiting: Vec<_> = (0..98).map(|_| Box::pin(turns.wait(&many))).collect();
        for load in &mut waiting {
            assert!(futures::poll!(load.as_mut()).is_pending());
        }
        let mut own = Box::pin(turns.wait(&one));
        assert!(futures::poll!(own.as_mut()).is_pending());
        assert_eq!((turns.waiting(&many), turns.waiting(&one)), (98, 1));
        assert!(turns.free().is_none());
        drop(first);
        let next = futures::poll!(own.as_mut());
        if next.is_pending() {
            // A load of the other tenant, which came first, went first; the next turn is this one's.
            let before = futures::poll!(waiting[0].as_mut());
            assert!(before.is_ready());
            drop(before);
            assert!(futures::poll!(own.as_mut()).is_ready());
        }
    }

    #[tokio::test]
    async fn a_turn_of_someone_who_left_goes_on() {
        let turns = Turns::new(1, Arc::new(Equal));
        let own = tenant("a");
        let turn = turns.wait(&own).await.unwrap();
        let mut left = Box::pin(turns.wait(&own));
        assert!(futures::poll!(left.as_mut()).is_pending());
        let mut next = Box::pin(turns.wait(&own));
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(left);
        drop(turn);
        drop(next.await.unwrap());
        assert!(turns.free().is_some(), "all turns are back");
    }
}
