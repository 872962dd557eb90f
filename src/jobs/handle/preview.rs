//! What a job would do, without a job: its plan, completed from the data set of now.
//!
//! Invariant: nothing is written, and what is refused here is refused when it is submitted.

use std::collections::{BTreeMap, HashMap};

use super::{Handle, Submission};
use crate::ids::{DatasetId, TenantId};
use crate::jobs::plan::{self, Plan};
use crate::jobs::selection::{self, Policy};
use crate::jobs::{Error, labelling, mirror};
use crate::metadata::{ExampleRecord, Next, PageRequest};
use crate::spec::{AdapterConfig, ClipSampling, Digest, HyperParameters, Invalid, Split};

/// Examples of a snapshot that are read at a time.
const PAGE: u32 = 1000;

/// What is known of a data set from its labels.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::jobs) struct Counted {
    /// Training examples.
    pub(super) clips: u64,
    /// Those that a job holds out as its validation split.
    held_out: u64,
    /// Examples of the validation split, or those that are held out as one.
    validation: u64,
    /// Labels of training and validation examples.
    pub(super) labels: usize,
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
        let (hyper, counted) = self.completed(tenant, dataset, wanted.into()).await?;
        Ok(self.planned((adapter, sampling), &hyper, counted)?)
    }

    /// Checks what does not depend on the task, and counts the examples.
    ///
    /// # Errors
    /// A hyper-parameter out of range; no such data set; one without training examples.
    pub(in crate::jobs) async fn completed(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        wanted: Submission,
    ) -> Result<(HyperParameters, Counted), Error> {
        let mut hyper = wanted.hyper_parameters;
        plan::check(&hyper)?;
        mirror::check(&hyper)?;
        selection::check(hyper.selection.get_or_insert_default())?;
        let kind = self.label_kind(tenant, dataset).await?;
        labelling::complete(&mut hyper, kind)?;
        let share = Policy::new(hyper.selection.as_ref()).validation_share;
        let of = (dataset, wanted.dataset_version);
        let counted = self.counted(tenant, of, share).await?;
        if counted.clips == 0 {
            let problem = "it has no training examples";
            return Err(Invalid::new("dataset", problem).into());
        }
        Ok((hyper, counted))
    }

    /// The plan of a job for a task of this shape.
    ///
    /// # Errors
    /// When the job takes more memory or disk than one may.
    pub(in crate::jobs) fn planned(
        &self,
        (adapter, sampling): (&AdapterConfig, &ClipSampling),
        hyper: &HyperParameters,
        counted: Counted,
    ) -> Result<Plan, Invalid> {
        let mut hyper = hyper.clone();
        let frames = usize::from(sampling.num_frames.get());
        self.check_disk(adapter, frames, counted.clips)?;
        if let Some(demand) = self.demand_of((adapter, frames), counted.labels, &hyper) {
            hyper.batch_size = demand.admitted(hyper.batch_size)?;
        }
        let clips = counted.clips - counted.held_out;
        Ok(Plan::new(&hyper, clips, adapter, 0)
            .with_labels(&hyper, counted.labels)
            .with_frames(frames)
            .with_validation(&hyper, adapter, counted.validation))
    }

    /// Counts the training examples of a data set or of a version of one, and the labels of its training and validation examples. Of the clips of each label,
    /// or rarest label of a clip, as much as the share says is held out when there is no validation example; clips with equal bytes, which stay together, may
    /// leave a few fewer.
    pub(super) async fn counted(
        &self,
        tenant: &TenantId,
        (dataset, version): (&DatasetId, Option<u32>),
        share: f64,
    ) -> Result<Counted, Error> {
        if let Some(number) = version {
            let version = self.metadata.get_dataset_version(tenant, dataset, number);
            let digest = version.await?.snapshot.digest;
            return self.counted_of(tenant, digest, share).await;
        }
        if self.label_kind(tenant, dataset).await?.is_multi() {
            return self.counted_sets(tenant, dataset, share).await;
        }
        let mut counted = Counted::default();
        let (mut next, mut last) = (Next::default(), None);
        loop {
            let page = PageRequest::after(&next);
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
                    Split::Validation => counted.validation += count.examples,
                    Split::Test => {}
                }
                // The counts of a label follow one another.
                if count.split != Split::Test && last.as_ref() != Some(&count.label) {
                    counted.labels += 1;
                    last = Some(count.label);
                }
            }
            next = counts.next;
            if next.is_end() {
                match counted.validation {
                    0 => counted.validation = counted.held_out,
                    _ => counted.held_out = 0,
                }
                return Ok(counted);
            }
        }
    }

    /// As [`Self::counted`], of the examples of a snapshot.
    async fn counted_of(
        &self,
        tenant: &TenantId,
        digest: Digest,
        share: f64,
    ) -> Result<Counted, Error> {
        let mut counts = Counts::default();
        let mut after = None;
        loop {
            let page = self.metadata.snapshot_examples(tenant, digest, after, PAGE);
            let page = page.await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map(|own| own.video);
            page.iter().for_each(|own| counts.add(own));
            if is_last {
                return Ok(counts.finish(share));
            }
        }
    }

    /// As [`Self::counted`], of the examples of a data set whose labels do not exclude one another: the counts of its labels do not say how many there are.
    async fn counted_sets(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        share: f64,
    ) -> Result<Counted, Error> {
        let mut counts = Counts::default();
        let mut next = Next::default();
        loop {
            let page = PageRequest::after(&next);
            let examples = self.metadata.list_examples(tenant, dataset, &page).await?;
            examples.items.iter().for_each(|own| counts.add(own));
            next = examples.next;
            if next.is_end() {
                return Ok(counts.finish(share));
            }
        }
    }
}

