//! Evaluation of a version on a split of a data set, or classification of all of it: one classification a clip, in the order of the videos' ids.
//!
//! Invariant: the metrics are those of the scores that a classification of each clip gives, by the bit, however often the evaluation is interrupted;
//! memory does not grow with the number of clips.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::tally::{Place, Sums, Tally};
use super::{Answer, Caller, Choice, Error, Serving, Video};
use crate::engine;
use crate::ids::{VersionRef, VideoId};
use crate::library;
use crate::registry::Essentials;
use crate::spec::{
    Digest, Evaluation, ExampleLabels, Invalid, LabelKind, LabelRows, LabelSet, Split,
};
use crate::video;

/// Examples that the database is asked for at a time.
const PAGE: u32 = 1000;
/// Clips of one group: what an interruption repeats at most.
const GROUP: usize = 16;
/// Clips that are classified at a time: they fill batches, and are few beside the queue.
const PARALLEL: usize = 4;
/// First and longest pause before a clip that found no room is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How often a decoding that was interrupted by something else is tried.
const TRIES: u32 = 5;

/// Subject of an evaluation: a version, and a split of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Version whose scores are counted.
    pub version: String,
    /// Digest of the snapshot that holds the clips.
    pub dataset: Digest,
    /// Split of the snapshot; `None` for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Whether clips whose labels the version does not have are classified, too.
    #[serde(default, skip_serializing_if = "is_not")]
    pub classifies: bool,
}

/// Whether a flag is off, as in tokens of a release without it.
fn is_not(flag: &bool) -> bool {
    !flag
}

/// The clips of a snapshot that are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Digest of the snapshot.
    pub dataset: Digest,
    /// Split of the snapshot; `None` for all of it.
    pub split: Option<Split>,
    /// Whether clips whose labels the version does not have are classified, too.
    pub classifies: bool,
}

/// Progress of an evaluation: with its subject, all that is needed to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is evaluated.
    pub subject: Subject,
    after: Option<String>,
    unreadable: u64,
    unknown: u64,
    sums: Sums,
}

/// A clip's part of an evaluation.
#[derive(Debug)]
pub struct Judged {
    /// Video of the clip.
    pub video: VideoId,
    /// Labels of the clip in the data set.
    pub labels: ExampleLabels,
    /// Outcome of the clip.
    pub outcome: Verdict,
}

/// Outcome of a clip in an evaluation.
#[derive(Debug)]
pub enum Verdict {
    /// The clip was counted: its scores, the rows of its labels, and their place among the scores, unless it has no label.
    Counted(Box<Answer>, Vec<u32>, Option<Place>),
    /// The version does not have a label of the clip: it is not counted.
    UnknownLabel,
    /// The version does not have a label of the clip: it is not counted, but has scores.
    Classified(Box<Answer>),
    /// The video cannot be read: it is not counted.
    Unreadable(Error),
}

/// The metrics of an evaluation, and what they leave out.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Metrics of the clips that were counted.
    pub evaluation: Evaluation,
    /// Clips whose videos cannot be read.
    pub unreadable: u64,
    /// Clips whose labels the version does not have.
    pub unknown_labels: u64,
}

/// An evaluation under way.
pub struct Evaluator {
    serving: Serving,
    caller: Caller,
    version: VersionRef,
    essentials: Arc<Essentials>,
    rows: LabelRows,
    subject: Subject,
    tally: Tally,
    /// Whether the labels of the clips are of the same kind as those of the version; otherwise none is compared.
    fits: bool,
    unreadable: u64,
    unknown: u64,
    /// Last example that was judged.
    after: Option<VideoId>,
    page: VecDeque<(VideoId, ExampleLabels)>,
    /// Last example of the page, which may be of another split.
    read: Option<VideoId>,
    is_last: bool,
}

impl Serving {
    /// Begins an evaluation, or goes on where another one was.
    ///
    /// # Errors
    /// When the version cannot be used; [`Error::Resume`] when `progress` is of another evaluation.
    pub async fn evaluate(
        &self,
        caller: Caller,
        version: VersionRef,
        scope: Scope,
        progress: Option<Progress>,
    ) -> Result<Evaluator, Error> {
        let choice = Choice {
            task: version.task.clone(),
            version: Some(version.clone()),
        };
        let asked = self.version(&caller.tenant, &choice).await?;
        let (classes, kind) = {
            let labels = &asked.essentials.labels;
            (labels.len(), labels.kind())
        };
        let library = &self.parts.library;
        let of_clips = library.snapshot_kind(&caller.tenant, scope.dataset).await?;
        if of_clips != kind && !scope.classifies {
            let problem = match kind {
                LabelKind::Single => {
                    "its labels do not exclude one another, and those of the version do"
                }
                LabelKind::Multi => {
                    "its labels exclude one another, and those of the version do not"
                }
            };
            return Err(Invalid::new("dataset", problem).into());
        }
        let subject = Subject {
            version: version.to_string(),
            dataset: scope.dataset,
            split: scope.split,
            classifies: scope.classifies,
        };
        let mut evaluator = Evaluator {
            serving: self.clone(),
            caller,
            version,
            rows: asked.essentials.labels.by_name(),
            essentials: asked.essentials,
            subject,
            tally: Tally::new(classes, kind),
            fits: of_clips == kind,
            unreadable: 0,
            unknown: 0,
            after: None,
            page: VecDeque::new(),
            read: None,
            is_last: false,
        };
        if let Some(progress) = progress {
            let is_own = progress.subject == evaluator.subject;
            let tally = Tally::resumed(classes, kind, progress.sums).filter(|_| is_own);
            evaluator.tally = tally.ok_or(Error::Resume)?;
            evaluator.unreadable = progress.unreadable;
            evaluator.unknown = progress.unknown;
            let after = progress.after.map(|after| after.parse());
            evaluator.after = after.transpose().map_err(|_| Error::Resume)?;
            evaluator.read = evaluator.after;
        }
        Ok(evaluator)
    }
}

