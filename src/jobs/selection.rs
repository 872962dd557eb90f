//! Evaluations of the validation split while a job trains: when one is due, which is the best, and when training stops.
//!
//! Invariant: pure; what follows from evaluations depends on their numbers and the policy alone, so that a resumed job stops at the same step and
//! publishes the same weights.

use crate::spec::{BestBy, Evaluation, Invalid, Publish, Selection, wilson};

/// Evaluations without progress after which training stops by default.
const PATIENCE: u32 = 10;
/// Share of the training clips that is held out by default when there is no validation split.
const SHARE: f64 = 0.2;
/// Most of a label's training clips that may be held out.
const MOST_SHARE: f64 = 0.5;
/// Clips below which a validation split says little.
pub(super) const FEW: u64 = 30;
/// Validation clips from which on they tell which evaluation is the best: the standard error of an accuracy on so many is at most 3.5 %.
pub(super) const ENOUGH: u64 = 200;
/// How far the training accuracy is above the upper end of the validation accuracy's interval when it is far ahead.
const AHEAD: f64 = 0.1;
/// Share of the loss of guessing from which on a training has learned nothing.
const GUESSING: f64 = 0.95;

/// Complete policy of evaluations, made of a submitted [`Selection`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Epochs from one evaluation to the next; 0 means one evaluation, at the end.
    pub eval_every: u32,
    /// Metric by which evaluations are compared.
    pub best_by: BestBy,
    /// Weights that are published: the best or the last.
    pub publish: Publish,
    /// Evaluations in a row without progress after which training stops; 0 means never.
    pub patience: u32,
    /// Share of each label's training clips that are held out when there is no validation split.
    pub validation_share: f64,
    /// Whether the test split is evaluated.
    pub evaluate_test: bool,
    /// Whether videos with almost the same pictures are looked for, and held out together.
    pub near_duplicates: bool,
}

impl Policy {
    /// What jobs of releases before there was a choice did.
    const BEFORE: Self = Self {
        eval_every: 0,
        best_by: BestBy::Top1,
        publish: Publish::Last,
        patience: 0,
        validation_share: 0.0,
        evaluate_test: false,
        near_duplicates: false,
    };

    /// Completes what was submitted.
    pub(super) fn new(submitted: Option<&Selection>) -> Self {
        let Some(submitted) = submitted else {
            return Self::BEFORE;
        };
        let eval_every = submitted.eval_every.unwrap_or(1);
        let looks = eval_every > 0;
        let (publish, patience) = match looks {
            true => (Publish::Best, PATIENCE),
            false => (Publish::Last, 0),
        };
        Self {
            eval_every,
            best_by: submitted.best_by.unwrap_or(BestBy::Top1),
            publish: submitted.publish.unwrap_or(publish),
            patience: submitted.patience.unwrap_or(patience),
            validation_share: submitted.validation_share.unwrap_or(SHARE),
            evaluate_test: submitted.evaluate_test.unwrap_or(true),
            // Jobs of a release that did not look go on without.
            near_duplicates: submitted.near_duplicates.unwrap_or(false),
        }
    }

    /// The same values as stored and shown.
    pub(super) fn as_submitted(self) -> Selection {
        Selection {
            eval_every: Some(self.eval_every),
            best_by: Some(self.best_by),
            publish: Some(self.publish),
            patience: Some(self.patience),
            validation_share: Some(self.validation_share),
            evaluate_test: Some(self.evaluate_test),
            near_duplicates: Some(self.near_duplicates),
            by_size: None,
        }
    }

    /// The policy of a job with adapters whose validation split has so many clips: where the caller left it to the job, few of them choose nothing.
    pub(super) fn for_clips(self, submitted: Option<&Selection>, clips: u64) -> Self {
        match chooses_last(submitted, clips) {
            true => Self {
                publish: Publish::Last,
                patience: 0,
                ..self
            },
            false => self,
        }
    }

    /// Whether the validation split is evaluated after so many epochs of so many.
    pub(super) fn is_due(self, epoch: u64, epochs: u64) -> bool {
        let every = u64::from(self.eval_every);
        every > 0 && epoch > 0 && (epoch.is_multiple_of(every) || epoch == epochs)
    }
}