/// Examples that are counted one by one.
#[derive(Debug, Clone, Default)]
struct Counts {
    /// Numbers of the labels of training and validation examples.
    labels: BTreeMap<String, u32>,
    /// Training examples by the numbers of their labels.
    sets: HashMap<Box<[u32]>, u64>,
    clips: u64,
    validation: u64,
}

impl Counts {
    fn add(&mut self, own: &ExampleRecord) {
        let is_trained = match own.split {
            Split::Train => true,
            Split::Validation => false,
            Split::Test => return,
        };
        let mut numbers: Vec<u32> = own.labels.iter().map(|label| self.number(label)).collect();
        if !is_trained {
            self.validation += 1;
            return;
        }
        numbers.sort_unstable();
        *self.sets.entry(numbers.into()).or_default() += 1;
        self.clips += 1;
    }

    fn number(&mut self, label: &str) -> u32 {
        if let Some(number) = self.labels.get(label) {
            return *number;
        }
        let next = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        self.labels.insert(label.to_owned(), next);
        next
    }

    fn finish(self, share: f64) -> Counted {
        let held_out = match self.validation {
            0 => self.held_out(share),
            _ => 0,
        };
        Counted {
            clips: self.clips,
            held_out,
            validation: self.validation.max(held_out),
            labels: self.labels.len(),
        }
    }

    /// Clips that are held out of those of each rarest label.
    fn held_out(&self, share: f64) -> u64 {
        // By number: training examples of the label, and its place among all labels.
        let mut known: Vec<(u64, usize)> = vec![(0, 0); self.labels.len()];
        for (place, number) in self.labels.values().enumerate() {
            if let Some(own) = known.get_mut(*number as usize) {
                own.1 = place;
            }
        }
        for (set, count) in &self.sets {
            for number in set.iter() {
                if let Some(own) = known.get_mut(*number as usize) {
                    own.0 += count;
                }
            }
        }
        let mut groups: HashMap<Option<u32>, u64> = HashMap::new();
        for (set, count) in &self.sets {
            let numbers = set.iter().copied();
            let rarest = numbers.min_by_key(|number| known.get(*number as usize));
            *groups.entry(rarest).or_default() += count;
        }
        let held = |count: &u64| (*count as f64 * share) as u64;
        groups.values().map(held).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VideoId;
    use crate::spec::ExampleLabels;

    fn example(labels: &[&str], split: Split) -> ExampleRecord {
        ExampleRecord {
            video: VideoId::generate(),
            labels: ExampleLabels::of(labels.iter().copied()).unwrap(),
            split,
        }
    }

    #[test]
    fn a_clip_of_several_labels_is_held_out_once() {
        let mut counts = Counts::default();
        for i in 0..1000 {
            let rare = format!("rare {}", i % 10);
            counts.add(&example(&["run", &rare, "jump"], Split::Train));
        }
        counts.add(&example(&["fall"], Split::Test));
        let counted = counts.finish(0.2);
        assert_eq!((counted.clips, counted.labels), (1000, 12));
        assert_eq!(counted.held_out, 200, "20 of each rare label");
    }

    #[test]
    fn each_label_gives_its_share_and_a_validation_split_leaves_nothing_to_hold_out() {
        let mut counts = Counts::default();
        let given: [(&[&str], u32); 3] = [(&["run"], 14), (&["jump"], 9), (&[], 5)];
        for (labels, clips) in given {
            (0..clips).for_each(|_| counts.add(&example(labels, Split::Train)));
        }
        assert_eq!(counts.clone().finish(0.2).held_out, 2 + 1 + 1);
        counts.add(&example(&["walk"], Split::Validation));
        let counted = counts.finish(0.2);
        assert_eq!(
            (counted.clips, counted.held_out, counted.labels),
            (28, 0, 3)
        );
    }
}
