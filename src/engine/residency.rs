//! Adapter sets in memory, by bytes.
//!
//! Invariant: a pinned set is never freed or overwritten.
