//! Tokens of a frame after blocks that all who show it have in common, kept for the batches that come after.
//!
//! Invariant: kept tokens are what the same blocks would give again, bit for bit; a frame keeps those before one block at most.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ops::Array;

/// Where the tokens of one frame are kept; clones are the same place.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Option<Prefix>>>);

/// Tokens of a frame.
#[derive(Debug, Clone)]
pub(super) struct Prefix {
    /// Index of the block whose input the tokens are.
    pub(super) block: usize,
    /// The tokens, `[1, L, C]`.
    pub(super) x: Array,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = self.lock().as_ref().map(|tokens| tokens.block);
        f.debug_tuple("Kept").field(&block).finish()
    }
}

impl Kept {
    // A plain mutex: it is held for a few moves in memory, never across an await.
    fn lock(&self) -> MutexGuard<'_, Option<Prefix>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is kept.
    pub(super) fn tokens(&self) -> Option<Prefix> {
        self.lock().clone()
    }

    /// Whether tokens before this block are of more use than what is kept: all who leave the common blocks at a higher one can go on from them.
    pub(super) fn wants(&self, block: usize) -> bool {
        self.lock().as_ref().is_none_or(|own| block < own.block)
    }

    /// Keeps tokens in place of others before a higher block.
    pub(super) fn keep(&self, tokens: Prefix) {
        let mut kept = self.lock();
        if kept.as_ref().is_none_or(|own| tokens.block < own.block) {
            *kept = Some(tokens);
        }
    }
}
