//! `frameshift pretrain`: trains the built-in backbone from a seed on drawn single images, and says how well it does.
//!
//! Invariant: the file that it writes follows from the arguments alone; nothing but drawn images is learnt from.

use std::path::PathBuf;

/// Arguments of `frameshift pretrain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Seed of the weights and of the images
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Optimiser steps, of 128 images each
    #[arg(long, default_value_t = 1000)]
    pub steps: u32,
    /// Where to write the backbone (safetensors); the metrics go beside it, as .json
    #[arg(long)]
    pub out: PathBuf,
}

/// Why there is no backbone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}

/// Trains and saves.
///
/// # Errors
/// When an argument is out of range or a file cannot be written.
pub fn run(_args: &Args) -> Result<(), Error> {
    todo!("waits for the trainer")
}
