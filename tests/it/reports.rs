//! Faults that users met, each as a test on the input that showed it (`tests/data/reports`).

mod annotations;
mod checkpoints;
mod cli;
pub(crate) mod command;
mod grpc;
mod labels;
mod live;
mod uploads;
mod video;
