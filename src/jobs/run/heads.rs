//! Heads without adapters, tried before the adapters are trained, and the choice between them.
//!
//! Invariant: what is tried follows from the snapshot, the plan and the backbone, so that a claim that tries again finds the same; adapters train as if
//! nothing had been tried.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::Run;
use super::looks::{Chosen, Measure};
use super::prepare::Prepared;
use super::views::{Views, views_of};
use crate::blocking::blocking;
use crate::jobs::dataset::{Targets, frozen_row};
use crate::jobs::failure::Failure;
use crate::jobs::features::{self, Features, Kind};
use crate::jobs::heads::{self, Best, Compared, Course, Tried};
use crate::jobs::plan::Plan;
use crate::jobs::selection::Look;
use crate::jobs::spent::Phase;
use crate::jobs::trainer::{Input, Shared, Trainer};
use crate::metadata::{ComparedHead, Event, JobUpdate};
use crate::model::aside;
use crate::spec::Head;

/// What heads are trained and evaluated on.
struct Material {
    /// Features of the training examples.
    training: Arc<Features>,
    views: Views,
}

impl Run {
    /// Trains each head on frozen features, unless the job does not try any or has done so.
    pub(super) async fn try_heads(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        if !prepared.tries_heads || prepared.trainer.lock()?.tried().is_some() {
            return Ok(());
        }
        let tried = match self.material(prepared).await? {
            Ok(material) => Box::pin(self.tried(prepared, &material)).await?,
            Err(problem) => {
                let text = format!(
                    "head = auto: heads without adapters cannot be compared, the task's adapters are published: {problem}"
                );
                self.tell(true, text).await?;
                Tried::default()
            }
        };
        prepared.trainer.lock()?.has_tried(Arc::new(tried));
        Ok(())
    }

    /// The head whose features are stored of every example for heads that are tried; `None` when none is, or when there is no room.
    pub(super) fn tried_of(&self, prepared: &Prepared) -> Option<Head> {
        if !prepared.tries_heads {
            return None;
        }
        let frames = frames(prepared)?;
        // A task without adapters trains a linear probe itself.
        let has_sites = prepared.origin.adapter.has_sites();
        let probe = has_sites.then_some(Head::Mean);
        let heads = [Head::Attention(frames), Head::Frames(frames)];
        heads.into_iter().chain(probe).find(|of| {
            let rows = prepared.training.examples.len() * features::draws(*of);
            let views = prepared.validation.len() * views_of(prepared);
            self.fits(prepared, *of, rows + views)
        })
    }

    /// Features of both splits, or why there are none.
    async fn material(&mut self, prepared: &Prepared) -> Result<Result<Material, String>, Failure> {
        if prepared.validation.is_empty() {
            return Ok(Err("the data set has no validation split".into()));
        }
        let no_room = || "feature_bytes has no room for the features of the clips".to_owned();
        let Some(of) = self.tried_of(prepared) else {
            return Ok(Err(no_room()));
        };
        let views = match Box::pin(self.views(prepared)).await {
            Ok(Some(views)) => views,
            Ok(None) => return Ok(Err(no_room())),
            Err(failure) => return self.spoiled(failure).map(Err),
        };
        let _turn = self.feature_turn(prepared, of, Kind::Tried).await?;
        let features = self.open_features(prepared, of, Kind::Tried).await?;
        let forwards = self.forwards(prepared);
        let wanted = (of, features::draws(of));
        let features = forwards.features(&prepared.training, wanted, features);
        let features = self.unless_stopped(features);
        let training = Arc::new(self.spent.during(Phase::Features, features).await?);
        Ok(Ok(Material { training, views }))
    }

