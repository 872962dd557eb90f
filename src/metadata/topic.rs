//! Hints among processes that share the records.
//!
//! Invariant: a hint only makes others look sooner; what they find is in the records, which they ask without hints as well.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Topic of a hint: what may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Jobs: one waits, or one has changed.
    Jobs,
    /// Tasks and their versions.
    Tasks,
    /// Keys and tenants.
    Access,
    /// Processes that share the records: one is asked to drain.
    Replicas,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 4] = [Self::Jobs, Self::Tasks, Self::Access, Self::Replicas];

    /// Returns the topic's name among processes of all releases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Tasks => "tasks",
            Self::Access => "access",
            Self::Replicas => "replicas",
        }
    }

    /// Returns the topic of a name; `None` when only other releases know it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// The time until the next poll: `poll`, give or take a tenth, at random. Loops that one hint woke, and servers that started together, do not go on asking
/// at the same moments.
pub fn spread(poll: Duration) -> Duration {
    let share = (RandomState::new().hash_one(poll) % 201) as u32;
    poll * (900 + share) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_known_by_their_names() {
        for topic in Topic::ALL {
            assert_eq!(Topic::named(topic.name()), Some(topic));
        }
        assert_eq!(Topic::named("of a later release"), None);
    }

    #[test]
    fn polls_are_spread_by_a_tenth_at_most() {
        let poll = Duration::from_secs(2);
        let all: Vec<_> = (0..100).map(|_| spread(poll)).collect();
        let near = Duration::from_millis(1800)..=Duration::from_millis(2200);
        assert!(all.iter().all(|own| near.contains(own)));
        assert!(all.iter().any(|own| Some(own) != all.first()));
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
    }
}
