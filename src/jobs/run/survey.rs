//! What a job's snapshot holds: read page by page, kept in a few bytes an example.
//!
//! Invariant: the memory of a survey grows by the size of an [`Example`] with each example, and not with labels or names of videos.

use super::Run;
use super::stamps::OddStamps;
use crate::ids::VideoId;
use crate::jobs::dataset::{Clips, Example, Truths};
use crate::jobs::failure::Failure;
use crate::jobs::holdout::{held_out, part_of};
use crate::jobs::validation::{Labels, Problems};
use crate::metadata::ExampleRecord;
use crate::spec::{LabelKind, LabelSet, Split};

/// Examples that the database is asked for at a time.
pub(super) const PAGE: u32 = 1000;

/// The examples of training and validation whose videos are there, in the order of the videos' ids.
pub(super) struct Survey {
    /// Labels of the classes; `None` when those of the snapshot cannot be a label set.
    pub(super) labels: Option<LabelSet>,
    /// Which labels a class has.
    pub(super) truths: Truths,
    pub(super) training: Vec<Example>,
    pub(super) validation: Vec<Example>,
    /// What is wrong with the labels, and videos that are gone.
    pub(super) problems: Problems,
    /// Videos whose time stamps are in doubt.
    pub(super) stamps: OddStamps,
    /// Examples of the test split, of which nothing else is read.
    pub(super) tests: u64,
    /// Of each training example, a part of its video's digest, until it is decided which examples are held out.
    contents: Vec<u64>,
}

impl Run {
    /// Whether the labels of the snapshot exclude one another.
    pub(super) async fn label_kind(&self) -> Result<LabelKind, Failure> {
        let library = &self.context.parts.library;
        let (tenant, digest) = (&self.lease.tenant, self.job.dataset_digest);
        let read = || async { Ok(library.snapshot_kind(tenant, digest).await?) };
        self.journal.patiently(read).await
    }

    /// Reads the snapshot, whose labels are of this kind, and the records of its videos. Labels that are known keep their places among the classes.
    pub(super) async fn survey(
        &self,
        clips: &Clips,
        (known, kind): (Option<&LabelSet>, LabelKind),
    ) -> Result<Survey, Failure> {
        let mut survey = Survey {
            labels: None,
            truths: Truths::default(),
            training: Vec::new(),
            validation: Vec::new(),
            problems: Problems::default(),
            stamps: OddStamps::default(),
            tests: 0,
            contents: Vec::new(),
        };
        let mut labels = Labels::of(kind);
        let mut after = None;
        loop {
            let page = self.page(after).await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map(|example| example.video);
            survey.add(clips, &mut labels, page).await?;
            if is_last {
                break;
            }
        }
        let mut classes = labels.finish(known);
        let by_number = |number: u32| classes.by_number.get(number as usize).copied();
        for examples in [&mut survey.training, &mut survey.validation] {
            for example in examples.iter_mut() {
                example.class = by_number(example.class).unwrap_or_default();
            }
            examples.shrink_to_fit();
        }
        classes.problems.append(survey.problems);
        Ok(Survey {
            labels: classes.labels,
            truths: classes.truths,
            problems: classes.problems,
            ..survey
        })
    }

    pub(super) async fn page(&self, after: Option<VideoId>) -> Result<Vec<ExampleRecord>, Failure> {
        let library = &self.context.parts.library;
        let (tenant, digest) = (&self.lease.tenant, self.job.dataset_digest);
        let read = || async {
            let page = library.snapshot_examples(tenant, digest, after, PAGE);
            Ok(page.await?)
        };
        self.journal.patiently(read).await
    }
}

impl Survey {
    /// Whether training clips become the validation split.
    pub(super) fn wants_hold_out(&self, share: f64) -> bool {
        self.validation.is_empty() && share > 0.0
    }

    /// Makes a validation split of a data set that has none: so much of each label's training clips, the same of every claim. Clips with equal bytes stay
    /// together, and so do those that are `alike`, which has the place of the first one of each clip's group, or nothing. Returns the number of clips of both splits
    /// before, when there is one now.
    pub(super) fn hold_out(&mut self, alike: &[u32], share: f64, seed: u64) -> Option<usize> {
        let own = std::mem::take(&mut self.contents);
        let first = |place: usize| alike.get(place).map_or(place, |first| *first as usize);
        let of = |place: usize| own.get(first(place)).copied();
        let contents: Vec<u64> = (0..own.len()).filter_map(of).collect();
        if !self.validation.is_empty() {
            return None;
        }
        let all = self.training.len();
        let classes = self.truths.rarest(&self.training);
        let rows = |place: usize| match self.training.get(place) {
            Some(own) => self.truths.rows(&own.class),
            None => &[],
        };
        let held = held_out((&classes[..], &contents[..]), rows, share, seed);
        let mut held = held.into_iter();
        let is_held = |_: &mut Example| held.next().unwrap_or(false);
        self.validation = self.training.extract_if(.., is_held).collect();
        (!self.validation.is_empty()).then_some(all)
    }

    /// Adds a page of examples. Their classes are the numbers of their labels until all labels are known.
    async fn add(
        &mut self,
        clips: &Clips,
        labels: &mut Labels,
        mut page: Vec<ExampleRecord>,
    ) -> Result<(), Failure> {
        let all = page.len();
        page.retain(|example| example.split != Split::Test);
        self.tests += (all - page.len()) as u64;
        if page.is_empty() {
            return Ok(());
        }
        let videos: Vec<VideoId> = page.iter().map(|example| example.video).collect();
        let records = clips.records(&videos).await?;
        for ExampleRecord {
            video,
            labels: own,
            split,
        } in page
        {
            let number = labels.meet(&own, split);
            let Some(record) = records.get(&video) else {
                self.problems.push(gone(video));
                continue;
            };
            self.stamps.note(record);
            let example = clips.example(record, number);
            match split {
                Split::Train => {
                    self.training.push(example);
                    self.contents.push(part_of(record.sha256));
                }
                Split::Validation => self.validation.push(example),
                Split::Test => {}
            }
        }
        Ok(())
    }
}

/// The problem of a video that was deleted.
pub(super) fn gone(video: VideoId) -> String {
    format!("video {video} does not exist any more")
}
