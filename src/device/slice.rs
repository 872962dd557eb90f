//! Runs one slice and contains its panic.
//!
//! Invariant: no panic of a work or a source leaves this file.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Source, Step, Work};

/// What a slice led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SliceEnd {
    /// It ran; more are left.
    More,
    /// It ran and was the last.
    Done,
    /// It panicked; the work was told.
    Panicked(Arc<str>),
}

/// Runs one slice.
pub(super) fn run(work: &mut dyn Work) -> SliceEnd {
    // The work is dropped after a panic and never looked at again, but for `panicked`, so that broken invariants inside it do no harm.
    match catch_unwind(AssertUnwindSafe(|| work.advance())) {
        Ok(Step::More) => SliceEnd::More,
        Ok(Step::Done) => SliceEnd::Done,
        Err(panic) => {
            let text = message(panic.as_ref());
            let _ = catch_unwind(AssertUnwindSafe(|| work.panicked(&text)));
            SliceEnd::Panicked(text)
        }
    }
}

/// Whether nobody waits for the work; a work that panics here is not wanted either.
pub(super) fn is_cancelled(work: &dyn Work) -> bool {
    catch_unwind(AssertUnwindSafe(|| work.is_cancelled())).unwrap_or(true)
}

/// Asks the source; a source that panics has nothing.
pub(super) fn form(source: &mut dyn Source) -> Result<Option<Box<dyn Work>>, Arc<str>> {
    catch_unwind(AssertUnwindSafe(|| source.next())).map_err(|panic| message(panic.as_ref()))
}

/// Drops a value whose destructor may panic.
pub(super) fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// The work's own account of its memory; 0 when it panics.
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
