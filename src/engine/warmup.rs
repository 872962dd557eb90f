//! Dummy forwards that prove a backbone or a set before it serves.
//!
//! Invariant: what gives a value that is not finite does not serve.
