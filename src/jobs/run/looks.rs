//! Evaluations while a job trains, and which weights it publishes.
//!
//! Invariant: an evaluation belongs to the step after which it was made; which one is the best, and when training stops, follows from their numbers.

use std::sync::Arc;

use super::Run;
use super::prepare::Prepared;
use super::views::Views;
use crate::blocking::blocking;
use crate::jobs::calibration::Samples;
use crate::jobs::failure::Failure;
use crate::jobs::heads::Course;
use crate::jobs::selection::{self, Look, Pair};
use crate::jobs::spent::Phase;
use crate::metadata::{EvaluationMetrics, Event, JobUpdate};
use crate::model::{AdapterSet, aside};
use crate::spec::{BestBy, Evaluation, LabelKind, LabelMeans, Publish, Split};

/// Metrics of an evaluation, and the scores of its examples.
pub(super) type Measure = (Evaluation, Samples);

/// Evaluations of this claim, so that the published weights are not evaluated twice: each with its step.
#[derive(Debug, Default)]
pub(super) struct Measured {
    newest: Option<(u64, Measure)>,
    best: Option<(u64, Measure)>,
    /// Frozen features of the validation split, once they were wanted; `None` when they have no room.
    pub(super) views: Option<Option<Views>>,
}

impl Measured {
    fn of(&self, step: u64) -> Option<&Measure> {
        let kept = [&self.newest, &self.best].into_iter().flatten();
        let mut own = kept.filter(|(own, _)| *own == step);
        own.next().map(|(_, measure)| measure)
    }
}

/// The weights that are published, and the step after which the job had them.
pub(super) struct Chosen {
    pub(super) set: Arc<AdapterSet>,
    pub(super) step: u64,
    /// How the training of a head went that was tried beside the job's own weights, when that is what is published.
    pub(super) course: Option<Course>,
}

impl Run {
    /// Whether training goes on after so many steps. Evaluates the validation split first when that is due.
    pub(super) async fn goes_on(
        &mut self,
        prepared: &Prepared,
        done: u64,
    ) -> Result<bool, Failure> {
        let plan = &prepared.training.plan;
        let (epochs, per_epoch) = (u64::from(plan.epochs), plan.steps_per_epoch());
        let is_spent = prepared.trainer.lock()?.is_spent();
        // A budget may end training within an epoch.
        let is_last = done == plan.total_steps() || is_spent;
        let is_due = match done.is_multiple_of(per_epoch) {
            true => plan.selection.is_due(done / per_epoch, epochs),
            false => false,
        };
        let is_due = (is_due || (is_last && plan.selection.eval_every > 0 && done > 0))
            && !prepared.validation.is_empty();
        if is_due {
            let is_open = {
                let trainer = prepared.trainer.lock()?;
                let looks = &trainer.position().looks;
                !looks.is_blind && !looks.has(done)
            };
            if is_open {
                Box::pin(self.look(prepared, done)).await?;
            }
        }
        let is_over = prepared
            .trainer
            .lock()?
            .position()
            .looks
            .is_over(plan.selection);
        Ok(done < plan.total_steps() && !is_over && !is_spent)
    }

