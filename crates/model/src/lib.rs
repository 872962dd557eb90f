//! The video model: computes logits, and gradients, with one frozen backbone and adapter sets, for batches that mix tasks.
//!
//! Reference: ST-Adapter (Pan et al., NeurIPS 2022) and its official code. Invariants: a [`Backbone`] is never written to; a clip's logits have the
//! same bits in every batch; every reduction has a fixed order, so the number of threads changes no result.

pub mod adamw;
mod adapter;
mod allocator;
mod backbone;
pub mod bench;
mod block;
mod config;
mod ending;
mod error;
pub mod exchange;
mod features;
mod file;
mod flat;
mod head;
mod inference;
mod kept;
mod layout;
pub mod load;
mod ops;
mod pictures;
pub mod pretrain;
mod site;
mod threads;
mod trainable;
mod training;
mod vit;
mod weights;

pub use adapter::AdapterSet;
pub use allocator::{LineAligned, Slack, Usage, give_back, keep_freed_pages, unused_bytes, usage};
pub use backbone::{Backbone, Origin, Tensors};
pub use config::{Activation, BackboneConfig};
pub use ending::leave;
pub use error::Error;
pub use features::{Features, logits, narrowed};
pub use flat::Flat;
pub use inference::{Inference, Readout, Segment};
pub use kept::Kept;
pub use ops::{Failure, Isa, Memory, Place, Unusable, Work, fastest, instructions, limit};
pub use pictures::Pictures;
pub use threads::{aside, compute_threads, physical_cores};
pub use trainable::TrainableSet;
pub use training::{Dropout, Goal, Gradients, Keep, Marks, StepOutput, StepShape, TrainingStep};

pub use frameshift_core::spec::Step;
use frameshift_core::{rng, spec};

/// Gives unit tests the program's allocator, so that their buffers have the same alignment.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: LineAligned = LineAligned;
