//! Workers that wait in the middle of a long video until its next frames are wanted.
//!
//! Invariant: the number of waiting workers is limited; the one that has waited longest makes room, and its reader gets another that begins where it was.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::nursery::Worker;

/// Workers in the middle of a video, by the ticket of its reader.
pub(super) struct Parked<T = Worker> {
    /// The one that has waited longest first.
    waiting: Mutex<VecDeque<(u64, T)>>,
    room: usize,
}

impl<T> Parked<T> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            waiting: Mutex::new(VecDeque::with_capacity(room)),
            room: room.max(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, T)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a worker wait.
    pub(super) fn put(&self, ticket: u64, worker: T) {
        let mut waiting = self.lock();
        let gone = match waiting.len() >= self.room {
            true => waiting.pop_front(),
            false => None,
        };
        waiting.push_back((ticket, worker));
        drop(waiting);
        drop(gone);
    }

    /// Takes the worker that waits under a ticket, if it still does.
    pub(super) fn take(&self, ticket: u64) -> Option<T> {
        let mut waiting = self.lock();
        let place = waiting.iter().position(|(own, _)| *own == ticket)?;
        waiting.remove(place).map(|(_, worker)| worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waited_longest_makes_room() {
        let parked = Parked::new(2);
        for ticket in 1..=3 {
            parked.put(ticket, ticket * 10);
        }
        assert_eq!(parked.take(1), None);
        assert_eq!(parked.take(3), Some(30));
        assert_eq!(parked.take(3), None);
        parked.put(4, 40);
        assert_eq!((parked.take(2), parked.take(4)), (Some(20), Some(40)));
    }
}
