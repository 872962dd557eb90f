//! What a job would do, without a job: its plan, completed from the data set of now.
//!
//! Invariant: nothing is written, and what is refused here is refused when it is submitted.

use super::{Handle, Wanted};
use crate::ids::{DatasetId, TenantId};
use crate::jobs::plan::{self, Plan};
use crate::jobs::selection::{self, Policy};
use crate::jobs::{Error, features, memory, mirror};
use crate::metadata::PageRequest;
use crate::model::{Features, StepShape};
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
        wanted: impl Into<Wanted>,
    ) -> Result<Plan, Error> {
        let mut hyper = wanted.into().hyper_parameters;
        plan::check(&hyper)?;
        mirror::check(&hyper)?;
        selection::check(hyper.selection.get_or_insert_default())?;
        // Neither the epochs nor the adapters decide about the share.
        let share = Policy::new(hyper.selection.as_ref(), 1, true).validation_share;
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
        if !adapter.has_sites() {
            let width = Features::width(self.backbone.config(), adapter.head, frames);
            let width = width * features::draws(adapter.head);
            memory::check_features(clips, width, self.feature_bytes)?;
        }
        let of = (self.backbone.config(), self.backbone.precision());
        if let Ok(sizes) = StepShape::new(of, *adapter, labels.max(1), frames) {
            let demand = memory::Demand::new(sizes, adapter.has_sites(), self.bytes);
            hyper.batch_size = demand.admitted(hyper.batch_size)?;
        }
        Ok(Plan::new(&hyper, clips - held_out, adapter, 0))
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
