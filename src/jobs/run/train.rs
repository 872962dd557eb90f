//! The training loop: batches in, steps on the device, events and checkpoints out.
//!
//! Invariant: what is recorded as a checkpoint is in the store, whole; those before it are dropped only afterwards.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Run;
use super::prepare::Prepared;
use crate::blocking::blocking;
use crate::device;
use crate::faults;
use crate::jobs::checkpoint;
use crate::jobs::dataset::{Batches, Targets, frozen_row};
use crate::jobs::failure::Failure;
use crate::jobs::features::{self, Features, Kind};
use crate::jobs::memory;
use crate::jobs::progress::{Meter, Speed};
use crate::jobs::spent::Phase;
use crate::jobs::state::Stop;
use crate::jobs::trainer::{Input, Shared, StepError, StepReport, StepWalk};
use crate::metadata::{CheckpointRecord, Event, JobUpdate, StepMetrics};
use crate::model::aside;
use crate::spec::Digest;
use crate::store::layout;

/// Where the clips of the steps come from.
enum Source {
    /// Decoded ahead.
    Batches(Batches),
    /// Frozen features of every training example, for a set without sites.
    Features(Arc<Features>),
}

impl Run {
    /// Trains to the last step. Leaves a checkpoint when it has to stop before and the job goes on elsewhere.
    pub(super) async fn train(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        let mut saved = prepared.saved;
        let outcome = Box::pin(self.steps(prepared, &mut saved)).await;
        let goes_on = matches!(
            outcome,
            Err(Failure::Stopped(Stop::Drain | Stop::Pause)
                | Failure::Device(device::Error::Stopped)
                | Failure::Decoder(_))
        );
        if goes_on && let Err(failure) = self.save(prepared, &mut saved).await {
            tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "no checkpoint while stopping");
        }
        outcome
    }

    async fn steps(&mut self, prepared: &Prepared, saved: &mut Option<u64>) -> Result<(), Failure> {
        let plan = &prepared.training.plan;
        Box::pin(self.try_heads(prepared)).await?;
        let mut done = prepared.trainer.lock()?.position().step;
        // A checkpoint may be of the moment before its step's evaluation.
        if !self.goes_on(prepared, done).await? {
            return Ok(());
        }
        let mut source = self.source(prepared, done).await?;
        let mut meter = Meter::new(done, plan.total_steps());
        let began = Instant::now();
        loop {
            let (input, targets) = self.next(prepared, &mut source, done).await?;
            // Of the plan's batch, also in an epoch's last step: those ahead of it are whole.
            let room = prepared.demand.room(plan.batch_size);
            let stepped = self.step((&prepared.trainer, room), input, targets).await;
            let report = match stepped {
                Err(failure @ Failure::Diverged { .. }) => {
                    done = Box::pin(self.roll_back(prepared, failure)).await?;
                    // What was stored of later steps is of another course.
                    *saved = Some(done);
                    source = self.source(prepared, done).await?;
                    continue;
                }
                stepped => stepped?,
            };
            done = report.done;
            let ends_epoch = done.is_multiple_of(plan.steps_per_epoch());
            let is_due = ends_epoch || self.job.is_suspect;
            if let Some(speed) = meter.step(done, report.clips, began.elapsed(), is_due) {
                self.tell_step(prepared, &report, speed).await?;
            }
            let goes_on = self.goes_on(prepared, done).await?;
            let keeps_best = self.job.hyper_parameters.keep_checkpoints.is_some();
            let is_best = keeps_best && {
                let trainer = prepared.trainer.lock()?;
                trainer.position().looks.is_best_at(done)
            };
            // A crash after the last step repeats none.
            if plan.is_checkpoint_due(done) || !goes_on || is_best {
                self.save_or_tell(prepared, saved).await?;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn source(&self, prepared: &Prepared, done: u64) -> Result<Source, Failure> {
        if prepared.origin.adapter.has_sites() {
            return Ok(Source::Batches(prepared.training.batches(done)));
        }
        let head = prepared.origin.adapter.head;
        let draws = features::draws(head);
        let rows = prepared.training.examples.len() as u64;
        let most = self.context.config.feature_bytes;
        let of_example = self.feature_width(prepared, head) * draws;
        memory::check_features(rows, of_example, most).map_err(Failure::TooLarge)?;
        let _turn = self.feature_turn(prepared, head, Kind::Training).await?;
        let features = self.open_features(prepared, head, Kind::Training).await?;
        let forwards = self.forwards(prepared);
        let features = forwards.features(&prepared.training, (head, draws), features);
        let features = self.unless_stopped(features);
        let features = self.spent.during(Phase::Features, features).await?;
        Ok(Source::Features(Arc::new(features)))
    }

    async fn next(
        &self,
        prepared: &Prepared,
        source: &mut Source,
        step: u64,
    ) -> Result<(Input, Targets), Failure> {
        match source {
            Source::Batches(batches) => {
                let batch = self.unless_stopped(batches.next());
                let batch = self.spent.during(Phase::Clips, batch).await?;
                Ok((Input::Frames(batch.frames, batch.kept), batch.targets))
            }
            Source::Features(features) => {
                let training = &prepared.training;
                let picked = training.picked(step);
                let labels = picked.iter().map(|i| training.examples[*i].class).collect();
                let (epoch, _) = training.plan.position(step);
                let draws = features::draws(prepared.origin.adapter.head);
                let rows = picked.iter().map(|i| frozen_row(epoch, *i, draws));
                let rows: Vec<usize> = rows.collect();
                let features = Arc::clone(features);
                let rows = blocking(move || features.read(&rows)).await??;
                Ok((Input::Features(rows), training.targets(labels)))
            }
        }
    }

    /// One step of a trainer, whose backward pass may keep `room` bytes.
    pub(super) async fn step(
        &self,
        (trainer, room): (&Shared, u64),
        input: Input,
        targets: Targets,
    ) -> Result<StepReport, Failure> {
        let own = trainer.clone();
        let clips = targets.labels.len();
        let made = blocking(move || {
            // Packing the weights is not the device's turn.
            aside(|| StepWalk::new(own, input, targets, room))
        })
        .await?;
        let failed = |error| match error {
            StepError::NotFinite => match trainer.lock() {
                Ok(trainer) => Failure::Diverged {
                    step: trainer.position().step + 1,
                },
                Err(torn) => Failure::Torn(torn),
            },
            StepError::Model(error) => Failure::Model(error),
            StepError::Torn(torn) => Failure::Torn(torn),
        };
        let walk = made.map_err(failed)?;
        let device = self.device();
        let outcome = self
            .unless_stopped(async { Ok(device.run(walk).await?) })
            .await?;
        self.context
            .parts
            .metrics
            .job_step(&self.lease.tenant, clips);
        outcome.map_err(failed)
    }

    async fn tell_step(
        &self,
        prepared: &Prepared,
        report: &StepReport,
        speed: Speed,
    ) -> Result<(), Failure> {
        let plan = &prepared.training.plan;
        let (epoch, _) = plan.position(report.done - 1);
        let metrics = StepMetrics {
            step: report.done,
            total_steps: plan.total_steps(),
            epoch: u32::try_from(epoch + 1).unwrap_or(u32::MAX),
            loss: report.loss,
            accuracy: report.accuracy,
            learning_rate: report.learning_rate,
            clips_per_second: speed.clips_per_second,
            eta_micros: u64::try_from(speed.eta.as_micros()).unwrap_or(u64::MAX),
            device_bytes: report.bytes,
        };
        let update = JobUpdate {
            step: Some(report.done),
            ..JobUpdate::default()
        };
        // Where a suspect stands has to be exact, should the process end again.
        let now = self.job.is_suspect;
        self.journal.note(Event::Step(metrics), update, now).await
    }

    /// A checkpoint that cannot be stored costs time after a crash, but no reason to stop.
    async fn save_or_tell(
        &self,
        prepared: &Prepared,
        saved: &mut Option<u64>,
    ) -> Result<(), Failure> {
        match self.save(prepared, saved).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.outage().is_some() => {
                tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "a checkpoint is not stored");
                self.tell(
                    true,
                    "a checkpoint could not be stored; training goes on".into(),
                )
                .await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Stores the trainer's state of now, records it, and drops the checkpoints that the job does not keep.
    async fn save(&self, prepared: &Prepared, saved: &mut Option<u64>) -> Result<(), Failure> {
        let (trainer, origin) = (prepared.trainer.clone(), prepared.origin.clone());
        let (before, times) = (*saved, self.spent.times());
        let skipped = prepared.training.skipped();
        let encode = move || {
            let mut trainer = trainer.lock()?;
            let has_more = trainer.took(times, skipped);
            let position = trainer.position();
            let step = position.step;
            if before == Some(step) && !has_more {
                return Ok(None);
            }
            let is_best = position.looks.is_best_at(step);
            let bytes = aside(|| checkpoint::encode(&trainer, &origin))?;
            let sha256 = Digest(Sha256::digest(&bytes).into());
            Ok::<_, Failure>(Some((step, is_best, bytes, sha256)))
        };
        let Some((step, is_best, bytes, sha256)) = blocking(encode).await?? else {
            return Ok(());
        };
        let parts = &self.context.parts;
        let lease = &self.lease;
        let key = layout::checkpoint(&lease.tenant, lease.job, lease.epoch, step);
        let patience = &self.context.patience;
        let put = parts.store.put(&key, Bytes::from(bytes));
        patience.objects("write", key.as_str(), put).await?;
        let clips = prepared.training.plan.clips_of(step);
        let record = CheckpointRecord {
            step,
            key: key.to_string(),
            sha256,
            clip_frames: clips.saturating_mul(prepared.num_frames as u64),
            is_best,
        };
        let commit = parts.metadata.commit_checkpoint(lease, record);
        let dropped = patience.records(commit).await?;
        faults::point("checkpoint-written");
        *saved = Some(step);
        for old in &dropped {
            self.context.drop_checkpoint(lease.job, old).await;
        }
        Ok(())
    }
}
