//! What a job would do, without a job: its plan, completed from the data set of now.
//!
//! Invariant: nothing is written, and what is refused here is refused when it is submitted.

use super::{Handle, Submission};
use crate::ids::{DatasetId, TenantId};
use crate::jobs::plan::{self, Plan};
use crate::jobs::selection::{self, Policy};
use crate::jobs::{Error, mirror};
use crate::metadata::PageRequest;
use crate::spec::{AdapterConfig, ClipSampling, Invalid, Split};

/// What is known of a data set from its labels.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// Training examples.
    clips: u64,
    /// Those that a job holds out as its validation split.
    held_out: u64,
    /// Labels of training and validation examples.
    labels: usize,
}

impl Handle {
    /// Completes a job's hyper-parameters for a task of this shape. A seed that was not given is drawn when the job is submitted, and 0 here.
    ///
    /// # Errors
    /// Same as [`Handle::submit`], as far as they do not depend on other jobs; a data set without training examples.
    pub async fn preview(
        &self,
        tenant: &TenantId,
        (adapter, sampling): (&AdapterConfig, &ClipSampling),
        dataset: &DatasetId,
        wanted: impl Into<Submission>,
    ) -> Result<Plan, Error> {
        let mut hyper = wanted.into().hyper_parameters;
        plan::check(&hyper)?;
        mirror::check(&hyper)?;
        selection::check(hyper.selection.get_or_insert_default())?;
        let share = Policy::new(hyper.selection.as_ref()).validation_share;
        let Counted {
            clips,
            held_out,
            labels,
        } = self.counted(tenant, dataset, share).await?;
        if clips == 0 {
            let problem = "it has no training examples";
            return Err(Invalid::new("dataset", problem).into());
        }
        let frames = usize::from(sampling.num_frames.get());
        self.check_disk(adapter, frames, clips)?;
        if let Some(demand) = self.demand_of((adapter, frames), labels, &hyper) {
            hyper.batch_size = demand.admitted(hyper.batch_size)?;
        }
        Ok(Plan::new(&hyper, clips - held_out, adapter, 0).with_frames(frames))
    }

    /// Counts a data set's training examples, and the labels of its training and validation examples. Of each label's, as much as the share says is held out
    /// when there is no validation example; clips with equal bytes, which stay together, may leave a few fewer.
    async fn counted(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        share: f64,
    ) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        let mut has_validation = false;
        let (mut token, mut last) = (String::new(), None);
        loop {
            let page = PageRequest::new(1000, &token)?;
            let counts = self
                .metadata
                .list_label_counts(tenant, dataset, &page)
                .await?;
            for count in counts.items {
                match count.split {
                    Split::Train => {
                        counted.clips += count.examples;
                        counted.held_out += (count.examples as f64 * share) as u64;
                    }
                    Split::Validation => has_validation |= count.examples > 0,
                    Split::Test => {}
                }
                // The counts of a label follow one another.
                if count.split != Split::Test && last.as_ref() != Some(&count.label) {
                    counted.labels += 1;
                    last = Some(count.label);
                }
            }
            token = counts.next;
            if token.is_empty() {
                if has_validation {
                    counted.held_out = 0;
                }
                return Ok(counted);
            }
        }
    }
}
