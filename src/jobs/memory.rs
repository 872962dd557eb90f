//! What a job's training takes in memory and on the disk, from its sizes alone, and whether it may.
//!
//! Invariant: pure; what is admitted here runs within its budget, and how much room there is changes no bit of the weights.

use super::plan;
use crate::model::StepShape;
use crate::spec::{Invalid, Publish};

/// Decoded clips that wait for the device, in bytes; more only when one batch alone is larger.
const AHEAD: u64 = 128 << 20;
/// Most clips of a batch, whatever the budget.
pub(super) const MOST: u32 = 1024;

/// The sizes of a job's steps, and the bytes that it may take in all: weights, optimiser, packed copies, activations, decoded clips, checkpoints.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    sizes: StepShape,
    /// Whether steps read decoded clips; those of a linear probe read features.
    decodes: bool,
    /// Whether the best evaluation's weights are kept beside those of now.
    keeps_best: bool,
    budget: u64,
}

impl Demand {
    pub(super) fn new(sizes: StepShape, decodes: bool, budget: u64) -> Self {
        Self {
            sizes,
            decodes,
            keeps_best: true,
            budget,
        }
    }

    /// The demand of a job that publishes these weights: only those of the best evaluation are kept beside the newest.
    pub(super) fn publishing(self, publish: Publish) -> Self {
        Self {
            keeps_best: matches!(publish, Publish::Best),
            ..self
        }
    }

    /// Whether steps read decoded clips, and not features.
    pub(super) fn decodes(&self) -> bool {
        self.decodes
    }

    /// Bytes of a frame's tokens after the frozen blocks below the adapters; none when there are no such blocks.
    pub(super) fn frozen_bytes(&self) -> Option<u64> {
        self.sizes.frozen_bytes()
    }

    fn batch(&self, batch: u32) -> u64 {
        if self.decodes {
            u64::from(batch).saturating_mul(self.sizes.clip_bytes())
        } else {
            0
        }
    }

    /// Batches that are decoded ahead of the device, the one in the works included: two, so that a slow one does not keep it waiting, when they are small.
    pub(super) fn ahead(&self, batch: u32) -> usize {
        if self.batch(batch).saturating_mul(2) <= AHEAD {
            2
        } else {
            1
        }
    }

    /// Bytes of everything but activations while a step runs: weights and both moments, the best evaluation's weights if they are kept, what is made of the
    /// weights, the batch and those ahead of it.
    fn fixed(&self, batch: u32) -> u64 {
        let batches = self
            .batch(batch)
            .saturating_mul(1 + self.ahead(batch) as u64);
        let head = self.sizes.head_bytes(batch as usize);
        let copies = 3 + u64::from(self.keeps_best);
        let weights = copies * self.sizes.weights_bytes() + self.sizes.weights_work_bytes();
        weights + head + batches
    }

    /// Fewest bytes with which a job of this batch can train and store its checkpoints.
    pub(super) fn least(&self, batch: u32) -> u64 {
        let activations = if self.decodes {
            self.sizes.least_bytes()
        } else {
            0
        };
        // Weights, moments and the best evaluation's weights are copied three times on their way into a file.
        let copies = 12 + 4 * u64::from(self.keeps_best);
        let batches = self.batch(batch).saturating_mul(2);
        let saving = copies * self.sizes.weights_bytes() + batches;
        (self.fixed(batch) + activations).max(saving)
    }

    /// The largest batch that the budget allows, at most [`MOST`]; `None` when not even one clip fits.
    pub(super) fn largest_batch(&self) -> Option<u32> {
        let fits = |batch: &u32| self.least(*batch) <= self.budget;
        // What a batch takes grows with it, but where the second one ahead falls away.
        (1..=MOST).rev().find(fits)
    }

