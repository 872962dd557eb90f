//! The one place that reads the wall clock.
//!
//! Invariant: durations are never computed from these values; `Instant` is for that.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the wall clock's time.
#[allow(clippy::disallowed_methods)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the wall clock's time in microseconds since the Unix epoch, the unit that records use.
pub fn now_micros() -> i64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
