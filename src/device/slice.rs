//! Runs one slice and contains its panic.
//!
//! Invariant: no panic of a work leaves this file.