    /// The batch to train with: as submitted, or the default as far as it fits.
    ///
    /// # Errors
    /// Says the largest that would fit.
    pub(super) fn admitted(&self, batch: Option<u32>) -> Result<Option<u32>, Invalid> {
        let wanted = batch.unwrap_or(plan::BATCH);
        if self.least(wanted) <= self.budget {
            return Ok(batch);
        }
        let refused = |problem| Err(Invalid::new("batch_size", problem));
        let (needed, budget) = (self.least(wanted) >> 20, self.budget >> 20);
        match self.largest_batch() {
            Some(largest) if batch.is_none() => Ok(Some(largest.min(wanted))),
            Some(largest) => refused(format!(
                "a step of {wanted} clips needs {needed} MiB, and a job may take {budget} MiB: at most {largest} clips fit"
            )),
            None => refused(format!(
                "one clip's step needs {} MiB, and a job may take {budget} MiB: the task's clips or adapters are too large for this server",
                self.least(1) >> 20
            )),
        }
    }

    /// Bytes that a step of this batch may use for activations.
    pub(super) fn room(&self, batch: u32) -> u64 {
        self.budget.saturating_sub(self.fixed(batch))
    }

    /// Clips of one forward outside training, of at most so many: they take a quarter of the budget at most.
    pub(super) fn forward_clips(&self, most: usize) -> usize {
        let clips = self.budget / 4 / self.sizes.forward_bytes().max(1);
        most.min(usize::try_from(clips).unwrap_or(most)).max(1)
    }
}

/// Whether the frozen features of so many training examples may be stored: `most` bytes of rows of `width` values.
///
/// # Errors
/// Says what they take and which setting limits it.
pub(super) fn check_features(rows: u64, width: usize, most: u64) -> Result<(), Invalid> {
    let row = (width * size_of::<f32>()) as u64;
    let bytes = rows.saturating_mul(row);
    if bytes <= most {
        return Ok(());
    }
    let problem = format!(
        "the frozen features of {rows} training examples take {} MiB, and feature_bytes allows {} MiB: at most {} examples fit",
        bytes.div_ceil(1 << 20),
        most >> 20,
        most / row.max(1)
    );
    Err(Invalid::new("dataset", problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackboneConfig;
    use crate::spec::{AdapterConfig, Head, Precision};

    /// ViT-B/16 with the paper's adapters and clips of so many frames.
    fn base(num_frames: usize, budget: u64) -> Demand {
        let adapter = AdapterConfig {
            adapter_width: 384,
            adapter_layers: None,
            adapter_kernel_size: [3, 1, 1],
            adapter_pre_attn: false,
            adapter_pre_mlp: true,
            head: Head::Mean,
        };
        let of = (&BackboneConfig::VIT_B_16, Precision::F32);
        let sizes = StepShape::new(of, adapter, 100, num_frames).expect("sizes");
        Demand::new(sizes, true, budget)
    }

    #[test]
    fn features_that_do_not_fit_are_told_with_how_many_would() {
        assert!(check_features(1000, 256, 1 << 20).is_ok());
        let refused = check_features(2000, 256, 1 << 20).unwrap_err();
        assert_eq!(refused.field, "dataset");
        let expected = "take 2 MiB, and feature_bytes allows 1 MiB: at most 1024 examples fit";
        assert!(refused.problem.ends_with(expected), "{}", refused.problem);
    }

    #[test]
    fn a_batch_is_admitted_when_its_clips_and_one_clips_step_fit() {
        let demand = base(16, 3 << 30);
        let largest = demand.largest_batch().expect("some");
        assert!((64..256).contains(&largest), "{largest}");
        assert!(demand.least(largest) <= 3 << 30);
        assert!(demand.least(largest + 1) > 3 << 30);
        assert!(demand.least(64) + demand.room(64) >= 3 << 30);
        assert_eq!(base(64, 256 << 20).largest_batch(), None);
        assert_eq!(base(8, 1 << 40).largest_batch(), Some(MOST));
    }

    #[test]
    fn a_job_that_publishes_its_last_weights_keeps_one_copy_of_them_less() {
        let demand = base(16, 3 << 30);
        let last = demand.clone().publishing(Publish::Last);
        let weights = demand.sizes.weights_bytes();
        assert_eq!(demand.fixed(8) - last.fixed(8), weights);
        assert_eq!(last.room(8) - demand.room(8), weights);
        assert!(last.least(8) < demand.least(8));
    }

    #[test]
    fn small_batches_are_decoded_further_ahead_than_large_ones() {
        let demand = base(16, 3 << 30);
        assert_eq!((demand.ahead(4), demand.ahead(8)), (2, 1));
    }
}
