//! Publishing: a job's weights become an immutable version.
//!
//! Invariant: write, then commit. The file is in the store, whole, before one transaction makes the version visible, ends its job and asks for it
//! to serve.

use std::time::Duration;

use super::{Registry, Result};
use crate::ids::AdapterVersion;
use crate::metadata::{Lease, Published};
use crate::spec::{Digest, Evaluation, LabelSet, Precision};

/// What a job publishes.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Row i of the head is label i.
    pub labels: LabelSet,
    /// Digest of the backbone that it was trained on.
    pub backbone_digest: Digest,
    /// Trainable parameters.
    pub parameters: u64,
    /// Precision of training.
    pub precision: Precision,
    /// The version that training started from.
    pub parent: Option<AdapterVersion>,
    /// On the validation split.
    pub evaluation: Evaluation,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// The seed that was used.
    pub seed: u64,
    /// Training time without waiting and validation.
    pub training_time: Duration,
    /// Stable reason of an early end.
    pub reason: Option<String>,
    /// The tensors, as a safetensors file; its metadata is replaced by the version's manifest.
    pub tensors: Vec<u8>,
}

impl Registry {
    /// Publishes a PUBLISHING job's result: the version becomes visible, the job SUCCEEDED and, with `auto_serve`, the version desired.
    ///
    /// # Errors
    /// [`crate::metadata::Error::LeaseLost`] when the job is another worker's by now; [`super::Error::Malformed`] when `tensors` is no safetensors
    /// file; when the store or the database fails. Nothing is visible then.
    pub async fn publish(&self, lease: &Lease, publication: Publication) -> Result<Published> {
        let _ = (lease, publication);
        todo!()
    }
}
