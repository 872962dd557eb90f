//! Whose slice is next: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O.
