//! Drawn images and motion clips, for pre-training, the demo and tests.
//!
//! Invariant: what is drawn depends on the random stream that the caller gives and on nothing else.

pub mod motion;
pub mod scene;
