//! Order of slices: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. A serving item that has started runs to its end; training items take turns after every slice.
//! What serves later is prepared slice by slice while serving wants nothing, and between two serving items, so that a batch waits for one slice of it at most;
//! once somebody waits for it, it is a serving item like others.
//! Once everything of a serving item is enqueued on an accelerator it is parked until its result is there, and the next one may start.
//! While both want the device, training has its share of the time: it is never more than one serving item short of it, nor more than one slice beyond it.
//! What one side does not use is the other's, and nobody is asked to give it back. Owners of training items share its time by their weights,
//! however many items each has.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Config, Owner, Priority};
use crate::fair::Weight;

/// The whole device, in the unit of [`Config::training_share`].
const WHOLE: u32 = 1000;
/// Largest share of training: serving always has a tenth.
const MOST: u32 = 900;
/// Serving items whose results may be on their way while another one starts: with one, an accelerator has the next item before it has finished.
const AHEAD: usize = 1;

/// Next action of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn<K> {
    /// Run one slice of this item, then report it with [`Schedule::ran`] or [`Schedule::gone`].
    Run(K, Priority),
    /// Ask the source for a batch, then report its answer with [`Schedule::formed`].
    Form,
    /// Wait until an item or a wake-up arrives.
    Idle,
}

/// Order of slices over work items, which are identified by key.
#[derive(Debug)]
pub(super) struct Schedule<K> {
    /// Training's share in thousandths.
    share: u32,
    training_bytes: u64,
    /// Serving item that has started.
    current: Option<K>,
    /// Serving items whose results are on their way, the oldest first, and whether the result is there.
    parked: VecDeque<(K, bool)>,
    /// Submitted serving items that have not started.
    serving: VecDeque<K>,
    /// Items that prepare what serves later, the oldest first, and whether only the result of one is missing.
    preparing: VecDeque<(K, bool)>,
    /// Whether a serving item has ended since the last slice of those.
    is_due: bool,
    /// Training items that take turns.
    training: VecDeque<Item<K>>,
    /// Training items that wait for memory.
    waiting: VecDeque<Item<K>>,
    used: u64,
    /// Start-time fair queueing over the owners of training items: when the last slice of each would have ended if it had its share of the device all the
    /// time. Only those are kept that are ahead of `virtual_time`.
    finished: HashMap<Owner, Duration>,
    /// Start of the training slice that ran last, on the clock of `finished`.
    virtual_time: Duration,
    /// Time that training is short of its share, in nanoseconds times the thousandths that serving has; below 0 when training is beyond its share. Counts
    /// only while both want the device.
    owed: i128,
    /// Whether the training slice that runs has the device because serving does not want it.
    is_free: bool,
    /// Whether the source had no batch when it was last asked.
    dry: bool,
    /// Whether the source comes before submitted serving items, so that neither starves the other.
    form_first: bool,
}

/// A training item.
#[derive(Debug)]
struct Item<K> {
    key: K,
    bytes: u64,
    owner: Owner,
    weight: Weight,
}

