//! Runs one slice and catches its panics.
//!
//! Invariant: no panic of a work item, a source or a ledger propagates beyond this file.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::{Purpose, Source, Step, Work};
use crate::fair::Ledger;

/// Result of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SliceEnd {
    /// The slice ran; the item has more slices.
    More,
    /// The slice ran; the item's result is on its way.
    Pending,
    /// The slice ran and was the last one.
    Done,
    /// The slice panicked, and its item got the message.
    Panicked(Arc<str>),
}

/// Runs one slice of a work item.
pub(super) fn run(work: &mut dyn Work) -> SliceEnd {
    // After a panic the item gets only the call of `panicked` and is then dropped, so that its broken invariants do no harm.
    match catch_unwind(AssertUnwindSafe(|| work.advance())) {
        Ok(Step::More) => SliceEnd::More,
        Ok(Step::Pending) => SliceEnd::Pending,
        Ok(Step::Done) => SliceEnd::Done,
        Err(panic) => {
            let text = message(panic.as_ref());
            let _ = catch_unwind(AssertUnwindSafe(|| work.panicked(&text)));
            SliceEnd::Panicked(text)
        }
    }
}

/// Returns whether nobody waits for the item any more; true also when the item panics here.
pub(super) fn is_cancelled(work: &dyn Work) -> bool {
    catch_unwind(AssertUnwindSafe(|| work.is_cancelled())).unwrap_or(true)
}

/// Returns whether the item's result is there; true also when the item panics here, so that it is called again.
pub(super) fn is_ready(work: &dyn Work) -> bool {
    catch_unwind(AssertUnwindSafe(|| work.is_ready())).unwrap_or(true)
}

/// Returns whether somebody waits for the item by now; false when the item panics here.
pub(super) fn is_awaited(work: &dyn Work) -> bool {
    catch_unwind(AssertUnwindSafe(|| work.is_awaited())).unwrap_or(false)
}

/// Tells an item how much time of the device it has used.
pub(super) fn used(work: &mut dyn Work, time: Duration) {
    let _ = catch_unwind(AssertUnwindSafe(|| work.used(time)));
}

/// Takes down how much time of the device an item has used for its purpose.
pub(super) fn noted(ledger: &dyn Ledger, own: &Purpose, time: Duration) {
    let noted = AssertUnwindSafe(|| ledger.computed(&own.tenant, Some(&own.task), time));
    let _ = catch_unwind(noted);
}

/// Asks the source for a batch. Returns the message of a panic as the error.
pub(super) fn form(source: &mut dyn Source) -> Result<Option<Box<dyn Work>>, Arc<str>> {
    catch_unwind(AssertUnwindSafe(|| source.next())).map_err(|panic| message(panic.as_ref()))
}

/// Drops a value whose destructor may panic.
pub(super) fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Returns the memory that the item says it needs, in bytes; 0 when it panics.
pub(super) fn bytes(work: &dyn Work) -> u64 {
    catch_unwind(AssertUnwindSafe(|| work.bytes())).unwrap_or(0)
}

fn message(panic: &(dyn Any + Send)) -> Arc<str> {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).into()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.as_str().into()
    } else {
        "a panic without a message".into()
    }
}
