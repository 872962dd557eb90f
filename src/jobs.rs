//! Fine-tuning jobs: from submission to a published version.

pub mod optimizer;
pub mod schedule;