    async fn tried(&mut self, prepared: &Prepared, material: &Material) -> Result<Tried, Failure> {
        let mut tried = Tried::default();
        let mut bests = Vec::new();
        let Some(frames) = frames(prepared) else {
            return Ok(tried);
        };
        let has_sites = prepared.origin.adapter.has_sites();
        for head in heads::heads(material.views.of, frames, has_sites) {
            match Box::pin(self.try_head(prepared, head, material)).await {
                Ok(Some(best)) => {
                    tried.compared.push(Compared {
                        head,
                        parameters: best.set.parameters(),
                        look: best.course.look,
                    });
                    bests.push(best);
                }
                Ok(None) => {}
                Err(Failure::Diverged { step }) => {
                    let text = format!(
                        "head = auto: the loss of {head} is not finite at its step {step}: it is left out"
                    );
                    self.tell(true, text).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        let by = prepared.training.plan.selection.best_by;
        let best = heads::best_of(&tried.compared, by);
        tried.best = best.and_then(|place| bests.into_iter().nth(place));
        Ok(tried)
    }

    /// Trains one head. `None` when no evaluation gave a number, or a step has no room.
    async fn try_head(
        &mut self,
        prepared: &Prepared,
        head: Head,
        material: &Material,
    ) -> Result<Option<Best>, Failure> {
        let plan = heads::plan(&prepared.training.plan, head);
        let classes = prepared.labels.len();
        let demand = self.demand_of(heads::alone(head), classes, prepared.num_frames)?;
        if demand.admitted(Some(plan.batch_size)).is_err() {
            return Ok(None);
        }
        let trainer = fresh(prepared, head, plan.clone()).await?;
        let room = demand.room(plan.batch_size);
        for step in 0..plan.total_steps() {
            let (input, targets) = self.rows(prepared, (head, &plan, step), material).await?;
            let report = self.step((&trainer, room), input, targets).await?;
            if report.done.is_multiple_of(plan.steps_per_epoch()) {
                self.look_at_head(prepared, &trainer, material).await?;
                let is_over = trainer.lock()?.position().looks.is_over(plan.selection);
                if is_over {
                    break;
                }
            }
        }
        let trainer = trainer.lock()?;
        let position = trainer.position();
        let best = position.looks.best().copied().zip(trainer.best().cloned());
        Ok(best.map(|(look, set)| Best {
            set,
            course: Course {
                look,
                looks: position.looks.list.clone(),
                losses: position.losses.clone(),
                steps_per_epoch: plan.steps_per_epoch(),
            },
        }))
    }

    /// The features and labels of a step.
    async fn rows(
        &self,
        prepared: &Prepared,
        (head, plan, step): (Head, &Plan, u64),
        material: &Material,
    ) -> Result<(Input, Targets), Failure> {
        let training = &prepared.training;
        let picked = training.picked_by(plan, step);
        let labels = picked.iter().map(|i| training.examples[*i].class).collect();
        let (epoch, _) = plan.position(step);
        let of = material.views.of;
        let draws = features::draws(of);
        let rows = picked
            .iter()
            .map(|i| match head {
                // As a task of that head trains: on the first draw alone, which is the clip's middle.
                Head::Mean => *i * draws,
                Head::Frames(_) | Head::Conv | Head::Attention(_) => frozen_row(epoch, *i, draws),
            })
            .collect();
        let forwards = self.forwards(prepared);
        let rows = forwards
            .narrowed(&material.training, (rows, of), head)
            .await?;
        Ok((Input::Features(rows), training.targets(labels)))
    }

    /// Evaluates a head as it is now.
    async fn look_at_head(
        &self,
        prepared: &Prepared,
        trainer: &Shared,
        material: &Material,
    ) -> Result<(), Failure> {
        let own = trainer.clone();
        let snapshot = move || {
            let trainer = own.lock()?;
            let set = Arc::new(aside(|| trainer.snapshot())?);
            Ok::<_, Failure>((set, trainer.position().step))
        };
        let (set, step) = blocking(snapshot).await??;
        let split = (&prepared.training.clips, &prepared.validation[..]);
        let views = (&material.views.features, material.views.of);
        let forwards = self.forwards(prepared);
        let metrics = forwards.evaluate_features(split, &set, views);
        let (evaluation, _) = Box::pin(self.unless_stopped(metrics)).await?;
        let look = Look::of(step, &evaluation);
        trainer.lock()?.looked(look, set);
        Ok(())
    }

    /// What is published: the job's own weights, or a head without adapters whose evaluation is not worse. Tells all evaluations.
    pub(super) async fn compare(
        &mut self,
        prepared: &Prepared,
        (own, measure): (Chosen, Measure),
    ) -> Result<(Chosen, Measure), Failure> {
        let evaluation = &measure.0;
        let tried = prepared.trainer.lock()?.tried().cloned();
        let Some(tried) = tried.filter(|tried| !tried.compared.is_empty()) else {
            return Ok((own, measure));
        };
        let look = Look::of(own.step, evaluation);
        let by = prepared.training.plan.selection.best_by;
        let is_measured = evaluation.problem.is_none() && evaluation.examples > 0;
        let has_sites = prepared.origin.adapter.has_sites();
        let parameters = prepared.trainer.lock()?.parameters();
        let replaces = |best: &&Best| {
            let of = (&best.course.look, best.set.parameters());
            heads::replaces((of, (&look, parameters)), has_sites, by)
        };
        let best = tried.best.as_ref();
        let better = best.filter(|best| !is_measured || replaces(best));
        self.tell_compared(prepared, &tried, (look, better)).await?;
        let Some(best) = better else {
            return Ok((own, measure));
        };
        let measure = match self.measure(prepared, &best.set).await? {
            Ok(measure) => measure,
            // Features that were readable a moment ago are not any more: the job's own weights have metrics.
            Err(_) => return Ok((own, measure)),
        };
        let chosen = Chosen {
            set: Arc::clone(&best.set),
            step: best.course.look.step,
            course: Some(best.course.clone()),
        };
        Ok((chosen, measure))
    }

    async fn tell_compared(
        &self,
        prepared: &Prepared,
        tried: &Tried,
        (own, better): (Look, Option<&Best>),
    ) -> Result<(), Failure> {
        let adapter = prepared.origin.adapter;
        let chosen = better.map(|best| best.set.config().head);
        let head = |compared: &Compared| ComparedHead {
            head: compared.head,
            has_adapters: false,
            parameters: compared.parameters,
            step: compared.look.step,
            loss: compared.look.loss,
            top1: compared.look.top1,
            map: compared.look.map,
            is_published: chosen == Some(compared.head),
        };
        let mut all: Vec<ComparedHead> = tried.compared.iter().map(head).collect();
        all.push(ComparedHead {
            head: adapter.head,
            has_adapters: adapter.has_sites(),
            parameters: prepared.trainer.lock()?.parameters(),
            step: own.step,
            loss: own.loss,
            top1: own.top1,
            map: own.map,
            is_published: chosen.is_none(),
        });
        let event = Event::Comparison(all);
        self.journal.note(event, JobUpdate::default(), true).await
    }
}

/// Frames of a clip, which no head counts as 0.
fn frames(prepared: &Prepared) -> Option<NonZeroU16> {
    u16::try_from(prepared.num_frames)
        .ok()
        .and_then(NonZeroU16::new)
}

/// A trainer of a head without adapters, at step 0.
async fn fresh(prepared: &Prepared, head: Head, plan: Plan) -> Result<Shared, Failure> {
    let backbone = Arc::clone(&prepared.origin.backbone);
    let classes = prepared.labels.len();
    let fresh = move || Trainer::fresh(backbone, heads::alone(head), classes, plan);
    let trainer = blocking(fresh).await?.map_err(Failure::Task)?;
    Ok(trainer.shared())
}
