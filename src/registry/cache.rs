//! Values in memory by name, bounded by their weight; the one used longest ago is evicted first.
//!
//! Invariant: the weights in the cache never exceed the bound, and a value read before a removal is never inserted after it: a read takes a ticket
//! first, and a removal voids all tickets. We have our own because ready-made caches divide their bound among shards, where a large file never fits.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Cache<K, V> {
    bound: u64,
    // A plain mutex: it is held for a look-up, never across an await.
    entries: Mutex<Entries<K, V>>,
}

/// A ticket that a read takes before it begins, so that a removal in the meantime is noticed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

struct Entry<V> {
    used: u64,
    weight: u64,
    value: V,
}

struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
    weight: u64,
    uses: u64,
    removals: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(bound: u64) -> Self {
        Self {
            bound,
            entries: Mutex::new(Entries {
                by_key: HashMap::new(),
                by_use: BTreeMap::new(),
                weight: 0,
                uses: 0,
                removals: 0,
            }),
        }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let mut entries = self.lock();
        entries.uses += 1;
        let now = entries.uses;
        let entry = entries.by_key.get_mut(key)?;
        let before = std::mem::replace(&mut entry.used, now);
        let value = entry.value.clone();
        if let Some(key) = entries.by_use.remove(&before) {
            entries.by_use.insert(now, key);
        }
        Some(value)
    }

    /// Begins a read of a value that will be inserted.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.lock().removals)
    }

    /// Inserts a value, unless something was removed since the ticket was taken or the value is heavier than the bound. Returns whether it did.
    pub(super) fn insert(&self, ticket: Ticket, key: K, value: V, weight: u64) -> bool {
        let mut entries = self.lock();
        if entries.removals != ticket.0 || weight > self.bound {
            return false;
        }
        entries.take(&key);
        while entries.weight + weight > self.bound {
            let Some((_, oldest)) = entries.by_use.pop_first() else {
                break;
            };
            entries.take(&oldest);
        }
        entries.uses += 1;
        entries.weight += weight;
        let used = entries.uses;
        entries.by_use.insert(used, key.clone());
        let entry = Entry {
            used,
            weight,
            value,
        };
        entries.by_key.insert(key, entry);
        true
    }

    /// Changes a value in place, and voids all tickets.
    pub(super) fn change(&self, key: &K, change: impl FnOnce(&mut V)) {
        let mut entries = self.lock();
        entries.removals += 1;
        if let Some(entry) = entries.by_key.get_mut(key) {
            change(&mut entry.value);
        }
    }

    pub(super) fn remove(&self, key: &K) {
        let mut entries = self.lock();
        entries.removals += 1;
        entries.take(key);
    }

    /// Removes every value whose name matches. Returns the names.
    pub(super) fn remove_all(&self, is_meant: impl Fn(&K) -> bool) -> Vec<K> {
        let mut entries = self.lock();
        entries.removals += 1;
        let gone: Vec<K> = entries
            .by_key
            .keys()
            .filter(|key| is_meant(key))
            .cloned()
            .collect();
        for key in &gone {
            entries.take(key);
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K, V>> {
        // Every change above leaves the entries whole, so a panic elsewhere does not spoil them.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Entries<K, V> {
    fn take(&mut self, key: &K) {
        if let Some(entry) = self.by_key.remove(key) {
            self.weight -= entry.weight;
            self.by_use.remove(&entry.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let cache = Cache::new(10);
        for (key, weight) in [("a", 4), ("b", 4)] {
            cache.insert(cache.ticket(), key, weight, weight);
        }
        assert_eq!(cache.get("a"), Some(4));
        cache.insert(cache.ticket(), "c", 5, 5);
        assert_eq!(
            [cache.get("a"), cache.get("b"), cache.get("c")],
            [Some(4), None, Some(5)]
        );
        cache.insert(cache.ticket(), "d", 11, 11);
        assert_eq!(
            (cache.get("d"), cache.get("a"), cache.get("c")),
            (None, Some(4), Some(5))
        );
        cache.insert(cache.ticket(), "a", 10, 10);
        assert_eq!((cache.get("a"), cache.get("c")), (Some(10), None));
    }

    #[test]
    fn what_was_read_before_a_removal_does_not_come_in_after_it() {
        let cache = Cache::new(10);
        let early = cache.ticket();
        cache.remove(&"a");
        cache.insert(early, "a", 1, 1);
        assert_eq!(cache.get("a"), None);
        cache.insert(cache.ticket(), "a", 2, 1);
        let early = cache.ticket();
        cache.change(&"a", |value| *value += 1);
        cache.insert(early, "a", 2, 1);
        assert_eq!(cache.get("a"), Some(3));
        cache.remove_all(|key| *key == "a");
        assert_eq!(cache.get("a"), None);
    }
}