impl<K: Copy + PartialEq> Schedule<K> {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            share: config.training_share.min(MOST),
            training_bytes: config.training_bytes,
            current: None,
            parked: VecDeque::new(),
            serving: VecDeque::new(),
            preparing: VecDeque::new(),
            is_due: false,
            training: VecDeque::new(),
            waiting: VecDeque::new(),
            used: 0,
            finished: HashMap::new(),
            virtual_time: Duration::ZERO,
            owed: 0,
            is_free: false,
            dry: true,
            form_first: true,
        }
    }

    /// Adds a submitted item.
    pub(super) fn push(
        &mut self,
        key: K,
        priority: Priority,
        (bytes, owner, weight): (u64, Owner, Weight),
    ) {
        match priority {
            Priority::Serving => self.serving.push_back(key),
            Priority::Preparing => self.preparing.push_back((key, false)),
            Priority::Training => {
                self.waiting.push_back(Item {
                    key,
                    bytes,
                    owner,
                    weight,
                });
                self.promote();
            }
        }
    }

    /// Returns the items that prepare what serves later.
    pub(super) fn preparing(&self) -> Vec<K> {
        self.preparing.iter().map(|(key, _)| *key).collect()
    }

    /// Makes an item that prepares a submitted serving item, since somebody waits for it. It goes on with the slice at which it is.
    pub(super) fn hasten(&mut self, key: K) {
        match self.prepared(key) {
            Some(true) => self.parked.push_back((key, false)),
            Some(false) => self.serving.push_back(key),
            None => {}
        }
    }

    /// Records that the source may have a batch again.
    pub(super) fn wake(&mut self) {
        self.dry = false;
    }

    /// Returns the next action.
    pub(super) fn turn(&mut self) -> Turn<K> {
        if let Some(key) = self.result() {
            return Turn::Run(key, Priority::Serving);
        }
        if let Some(key) = self.current {
            return Turn::Run(key, Priority::Serving);
        }
        let training = self.next_training();
        if let Some(key) = training.filter(|_| self.owed > 0) {
            self.is_free = false;
            return Turn::Run(key, Priority::Training);
        }
        // One whose result is on its way has the device wait for it only when nothing else is to be done.
        let mut preparing = self.preparing.iter();
        let preparing = preparing.find(|(_, is_away)| !is_away);
        let preparing = preparing.map(|(key, _)| *key);
        if let Some(key) = preparing.filter(|_| self.is_due) {
            return Turn::Run(key, Priority::Preparing);
        }
        if self.form_first && !self.dry {
            return Turn::Form;
        }
        if let Some(key) = self.serving.pop_front() {
            self.form_first = true;
            self.current = Some(key);
            return Turn::Run(key, Priority::Serving);
        }
        if !self.dry {
            return Turn::Form;
        }
        if let Some(key) = preparing {
            return Turn::Run(key, Priority::Preparing);
        }
        if let Some(key) = training {
            self.is_free = true;
            return Turn::Run(key, Priority::Training);
        }
        // Nothing else is to be done than to wait for the oldest result.
        match (self.parked.front(), self.preparing.front()) {
            (Some((key, _)), _) => Turn::Run(*key, Priority::Serving),
            (None, Some((key, _))) => Turn::Run(*key, Priority::Preparing),
            (None, None) => Turn::Idle,
        }
    }

    /// Returns the parked item that runs before anything else: one whose result is there, or the oldest one when too many are parked.
    fn result(&self) -> Option<K> {
        let ready = self.parked.iter().find(|(_, is_ready)| *is_ready);
        let oldest = self.parked.front().filter(|_| self.parked.len() > AHEAD);
        ready.or(oldest).map(|(key, _)| *key)
    }

    /// Returns the items that serve or prepare whose results are on their way.
    pub(super) fn parked(&self) -> Vec<K> {
        let waiting = self.parked.iter().filter(|(_, is_ready)| !is_ready);
        let prepared = self.preparing.iter().filter(|(_, is_away)| *is_away);
        waiting.chain(prepared).map(|(key, _)| *key).collect()
    }

    /// Records that the result of one of them is there.
    pub(super) fn ready(&mut self, key: K) {
        for (parked, is_ready) in &mut self.parked {
            *is_ready |= *parked == key;
        }
        for (prepared, is_away) in &mut self.preparing {
            *is_away &= *prepared != key;
        }
    }

    /// Records the source's answer: the key of a batch, or `None`.
    pub(super) fn formed(&mut self, key: Option<K>) {
        self.form_first = false;
        self.dry = key.is_none();
        self.current = key;
    }

    /// Records that a slice of this item ran for `took`, and that the item has more slices.
    pub(super) fn ran(&mut self, key: K, took: Duration) {
        self.dry = false;
        if self.current == Some(key) {
            return self.served(took);
        }
        if self.unpark(key) {
            // It has more to do, so it goes on before anything else.
            self.parked.push_front((key, true));
            return self.served(took);
        }
        if self.is_preparing(key, false) {
            self.is_due = false;
            return self.served(took);
        }
        if let Some(item) = self.trained(key, took) {
            self.training.push_back(item);
        }
    }

    /// Records that a slice of this item ran for `took`, and that only its result is missing. Others go first until it is there; a training item takes its turns as before.
    pub(super) fn pending(&mut self, key: K, took: Duration) {
        if self.is_preparing(key, true) {
            self.is_due = false;
            self.dry = false;
            return self.served(took);
        }
        let was_current = self.current == Some(key);
        if !was_current && !self.unpark(key) {
            return self.ran(key, took);
        }
        self.dry = false;
        if was_current {
            self.current = None;
            self.is_due = true;
        }
        self.parked.push_back((key, false));
        self.served(took);
    }

    /// Removes a parked item; false when there is none with this key.
    fn unpark(&mut self, key: K) -> bool {
        let at = self.parked.iter().position(|(parked, _)| *parked == key);
        at.and_then(|at| self.parked.remove(at)).is_some()
    }

    /// Notes whether only the result is missing of an item that prepares; false when there is none with this key.
    fn is_preparing(&mut self, key: K, is_away: bool) -> bool {
        let mut preparing = self.preparing.iter_mut();
        let found = preparing.find(|(own, _)| *own == key);
        found.map(|own| own.1 = is_away).is_some()
    }

    /// Removes an item that prepares. Returns whether only its result was missing; `None` when there is none with this key.
    fn prepared(&mut self, key: K) -> Option<bool> {
        let at = self.preparing.iter().position(|(own, _)| *own == key);
        let (_, is_away) = self.preparing.remove(at?)?;
        Some(is_away)
    }

    /// Records that this item finished or was dropped, after a last slice that ran for `took`.
    pub(super) fn gone(&mut self, key: K, took: Duration) {
        self.dry = false;
        if self.current == Some(key) {
            self.current = None;
            self.is_due = true;
            return self.served(took);
        }
        if self.unpark(key) {
            return self.served(took);
        }
        if self.prepared(key).is_some() {
            self.is_due = false;
            return self.served(took);
        }
        if let Some(item) = self.trained(key, took) {
            self.used -= item.bytes;
            self.promote();
        }
        if self.training.is_empty() {
            // Time that training does not ask for is not saved for it.
            self.owed = self.owed.min(0);
        }
    }

    /// Counts the time of a serving slice, of which training has its share when it waits.
    fn served(&mut self, took: Duration) {
        if !self.training.is_empty() {
            self.owed = self.owed.saturating_add(scaled(took, self.share));
        }
    }

    /// Counts the time of a training slice, and takes its item out of the turns. While serving is idle nobody is short of anything.
    fn trained(&mut self, key: K, took: Duration) -> Option<Item<K>> {
        self.owed = match self.is_free {
            true => 0,
            false => self.owed.saturating_sub(scaled(took, WHOLE - self.share)),
        };
        let at = self.training.iter().position(|item| item.key == key)?;
        let item = self.training.remove(at)?;
        let start = self.start(&item.owner);
        self.virtual_time = start;
        self.finished.insert(
            item.owner.clone(),
            start.saturating_add(took / item.weight.get()),
        );
        self.finished.retain(|_, finished| *finished > start);
        Some(item)
    }

    /// Returns the training item that is next: of the owner that has had least, the one that has waited longest.
    fn next_training(&self) -> Option<K> {
        // The first of equals.
        let next = self
            .training
            .iter()
            .min_by_key(|item| self.start(&item.owner));
        next.map(|item| item.key)
    }

    /// Returns the start of an owner's next slice. Time in which it asked for nothing is not saved for it.
    fn start(&self, owner: &Owner) -> Duration {
        let finished = self.finished.get(owner).copied();
        finished.map_or(self.virtual_time, |finished| {
            finished.max(self.virtual_time)
        })
    }

    /// Removes every training item and returns their keys.
    pub(super) fn drop_training(&mut self) -> Vec<K> {
        self.used = 0;
        self.owed = 0;
        self.training
            .drain(..)
            .chain(self.waiting.drain(..))
            .map(|item| item.key)
            .collect()
    }

    /// Lets waiting training items run, in order, as far as the memory allows; a single item always runs.
    fn promote(&mut self) {
        while let Some(item) = self.waiting.pop_front() {
            let total = self.used.saturating_add(item.bytes);
            if !self.training.is_empty() && total > self.training_bytes {
                return self.waiting.push_front(item);
            }
            self.training.push_back(item);
            self.used = total;
        }
    }
}

/// A time in nanoseconds, times a share.
fn scaled(took: Duration, share: u32) -> i128 {
    i128::try_from(took.as_nanos())
        .unwrap_or(i128::MAX)
        .saturating_mul(share.into())
}

#[cfg(test)]
mod tests;
