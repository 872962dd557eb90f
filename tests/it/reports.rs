//! Faults that users met, each as a test on the input that showed it (`tests/data/reports`).

mod annotations;
mod cli;
mod command;
mod video;
