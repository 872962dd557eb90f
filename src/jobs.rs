//! Fine-tuning jobs: from submission to a published version.

pub mod augment;
pub mod optimizer;
pub mod plan;
pub mod progress;
pub mod schedule;
pub mod score;
pub mod state;
