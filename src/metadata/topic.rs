//! Hints among processes that share the records.
//!
//! Invariant: a hint only makes others look sooner; what they find is in the records, which they ask without hints as well.

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
}