    /// Evaluates the weights of now on the validation split.
    async fn look(&mut self, prepared: &Prepared, done: u64) -> Result<(), Failure> {
        let set = self.trained(prepared).await?;
        let measure = match self.measure(prepared, &set).await? {
            Ok(measure) => measure,
            Err(problem) => {
                prepared.trainer.lock()?.go_blind();
                let text = format!(
                    "the validation split cannot be evaluated, training goes on to its end and publishes its last weights: {problem}"
                );
                return self.tell(true, text).await;
            }
        };
        let evaluation = &measure.0;
        let look = Look::of(done, evaluation);
        let means = LabelMeans::of(evaluation, prepared.labels.len());
        let (is_best, event, warning) = {
            let mut trainer = prepared.trainer.lock()?;
            let is_best = trainer.looked(look, set);
            let position = trainer.position();
            let (training, accuracy) = (position.losses.last(), position.accuracies.last());
            let (epoch, _) = prepared.training.plan.position(done - 1);
            let event = EvaluationMetrics {
                split: Split::Validation,
                step: done,
                epoch: u32::try_from(epoch + 1).unwrap_or(u32::MAX),
                examples: evaluation.examples,
                loss: evaluation.loss,
                top1: evaluation.top1,
                is_best,
                training_loss: training.copied(),
                training_accuracy: accuracy.copied(),
                mean_class_accuracy: means.recall,
                macro_f1: means.f1,
                map: look.map,
            };
            let per_epoch = prepared.training.plan.steps_per_epoch();
            let pair = |look: &Look| {
                let epoch = usize::try_from(look.step / per_epoch).unwrap_or(usize::MAX);
                let training = position.accuracies.get(epoch.checked_sub(1)?)?;
                Some(Pair {
                    training: *training,
                    validation: look.top1,
                })
            };
            let is_far =
                |look: &Look| pair(look).is_some_and(|pair| pair.is_far_apart(evaluation.examples));
            let (before, now) = match position.looks.list.split_last() {
                Some((now, before)) => (before, is_far(now)),
                None => (&[][..], false),
            };
            let is_news = now && !before.iter().any(is_far);
            (is_best, event, is_news.then(|| far_apart(&event)))
        };
        if is_best {
            self.measured.best = Some((done, measure.clone()));
        }
        self.measured.newest = Some((done, measure));
        let event = Event::Evaluation(event);
        let update = JobUpdate {
            step: Some(done),
            ..JobUpdate::default()
        };
        self.journal.note(event, update, true).await?;
        match warning {
            Some(text) => self.tell(true, text).await,
            None => Ok(()),
        }
    }

    /// The weights that are published: those of the best evaluation, if the job has one and publishes it, else the last ones.
    pub(super) async fn chosen(&self, prepared: &Prepared) -> Result<Chosen, Failure> {
        let plan = &prepared.training.plan;
        let (best, last) = {
            let trainer = prepared.trainer.lock()?;
            let position = trainer.position();
            let wants_best = plan.selection.publish == Publish::Best && !position.looks.is_blind;
            let look = position.looks.best().filter(|_| wants_best).copied();
            let best = look.zip(trainer.best().cloned());
            (best, position.step)
        };
        let Some((look, set)) = best.filter(|(look, _)| look.step < last) else {
            return Ok(Chosen {
                set: self.trained(prepared).await?,
                step: last,
                course: None,
            });
        };
        let (epoch, _) = plan.position(look.step.saturating_sub(1));
        let by = match plan.selection.best_by {
            BestBy::Loss => "loss",
            BestBy::Top1 => "top-1",
            BestBy::Map => "mean average precision",
        };
        let map = look
            .map
            .map_or_else(String::new, |map| format!("mAP {map:.3}, "));
        let text = format!(
            "the weights of epoch {} (step {}) are published, which have the best validation {by}: {map}top-1 {:.3}, loss {:.3}",
            epoch + 1,
            look.step,
            look.top1,
            look.loss
        );
        self.tell(false, text).await?;
        Ok(Chosen {
            set,
            step: look.step,
            course: None,
        })
    }

    /// The weights of now.
    pub(super) async fn trained(&self, prepared: &Prepared) -> Result<Arc<AdapterSet>, Failure> {
        let trainer = prepared.trainer.clone();
        let snapshot = move || {
            let trainer = trainer.lock()?;
            Ok::<_, Failure>(aside(|| trainer.snapshot())?)
        };
        Ok(Arc::new(blocking(snapshot).await??))
    }

    /// Metrics of the published weights on the validation split. What cannot be measured is no reason to lose the weights: then the metrics say why there
    /// are none.
    pub(super) async fn evaluate(
        &mut self,
        prepared: &Prepared,
        chosen: &Chosen,
    ) -> Result<Measure, Failure> {
        if let Some(known) = self.measured.of(chosen.step) {
            return Ok(known.clone());
        }
        if prepared.validation.is_empty() {
            let text = "the data set has no validation split: the version will have no metrics";
            self.tell(true, text.into()).await?;
        }
        match self.measure(prepared, &chosen.set).await? {
            Ok(measure) => Ok(measure),
            Err(problem) => {
                let text = format!("the evaluation failed, the version has no metrics: {problem}");
                self.tell(true, text).await?;
                let evaluation = Evaluation {
                    problem: Some(problem),
                    ..Evaluation::default()
                };
                Ok((evaluation, Samples::default()))
            }
        }
    }

