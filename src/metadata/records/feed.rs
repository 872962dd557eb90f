//! The feed of changes as readers see it: what they have seen of it, and what is new.
//!
//! Invariant: a change is unseen until a read saw the transaction that made it, however long that transaction took to commit and whatever was
//! committed in between. Numbers are compared within one epoch only.

use crate::ids::{TaskId, TenantId};

/// A place in the feed of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// What was seen when the feed was read to its end.
    pub(in crate::metadata) seen: Seen,
    /// How far the reader got since then, while it reads page by page.
    pub(in crate::metadata) page: Option<Place>,
}

impl Cursor {
    /// The end of the feed.
    pub(in crate::metadata) fn end(seen: Seen) -> Self {
        Self { seen, page: None }
    }
}

/// The numbers of changes that are seen: all below `end`, except those that were still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::metadata) struct Seen {
    /// The time for which a number is given once: it ends when the database loses what it had not written to its disk.
    pub(in crate::metadata) epoch: String,
    /// The lowest number that is not seen.
    pub(in crate::metadata) begin: i64,
    /// The first number that nobody had at the time.
    pub(in crate::metadata) end: i64,
    /// Numbers below `end` whose transactions had not committed.
    pub(in crate::metadata) open: Vec<i64>,
}

impl Seen {
    /// All numbers up to one, each of which was committed before the next was given.
    pub(in crate::metadata) fn up_to(newest: i64) -> Self {
        let end = newest.saturating_add(1);
        Self {
            epoch: String::new(),
            begin: end,
            end,
            open: Vec::new(),
        }
    }

    /// Reads a snapshot of an epoch as PostgreSQL writes it: the oldest open transaction, the next one, and those in between that are open. `None` when it
    /// is none.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(in crate::metadata) fn parse(epoch: String, text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut number = || parts.next()?.parse().ok();
        let (begin, end) = (number()?, number()?);
        let open = parts.next()?.split(',').filter(|own| !own.is_empty());
        let open = open.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self {
            epoch,
            begin,
            end,
            open,
        })
    }

    /// Whether a number up to `newest` may be unseen, other than one of these.
    pub(in crate::metadata) fn misses(&self, newest: i64, others: &[i64]) -> bool {
        let is_missed = |own: &i64| *own <= newest && !others.contains(own);
        newest >= self.end || self.open.iter().any(is_missed)
    }

    /// The open numbers as JSON.
    pub(in crate::metadata) fn open_json(&self) -> String {
        let open: Vec<String> = self.open.iter().map(i64::to_string).collect();
        format!("[{}]", open.join(","))
    }
}

/// How far a reader got, while it reads page by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::metadata) struct Place {
    /// What could be seen when the first page was read: the pages together are exactly that.
    pub(in crate::metadata) until: Seen,
    /// The last change that was read: its number, and what tells it from others of the same transaction.
    pub(in crate::metadata) last: (i64, String, String, String),
}

/// A task that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRecord {
    /// Tenant that owns the task.
    pub tenant: TenantId,
    /// The task that changed.
    pub task: TaskId,
    /// Whether the task is gone.
    pub is_deleted: bool,
}

/// A page of the feed of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePage {
    /// Tasks that changed, oldest change first.
    pub changes: Vec<ChangeRecord>,
    /// Tenants that deleted videos.
    pub videos: Vec<TenantId>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether changes between the asked place and this page are lost.
    pub is_gap: bool,
    /// Whether the page reaches to the end of the feed.
    pub is_last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_with_and_without_open_transactions() {
        let parse = |text| Seen::parse("e".into(), text);
        let seen = parse("10:20:10,14").unwrap();
        assert_eq!((seen.begin, seen.end), (10, 20));
        assert_eq!(seen.epoch, "e");
        assert_eq!(seen.open, [10, 14]);
        assert_eq!(seen.open_json(), "[10,14]");
        let seen = parse("20:20:").unwrap();
        assert_eq!(seen.open_json(), "[]");
        for wrong in ["", "1", "1:2", "a:2:", "1:2:x"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(Seen::up_to(7).begin, 8);
    }

    #[test]
    fn a_number_is_missed_unless_it_is_seen_or_still_open() {
        let seen = Seen::parse(String::new(), "10:20:10,14").unwrap();
        assert!(!seen.misses(9, &[]));
        assert!(seen.misses(10, &[]) && seen.misses(19, &[]) && seen.misses(20, &[10, 14]));
        assert!(!seen.misses(13, &[10]) && !seen.misses(19, &[10, 14]));
        assert!(seen.misses(19, &[10]), "14 has ended since");
        assert!(!Seen::up_to(7).misses(7, &[]) && Seen::up_to(7).misses(8, &[]));
    }
}
