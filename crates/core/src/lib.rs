//! Leaves that every part of Frameshift may use: [`ids`], plain values ([`spec`]), random streams ([`rng`]) and fair queueing ([`fair`]).
//!
//! Invariant: nothing here waits, reads a clock or does I/O.

pub mod fair;
pub mod ids;
pub mod rng;
pub mod spec;
