//! Builds batches for the device and moves serving versions.
//!
//! Invariant: a version serves only after it is resident and warm.
