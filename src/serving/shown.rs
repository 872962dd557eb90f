//! Pictures that are there, through the engine by every version that is to answer about them.
//!
//! Invariant: the answer never waits for a shadow version. In a stream, a version of a split that turns out to be unable to serve costs no answer: another
//! one that takes its clips in the same way answers in its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choosing::cannot_serve;
use super::{Answer, Asked, Caller, Error, SampledFrame, Serving, scored};
use crate::engine::{self, Permit, Pictures};

/// Pictures for one version.
pub(super) struct Shown<'a> {
    /// The version.
    pub(super) asked: &'a Asked,
    /// Pictures of each view.
    pub(super) views: Vec<Pictures>,
    /// The frames that the pictures are of.
    pub(super) frames: &'a [SampledFrame],
    /// Time that decoding took.
    pub(super) decode: Duration,
}

/// The answer about pictures of a stream.
pub(super) struct Given {
    pub(super) answer: Result<Answer, Error>,
    /// The version that answered in place of the one that was asked.
    pub(super) by: Option<Arc<Asked>>,
}

impl Asked {
    /// Whether another version's answers can go on where this one's ended: the same clips, and the same labels.
    fn is_like(&self, other: &Self) -> bool {
        let (own, other) = (&self.essentials, &other.essentials);
        own.sampling == other.sampling && own.labels == other.labels
    }
}

impl Serving {
    /// Answers by each version, in their order. Shadow versions see the pictures, too.
    ///
    /// # Errors
    /// When the deadline passes. What concerns one version is the error of its own answer.
    pub(super) async fn run(
        &self,
        permit: &Permit,
        deadline: Option<Instant>,
        shown: Vec<Shown<'_>>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let shadows = shown.iter().map(|own| self.shadows(own.asked, &own.views));
        let shadows: Vec<_> = shadows.collect();
        // The engine holds the pictures from here on, and no longer than it needs them.
        let apart = shown.into_iter().map(|own| {
            let version = own.asked.version.clone();
            let clips = own.views;
            let about = (own.asked, own.frames, own.decode);
            (engine::Clips { version, clips }, about)
        });
        let (clips, about): (Vec<_>, Vec<_>) = apart.unzip();
        let engine = &self.parts.engine;
        let answers = engine.classify_each(permit, clips, deadline).await?;
        let mut scored_all = Vec::with_capacity(answers.len());
        let each = answers.into_iter().zip(about).zip(shadows);
        for ((answer, (asked, frames, decode)), shadows) in each {
            let answer = answer.map_err(Error::from);
            let answer = answer.and_then(|answer| scored(asked, answer, (frames, decode)));
            if answer.is_err() {
                self.parts.metrics.classification_failed(&asked.version);
            }
            self.watch(shadows, &answer);
            scored_all.push(answer);
        }
        Ok(scored_all)
    }

    /// Same as [`Serving::run`] for pictures of a stream, which cannot be decoded anew for another version.
    ///
    /// # Errors
    /// Same as [`Serving::run`].
    pub(super) async fn run_of_stream(
        &self,
        permit: &Permit,
        caller: &Caller,
        shown: Vec<Shown<'_>>,
    ) -> Result<Vec<Given>, Error> {
        let again = |own: &Shown<'_>| own.asked.is_shared.then(|| own.views.clone());
        let again: Vec<_> = shown.iter().map(again).collect();
        let about = shown.iter().map(|own| (own.asked, own.frames, own.decode));
        let about: Vec<_> = about.collect();
        let answers = self.run(permit, caller.deadline, shown).await?;
        let mut all = Vec::with_capacity(answers.len());
        let each = answers.into_iter().zip(about).zip(again);
        for ((answer, (asked, frames, decode)), again) in each {
            self.tell(asked, &answer).await;
            let mut given = Given { answer, by: None };
            if let Some(views) = again.filter(|_| cannot_serve(&given.answer)) {
                let missing = Shown {
                    asked,
                    views,
                    frames,
                    decode,
                };
                self.stand_in(permit, caller, missing, &mut given).await;
            }
            all.push(given);
        }
        Ok(all)
    }

    /// Has other versions of the split answer, until one of them does or none is left; then the first error stands.
    async fn stand_in(
        &self,
        permit: &Permit,
        caller: &Caller,
        missing: Shown<'_>,
        given: &mut Given,
    ) {
        let mut refused = vec![(0, vec![missing.asked.version.clone()])];
        while cannot_serve(&given.answer) {
            let others = self.others(caller, caller.key, &refused).await;
            let Some((_, other)) = others.into_iter().next() else {
                return;
            };
            refused[0].1.push(other.version.clone());
            if !other.is_like(missing.asked) {
                continue;
            }
            let again = Shown {
                asked: &other,
                views: missing.views.clone(),
                ..missing
            };
            let again = self.run(permit, caller.deadline, vec![again]).await;
            let Some(answer) = again.ok().and_then(|mut answers| answers.pop()) else {
                return;
            };
            self.tell(&other, &answer).await;
            if answer.is_ok() {
                *given = Given {
                    answer,
                    by: Some(Arc::new(other)),
                };
            }
        }
    }
}
