//! Frameshift keeps one frozen image backbone in memory and serves many video tasks on it.
//!
//! A task is a set of ST-Adapters (Pan et al., NeurIPS 2022) and a head. In reading order:
//!
//! - [`ids`], [`spec`], [`rng`], [`proto`], [`shutdown`], [`telemetry`], [`faults`], [`fair`], [`blocking`]: leaves that every module may use.
//! - [`video`]: an untrusted file becomes frames and clips, in a separate process. [`synth`] draws images and motion clips.
//! - [`model`]: backbone + adapter sets → logits, and their gradients. [`device`]: the thread that runs it, block by block.
//! - [`store`], [`metadata`]: immutable blobs and the records that name them.
//! - [`library`], [`registry`]: videos and data sets; tasks and their versions.
//! - [`engine`]: classification in batches of several tasks. [`jobs`]: fine-tuning. The two meet only at the device and in the registry.
//! - [`exchange`]: import and export of adapter versions as files.
//! - [`serving`]: one classification, from the request to the scores.
//! - [`tenancy`], [`rpc`], [`app`], [`config`]: the server. [`client`], [`demo`], [`tools`], [`report`]: the command line.
//!
//! Invariants: the backbone is loaded once and never written to; a client-visible success is durable; every key and record begins with its tenant; a
//! bad input, an expired request or a failing adapter set fails alone.

pub use frameshift_core::{fair, ids, rng, spec};
pub use frameshift_model as model;
pub use frameshift_video as video;

pub mod app;
pub mod blocking;
pub mod client;
pub mod config;
pub mod demo;
pub mod device;
pub mod engine;
pub mod exchange;
pub mod faults;
pub mod jobs;
pub mod library;
pub mod metadata;
pub mod proto;
pub mod registry;
pub mod report;
pub mod rpc;
pub mod serving;
pub mod shutdown;
pub mod store;
pub mod synth;
pub mod telemetry;
pub mod tenancy;
pub mod tools;

/// Inputs of a test that reads strangers' bytes: 500, or as many as `PROPTEST_CASES` says if that is more.
#[cfg(test)]
pub(crate) fn inputs() -> proptest::test_runner::Config {
    let usual = proptest::test_runner::Config::default();
    proptest::test_runner::Config {
        cases: usual.cases.max(500),
        ..usual
    }
}

/// Gives unit tests the program's allocator, so that their buffers have the same alignment.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: model::LineAligned = model::LineAligned;
