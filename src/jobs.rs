//! Fine-tuning jobs: from submission to a published version.
