//! The integration tests, in one binary.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]
mod access;
mod allocation;
mod bench_fleet;
mod bench_serve;
mod buckets;
mod bulk_classify;
mod chart_metrics;
mod clips_manifest;
mod complaints;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda_faults;
mod cuda_kernels;
#[cfg(feature = "cuda")]
mod cuda_program;
mod damage;
mod decoding;
mod descriptors;
mod durability;
mod emulated;
mod engine;
mod errors_doc;
#[cfg(feature = "postgres")]
mod faults;
mod features;
mod fetch_backbone;
#[cfg(feature = "postgres")]
mod fleet;
mod fsck;
mod fuzz_checkpoints;
mod golden_backbones;
mod golden_checkpoints;
mod golden_model;
mod golden_preproc;
mod hostile_checkpoints;
mod inspect;
#[allow(dead_code)] // Unit tests use the rest.
mod issuer;
mod jobs;
mod library;
mod licences;
mod md5;
mod metadata;
mod model;
mod model_heads;
mod model_memory;
mod model_precision;
mod model_readouts;
mod outages;
mod ports;
#[cfg(feature = "postgres")]
mod postgres;
mod processes;
mod real;
mod recipes;
mod registry;
#[cfg(feature = "postgres")]
mod replicas;
mod reports;
mod restore;
mod roles;
#[cfg(feature = "postgres")]
mod rollout;
mod routes;
mod rows;
mod rpc_canary;
mod rpc_check;
mod rpc_classify;
mod rpc_dataset_versions;
mod rpc_embed;
mod rpc_evaluate;
mod rpc_frames;
mod rpc_heads;
mod rpc_limits;
mod rpc_loading;
mod rpc_many_tasks;
mod rpc_multi_label;
mod rpc_outage;
mod rpc_preview;
mod rpc_server;
mod rpc_swaps;
mod rpc_sweeps;
mod rpc_tenants;
mod rpc_unknown;
mod rpc_uploads;
mod rpc_versions;
mod rpc_views;
// Only builds that speak HTTP as clients have its client.
#[cfg(feature = "oidc")]
mod rpc_web;
mod rpc_windows;
mod security_doc;
mod server;
mod server_process;
mod service_config;
mod shared;
#[cfg(feature = "postgres")]
mod skew;
mod soak;
mod store;
#[cfg(feature = "postgres")]
mod takeover;
mod tenants;
mod tidy;
mod tls;
mod traces;
mod video_escape;
mod video_frames;
mod video_limits;
mod video_mutations;
mod video_tool;
mod video_worker;
mod wire;
