//! Keeps the number of label values bounded, whatever callers send.
//!
//! Invariant: at most [`Bounded::limit`] distinct values and `other` ever become label values.

use std::collections::HashSet;
use std::sync::Mutex;

/// Label value that stands for every value beyond the limit.
pub(super) const OTHER: &str = "other";

/// Set of the first `limit` distinct values; later ones become [`OTHER`].
#[derive(Debug)]
pub(super) struct Bounded {
    limit: usize,
    /// A plain mutex, because it is held for one look-up in memory and never across an await.
    seen: Mutex<HashSet<String>>,
}

impl Bounded {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: Mutex::default(),
        }
    }

    /// Returns the value itself while the set has room for it, else [`OTHER`].
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