/// Completes a new submission with what records of earlier releases lack.
pub(super) fn complete(submitted: &mut Selection) {
    submitted.near_duplicates.get_or_insert(true);
    let says_nothing = submitted.publish.is_none()
        && submitted.best_by.is_none()
        && submitted.patience.is_none_or(|patience| patience == 0)
        && submitted.eval_every != Some(0);
    if says_nothing {
        submitted.by_size.get_or_insert(true);
    }
}

/// Whether a job with adapters chooses its last weights, because its validation clips are too few to tell which are the best.
pub(super) fn chooses_last(submitted: Option<&Selection>, clips: u64) -> bool {
    submitted.is_some_and(|own| own.by_size == Some(true)) && clips < ENOUGH
}

/// Checks what a caller submitted.
///
/// # Errors
/// Names the first field that is out of range or contradicts another, with what was expected.
pub(super) fn check(submitted: &Selection) -> Result<(), Invalid> {
    for (field, value) in [
        ("eval_every", submitted.eval_every),
        ("patience", submitted.patience),
    ] {
        if let Some(value) = value.filter(|value| *value > 10_000) {
            let problem = format!("expected 0 to 10000, got {value}");
            return Err(Invalid::new(field, problem));
        }
    }
    let is_share = |share: &f64| (0.0..=MOST_SHARE).contains(share);
    if let Some(share) = submitted.validation_share.filter(|share| !is_share(share)) {
        let problem = format!("expected 0 to {MOST_SHARE}, got {share}");
        return Err(Invalid::new("validation_share", problem));
    }
    if submitted.eval_every == Some(0) {
        let problem = "needs evaluations while training, and eval_every is 0";
        if submitted.publish == Some(Publish::Best) {
            return Err(Invalid::new("publish", format!("best {problem}")));
        }
        if submitted.patience.is_some_and(|patience| patience > 0) {
            return Err(Invalid::new("patience", problem));
        }
    }
    Ok(())
}

/// One evaluation of the validation split.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Look {
    /// Steps that were done.
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) top1: f64,
    /// Mean average precision of labels that do not exclude one another; `None` of labels that do.
    pub(super) map: Option<f64>,
}

impl Look {
    /// The evaluation of the weights after so many steps.
    pub(super) fn of(step: u64, evaluation: &Evaluation) -> Self {
        Self {
            step,
            loss: evaluation.loss,
            top1: evaluation.top1,
            map: evaluation.independent.as_ref().map(|own| own.map),
        }
    }

    fn is_better(&self, than: &Self, by: BestBy) -> bool {
        match by {
            BestBy::Loss => self.loss < than.loss,
            BestBy::Top1 => {
                self.top1 > than.top1 || (self.top1 == than.top1 && self.loss < than.loss)
            }
            BestBy::Map => self.map > than.map || (self.map == than.map && self.loss < than.loss),
        }
    }
}

/// The evaluations of a job so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Looks {
    pub(super) list: Vec<Look>,
    /// Place of the best one in the list.
    pub(super) best: Option<usize>,
    /// Whether the validation split could not be evaluated: then it is not tried again, and the last weights are published.
    pub(super) is_blind: bool,
}

impl Looks {
    /// Adds an evaluation. Returns whether it is the best so far. One whose loss is no number never is.
    pub(super) fn add(&mut self, look: Look, by: BestBy) -> bool {
        let best = self.best();
        let is_best = look.loss.is_finite() && best.is_none_or(|best| look.is_better(best, by));
        if is_best {
            self.best = Some(self.list.len());
        }
        self.list.push(look);
        is_best
    }

    pub(super) fn best(&self) -> Option<&Look> {
        self.list.get(self.best?)
    }

    /// Whether the best evaluation is of the weights after this step.
    pub(super) fn is_best_at(&self, step: u64) -> bool {
        self.best().is_some_and(|best| best.step == step)
    }

    /// Whether an evaluation after this step was made.
    pub(super) fn has(&self, step: u64) -> bool {
        self.list.last().is_some_and(|look| look.step >= step)
    }

    /// Evaluations since the best one.
    pub(super) fn since_best(&self) -> usize {
        let made = self.best.map_or(0, |best| best + 1);
        self.list.len() - made.min(self.list.len())
    }

    /// Whether so many evaluations in a row made no progress that training stops.
    pub(super) fn is_over(&self, policy: Policy) -> bool {
        policy.patience > 0 && !self.is_blind && self.since_best() >= policy.patience as usize
    }
}