impl Evaluator {
    /// What is evaluated.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Labels of the version.
    pub fn labels(&self) -> &LabelSet {
        &self.essentials.labels
    }

    /// The next clips, in the order of their videos' ids; `None` after the last one.
    ///
    /// # Errors
    /// When the snapshot is gone, or the version cannot answer any more. What concerns one clip alone is its outcome.
    pub async fn next(&mut self) -> Result<Option<Vec<Judged>>, Error> {
        while self.page.is_empty() {
            if self.is_last {
                return Ok(None);
            }
            self.read_page().await?;
        }
        let group: Vec<(VideoId, ExampleLabels)> = {
            let count = GROUP.min(self.page.len());
            self.page.drain(..count).collect()
        };
        let judged: Vec<Result<Judged, Error>> = {
            let own = &*self;
            let work: Vec<_> = group
                .into_iter()
                .map(|(video, labels)| own.judge(video, labels))
                .collect();
            stream::iter(work).buffered(PARALLEL).collect().await
        };
        let judged: Vec<Judged> = judged.into_iter().collect::<Result<_, _>>()?;
        for clip in &judged {
            match &clip.outcome {
                Verdict::Counted(answer, rows, _) => self.tally.add(rows, &answer.scores.mean),
                Verdict::UnknownLabel | Verdict::Classified(_) => self.unknown += 1,
                Verdict::Unreadable(_) => self.unreadable += 1,
            }
            self.after = Some(clip.video);
        }
        Ok(Some(judged))
    }

    async fn read_page(&mut self) -> Result<(), Error> {
        let library = &self.serving.parts.library;
        let (tenant, digest) = (&self.caller.tenant, self.subject.dataset);
        let page = library.snapshot_examples(tenant, digest, self.read, PAGE);
        let page = page.await?;
        self.is_last = page.len() < PAGE as usize;
        self.read = page.last().map(|example| example.video).or(self.read);
        let split = self.subject.split;
        let is_own = |own: Split| split.is_none_or(|split| own == split);
        let own = page.into_iter().filter(|example| is_own(example.split));
        self.page = own.map(|example| (example.video, example.labels)).collect();
        Ok(())
    }

    async fn judge(&self, video: VideoId, labels: ExampleLabels) -> Result<Judged, Error> {
        let rows = self.rows.of(&labels).filter(|_| self.fits);
        let outcome = match rows.is_some() || self.subject.classifies {
            false => Verdict::UnknownLabel,
            true => match self.classify(video).await {
                Ok(answer) => match rows {
                    Some(rows) => {
                        let place = Place::of(&rows, &answer.scores.mean);
                        Verdict::Counted(Box::new(answer), rows, place)
                    }
                    None => Verdict::Classified(Box::new(answer)),
                },
                Err(error) if is_of_the_video(&error) => Verdict::Unreadable(error),
                Err(error) => return Err(error),
            },
        };
        Ok(Judged {
            video,
            labels,
            outcome,
        })
    }

    /// Classifies a clip; waits while there is no room for it.
    async fn classify(&self, video: VideoId) -> Result<Answer, Error> {
        let choice = Choice {
            task: self.version.task.clone(),
            version: Some(self.version.clone()),
        };
        let mut pause = PAUSES.0;
        let mut interrupted = 0;
        loop {
            let choices = std::slice::from_ref(&choice);
            let answers = self
                .serving
                .classify(&self.caller, choices, Video::Stored(video));
            let answer = match Box::pin(answers).await {
                Ok(mut answers) => match answers.pop() {
                    Some(answer) => answer,
                    None => Err(engine::Error::Stopped.into()),
                },
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Error::Engine(engine::Error::QueueFull { .. }))
                | Err(Error::Engine(engine::Error::RateExceeded(engine::RateExceeded {
                    wait: Some(_),
                    ..
                })))
                | Err(Error::Video(video::Error::QueueFull)) => {}
                Err(Error::Video(video::Error::Interrupted)) if interrupted < TRIES => {
                    interrupted += 1;
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// How far the evaluation has come. Its size is that of the confusion matrix: a few bytes for each of [`Evaluator::cells`].
    pub fn progress(&self) -> Progress {
        Progress {
            subject: self.subject.clone(),
            after: self.after.map(|after| after.to_string()),
            unreadable: self.unreadable,
            unknown: self.unknown,
            sums: self.tally.sums(),
        }
    }

    /// Number of cells that [`Evaluator::progress`] has.
    pub fn cells(&self) -> usize {
        self.tally.cells()
    }

    /// The metrics of the clips so far.
    pub fn finish(self) -> Evaluated {
        Evaluated {
            evaluation: self.tally.finish(),
            unreadable: self.unreadable,
            unknown_labels: self.unknown,
        }
    }
}

/// Whether an error is of the one video and not of the evaluation.
fn is_of_the_video(error: &Error) -> bool {
    match error {
        Error::Video(error) => matches!(
            error,
            video::Error::Rejected(_)
                | video::Error::IndexOutOfRange { .. }
                | video::Error::WindowOutOfRange { .. }
        ),
        Error::Library(error) => {
            matches!(error, library::Error::Damaged { .. }) || error.is_missing_video()
        }
        Error::NoServingVersion { .. }
        | Error::Backbone { .. }
        | Error::Logits { .. }
        | Error::Resume
        | Error::Invalid(_)
        | Error::SamplingChanged { .. }
        | Error::Windows(_)
        | Error::Sampling
        | Error::TooManyWindowStreams
        | Error::Registry(_)
        | Error::Engine(_) => false,
    }
}
