//! The engine with a small random backbone, the real device thread, and versions in memory.

mod admission;
mod device;
mod embedding;
mod endless;
pub(crate) mod fixture;
mod isolation;
mod loading;
mod queueing;
mod residency;
mod spare;
mod swaps;
mod windows;
