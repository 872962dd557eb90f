//! Keeps the number of label values bounded, whatever callers send.
//!
//! Invariant: at most [`Bounded::limit`] distinct values and `other` ever become label values.

use std::collections::HashSet;
use std::sync::Mutex;

/// What stands for every value beyond the limit.
pub(super) const OTHER: &str = "other";

/// The first so many distinct values; later ones are [`OTHER`].
#[derive(Debug)]
pub(super) struct Bounded {
    limit: usize,
    /// A plain mutex: held for one look-up in memory, never across an await.
    seen: Mutex<HashSet<String>>,
}

impl Bounded {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: Mutex::default(),
        }
    }

    /// The value itself while there is room for it, else [`OTHER`].
    pub(super) fn label(&self, value: &str) -> String {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.contains(value) {
            return value.to_owned();
        }
        if seen.len() >= self.limit {
            return OTHER.to_owned();
        }
        seen.insert(value.to_owned());
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_limit_share_one_label() {
        let labels = Bounded::new(2);
        assert_eq!(labels.label("a"), "a");
        assert_eq!(labels.label("b"), "b");
        assert_eq!(labels.label("c"), OTHER);
        assert_eq!(labels.label("a"), "a");
    }
}