/// The accuracies of an epoch: that of training, and that of the evaluation after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) training: f64,
    pub(super) validation: f64,
}

impl Pair {
    /// Whether the training accuracy is far above what the true validation accuracy may be, of so many examples.
    pub(super) fn is_far_apart(self, examples: u64) -> bool {
        let right = (self.validation * examples as f64).round() as u64;
        examples > 0 && self.training >= wilson(right, examples).1 + AHEAD
    }
}

/// Whether a mean training loss is hardly below that of guessing.
pub(super) fn is_guessing(loss: f64, guess: f64) -> bool {
    loss >= GUESSING * guess
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::Tally;
    use crate::spec::LabelKind;

    fn look(step: u64, top1: f64, loss: f64) -> Look {
        Look {
            step,
            loss,
            top1,
            map: None,
        }
    }

    #[test]
    fn a_job_of_an_earlier_release_evaluates_once_and_publishes_its_last_weights() {
        let policy = Policy::new(None);
        assert_eq!(policy, Policy::BEFORE);
        assert!((0..=12).all(|epoch| !policy.is_due(epoch, 12)));
        let again = Policy::new(Some(&policy.as_submitted()));
        assert_eq!(again, policy);
    }

    #[test]
    fn few_validation_clips_choose_nothing_unless_the_caller_wants_it() {
        let chosen = |change: fn(&mut Selection), clips| {
            let mut submitted = Selection::default();
            change(&mut submitted);
            complete(&mut submitted);
            let policy = Policy::new(Some(&submitted)).for_clips(Some(&submitted), clips);
            (policy.publish, policy.patience)
        };
        assert_eq!(chosen(|_| {}, ENOUGH - 1), (Publish::Last, 0));
        assert_eq!(chosen(|_| {}, ENOUGH), (Publish::Best, PATIENCE));
        let never_stops: fn(&mut Selection) = |own| own.patience = Some(0);
        assert_eq!(chosen(never_stops, 9), (Publish::Last, 0));
        assert_eq!(chosen(never_stops, ENOUGH), (Publish::Best, 0));
        let patient: fn(&mut Selection) = |own| own.patience = Some(3);
        assert_eq!(chosen(patient, 9), (Publish::Best, 3));
        let best: fn(&mut Selection) = |own| own.publish = Some(Publish::Best);
        assert_eq!(chosen(best, 9), (Publish::Best, PATIENCE));
        let by_loss: fn(&mut Selection) = |own| own.best_by = Some(BestBy::Loss);
        assert_eq!(chosen(by_loss, 9), (Publish::Best, PATIENCE));
        // A record of an earlier release.
        let earlier = Selection::default();
        let policy = Policy::new(Some(&earlier)).for_clips(Some(&earlier), 9);
        assert_eq!(policy.publish, Publish::Best);
    }

    #[test]
    fn a_new_job_evaluates_every_epoch_and_the_last_one() {
        let due = |eval_every, epochs: u64| {
            let selection = Selection {
                eval_every,
                ..Selection::default()
            };
            let policy = Policy::new(Some(&selection));
            let due = (1..=epochs).filter(|epoch| policy.is_due(*epoch, epochs));
            (policy.publish, policy.patience, due.collect::<Vec<_>>())
        };
        assert_eq!(due(None, 4), (Publish::Best, 10, vec![1, 2, 3, 4]));
        assert_eq!(due(Some(3), 11), (Publish::Best, 10, vec![3, 6, 9, 11]));
        let off = Selection {
            eval_every: Some(0),
            ..Selection::default()
        };
        let policy = Policy::new(Some(&off));
        assert_eq!((policy.publish, policy.patience), (Publish::Last, 0));
    }

    #[test]
    fn contradictions_and_what_is_out_of_range_are_named() {
        let of = |change: fn(&mut Selection)| {
            let mut submitted = Selection::default();
            change(&mut submitted);
            check(&submitted).map_err(|invalid| invalid.field)
        };
        assert_eq!(of(|_| {}), Ok(()));
        assert_eq!(of(|s| s.eval_every = Some(10_001)), Err("eval_every"));
        assert_eq!(of(|s| s.patience = Some(10_001)), Err("patience"));
        assert_eq!(
            of(|s| s.validation_share = Some(0.6)),
            Err("validation_share")
        );
        assert_eq!(
            of(|s| s.validation_share = Some(f64::NAN)),
            Err("validation_share")
        );
        let blind = |s: &mut Selection| s.eval_every = Some(0);
        let mut best = Selection {
            publish: Some(Publish::Best),
            ..Selection::default()
        };
        assert_eq!(check(&best), Ok(()));
        blind(&mut best);
        assert_eq!(check(&best).map_err(|e| e.field), Err("publish"));
        let mut patient = Selection {
            patience: Some(2),
            ..Selection::default()
        };
        blind(&mut patient);
        assert_eq!(check(&patient).map_err(|e| e.field), Err("patience"));
    }

    #[test]
    fn the_best_is_the_first_of_equals_and_what_is_no_number_is_never_best() {
        let mut looks = Looks::default();
        assert!(!looks.add(look(1, 0.9, f64::NAN), BestBy::Top1));
        assert!(looks.add(look(2, 0.5, 0.7), BestBy::Top1));
        assert!(!looks.add(look(3, 0.5, 0.7), BestBy::Top1));
        assert!(looks.add(look(4, 0.5, 0.6), BestBy::Top1));
        assert!(!looks.add(look(5, 0.4, 0.1), BestBy::Top1));
        assert_eq!(looks.best().map(|best| best.step), Some(4));
        assert!(looks.has(5) && !looks.has(6));
        let mut looks = Looks::default();
        assert!(looks.add(look(1, 0.9, 0.5), BestBy::Loss));
        assert!(looks.add(look(2, 0.1, 0.4), BestBy::Loss));
        assert!(!looks.add(look(3, 0.9, 0.4), BestBy::Loss));
    }

    #[test]
    fn weights_whose_scores_are_no_numbers_are_never_the_best() {
        for kind in [LabelKind::Single, LabelKind::Multi] {
            let mut tally = Tally::new(2, kind);
            tally.add(&[0], &[f64::NAN, f64::NAN]);
            let own = Look::of(1, &tally.finish());
            for by in [BestBy::Top1, BestBy::Loss, BestBy::Map] {
                assert!(!Looks::default().add(own, by), "{kind:?} {by:?}");
            }
        }
    }

    #[test]
    fn training_stops_after_as_many_evaluations_without_progress_as_were_allowed() {
        let policy = Policy {
            patience: 2,
            ..Policy::BEFORE
        };
        let mut looks = Looks::default();
        assert!(!looks.is_over(policy));
        let over = [0.5, 0.4, 0.6, 0.6, 0.5, 0.9].map(|top1| {
            let step = looks.list.len() as u64;
            looks.add(look(step, top1, 1.0), BestBy::Top1);
            looks.is_over(policy)
        });
        assert_eq!(over, [false, false, false, false, true, false]);
        let patient = Policy {
            patience: 0,
            ..policy
        };
        assert!(!looks.is_over(patient));
    }

    #[test]
    fn training_is_far_ahead_when_chance_does_not_explain_it() {
        let of = |training, validation, examples| {
            let pair = Pair {
                training,
                validation,
            };
            pair.is_far_apart(examples)
        };
        assert!(of(0.96, 0.33, 12));
        assert!(!of(0.96, 0.75, 12), "a quarter of 12 may be chance");
        assert!(of(0.96, 0.75, 400));
        assert!(!of(1.0, 0.0, 0));
    }

    #[test]
    fn a_loss_of_guessing_is_known_by_the_number_of_classes() {
        let of = |loss, classes: f64| is_guessing(loss, classes.ln());
        assert!(of(0.69, 2.0) && !of(0.6, 2.0));
        assert!(of(1.79, 6.0) && !of(1.5, 6.0));
    }

    #[test]
    fn by_mean_average_precision_the_lower_loss_decides_between_equals() {
        let of = |step, map, loss| Look {
            map: Some(map),
            ..look(step, 0.9, loss)
        };
        let mut looks = Looks::default();
        assert!(looks.add(of(1, 0.5, 0.7), BestBy::Map));
        assert!(looks.add(of(2, 0.6, 0.9), BestBy::Map));
        assert!(!looks.add(of(3, 0.6, 0.9), BestBy::Map));
        assert!(looks.add(of(4, 0.6, 0.8), BestBy::Map));
    }
}
