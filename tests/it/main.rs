//! The integration tests, in one binary.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]
mod allocation;
mod decoding;
mod durability;
mod engine;
mod golden_backbones;
mod golden_model;
mod golden_preproc;
mod hostile_checkpoints;
mod inspect;
mod jobs;
mod library;
mod metadata;
mod registry;
mod shared;
mod store;
mod tidy;
