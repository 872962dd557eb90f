//! Forms batches
//!
//! Invariant:  pure.:never awaits, reads a clock or does I/O; no clip is lost or doubled.