    /// Metrics of a set on the validation split, or why it cannot be evaluated, now or ever.
    pub(super) async fn measure(
        &mut self,
        prepared: &Prepared,
        set: &Arc<AdapterSet>,
    ) -> Result<Result<Measure, String>, Failure> {
        let spent = Arc::clone(&self.spent);
        let measure = Box::pin(self.try_measure(prepared, set));
        match spent.during(Phase::Evaluations, measure).await {
            Ok(measure) => Ok(Ok(measure)),
            Err(failure) => self.spoiled(failure).map(Err),
        }
    }

    async fn try_measure(
        &mut self,
        prepared: &Prepared,
        set: &Arc<AdapterSet>,
    ) -> Result<Measure, Failure> {
        let forwards = self.forwards(prepared);
        let split = (&prepared.training.clips, &prepared.validation[..]);
        let views = match set.config().has_sites() {
            true => None,
            false => self.views(prepared).await?,
        };
        let metrics = async {
            match &views {
                Some(views) => {
                    let of = (&views.features, views.of);
                    forwards.evaluate_features(split, set, of).await
                }
                None => forwards.evaluate(split.0, split.1, set).await,
            }
        };
        Box::pin(self.unless_stopped(metrics)).await
    }

    /// Why an evaluation gives no metrics, for the job's owner.
    ///
    /// # Errors
    /// The failure itself when the job stops, or is taken again and evaluates once more.
    pub(super) fn spoiled(&self, failure: Failure) -> Result<String, Failure> {
        let is_last = self.job.errors + 1 >= self.context.config.errors;
        if !failure.spoils_metrics(is_last) {
            return Err(failure);
        }
        tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "an evaluation gives no metrics");
        Ok(match failure.reason() {
            Some(_) => failure.to_string(),
            None => "an internal error of the server".into(),
        })
    }

    /// Tells what the end of the training says about it.
    pub(super) async fn tell_end(&self, prepared: &Prepared) -> Result<(), Failure> {
        let plan = &prepared.training.plan;
        let (losses, done, since_best, is_over) = {
            let trainer = prepared.trainer.lock()?;
            let position = trainer.position();
            let looks = &position.looks;
            let is_over = looks.is_over(plan.selection) && position.step < plan.total_steps();
            let since_best = looks.since_best();
            (position.losses.clone(), position.step, since_best, is_over)
        };
        if is_over {
            let text = format!(
                "training stops after {} of {} epochs: {since_best} evaluations in a row were not better",
                done / plan.steps_per_epoch(),
                plan.epochs
            );
            self.tell(false, text).await?;
        }
        let classes = prepared.labels.len();
        let training = &prepared.training;
        let guess = training.truths.guess(&training.examples);
        let (Some(loss), Some(guess)) = (losses.last(), guess) else {
            return Ok(());
        };
        if !selection::is_guessing(*loss, guess) {
            return Ok(());
        }
        let how = match training.truths.kind() {
            LabelKind::Single => {
                format!("guessing among {classes} labels has too (ln {classes} = {guess:.3})")
            }
            LabelKind::Multi => {
                format!("scores that only say how frequent each label is have too ({guess:.3})")
            }
        };
        let text = format!(
            "the training loss ended at {loss:.3}, which {how}: the job has learned next to nothing; more epochs, another learning rate or adapters may help"
        );
        self.tell(true, text).await
    }
}

fn far_apart(event: &EvaluationMetrics) -> String {
    let (low, high) = event.interval();
    format!(
        "the training clips are far ahead of the validation clips: {:.2} of them are right, {:.2} of the validation clips (95 % interval {low:.2} to {high:.2}): the job fits its training clips and not the task; more clips, augmentation or smaller adapters may help",
        event.training_accuracy.unwrap_or_default(),
        event.top1
    )
}
