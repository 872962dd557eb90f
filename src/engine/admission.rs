//! Room in the queue, given before anything is decoded.
//!
//! Invariant: permits never exceed the capacity, and a tenant's never what it leaves free for others, unless it has none.

/// Room for a request's clips; dropping it gives the room back.
#[derive(Debug)]
pub struct Permit {}
