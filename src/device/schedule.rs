//! Order of slices: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. A serving item that has started runs to its end; while training waits, at most `serving_run`
//! serving items run between two training slices; training items take turns after every slice.

use std::collections::VecDeque;

use super::Priority;

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
    serving_run: u32,
    training_bytes: u64,
    /// Serving item that has started.
    current: Option<K>,
    /// Submitted serving items that have not started.
    serving: VecDeque<K>,
    /// Training items that take turns, each with its bytes.
    training: VecDeque<(K, u64)>,
    /// Training items that wait for memory.
    waiting: VecDeque<(K, u64)>,
    used: u64,
    /// Serving items that ended since the last training slice while training waited.
    run: u32,
    /// Whether the source had no batch when it was last asked.
    dry: bool,
    /// Whether the source comes before submitted serving items, so that neither starves the other.
    form_first: bool,
}

impl<K: Copy + PartialEq> Schedule<K> {
    pub(super) fn new(serving_run: u32, training_bytes: u64) -> Self {
        Self {
            serving_run: serving_run.max(1),
            training_bytes,
            current: None,
            serving: VecDeque::new(),
            training: VecDeque::new(),
            waiting: VecDeque::new(),
            used: 0,
            run: 0,
            dry: true,
            form_first: true,
        }
    }

    /// Adds a submitted item.
    pub(super) fn push(&mut self, key: K, priority: Priority, bytes: u64) {
        match priority {
            Priority::Serving => self.serving.push_back(key),
            Priority::Training => {
                self.waiting.push_back((key, bytes));
                self.promote();
            }
        }
    }

    /// Records that the source may have a batch again.
    pub(super) fn wake(&mut self) {
        self.dry = false;
    }

    /// Returns the next action.
    pub(super) fn turn(&mut self) -> Turn<K> {
        if let Some(key) = self.current {
            return Turn::Run(key, Priority::Serving);
        }
        let training = self.training.front().map(|(key, _)| *key);
        if let Some(key) = training.filter(|_| self.run >= self.serving_run) {
            return Turn::Run(key, Priority::Training);
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
        training.map_or(Turn::Idle, |key| Turn::Run(key, Priority::Training))
    }

    /// Records the source's answer: the key of a batch, or `None`.
    pub(super) fn formed(&mut self, key: Option<K>) {
        self.form_first = false;
        self.dry = key.is_none();
        self.current = key;
    }

    /// Records that a slice of this item ran and that the item has more slices.
    pub(super) fn ran(&mut self, key: K) {
        self.dry = false;
        if self.current == Some(key) {
            return;
        }
        self.run = 0;
        if let Some(front) = self.training.pop_front() {
            self.training.push_back(front);
        }
    }

    /// Records that this item finished or was dropped.
    pub(super) fn gone(&mut self, key: K) {
        self.dry = false;
        if self.current == Some(key) {
            self.current = None;
            self.run = if self.training.is_empty() {
                0
            } else {
                self.run.saturating_add(1)
            };
            return;
        }
        self.run = 0;
        if let Some(at) = self.training.iter().position(|(own, _)| *own == key)
            && let Some((_, bytes)) = self.training.remove(at)
        {
            self.used -= bytes;
            self.promote();
        }
    }

    /// Removes every training item and returns their keys.
    pub(super) fn drop_training(&mut self) -> Vec<K> {
        self.used = 0;
        self.training
            .drain(..)
            .chain(self.waiting.drain(..))
            .map(|(key, _)| key)
            .collect()
    }

    /// Lets waiting training items run, in order, as far as the memory allows; a single item always runs.
    fn promote(&mut self) {
        while let Some((key, bytes)) = self.waiting.front().copied() {
            let total = self.used.saturating_add(bytes);
            if !self.training.is_empty() && total > self.training_bytes {
                return;
            }
            self.waiting.pop_front();
            self.training.push_back((key, bytes));
            self.used = total;
        }
    }
}

#[cfg(test)]
mod tests;
