//! What the device runs for a job: training steps, and forwards that only look.
//!
//! Invariant: a step's last slice updates the trainer under its lock; every slice before it only reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Input, Shared, StepError, StepReport};
use crate::device::Walk;
use crate::faults;
use crate::jobs::dataset::Targets;
use crate::model::{self, AdapterSet, Backbone, Error, Features, Inference, Step, TrainingStep};

/// One step: forward, loss, backward, then the optimiser in the last slice.
pub(in crate::jobs) struct StepWalk {
    trainer: Shared,
    step: Option<TrainingStep>,
    clips: u64,
    bytes: u64,
    slices: u64,
    time: Duration,
    result: Option<Result<StepReport, StepError>>,
}

impl StepWalk {
    /// Prepares the step that follows the trainer's position; `room` is what its backward may keep, in bytes.
    pub(in crate::jobs) fn new(
        trainer: Shared,
        input: Input,
        targets: Targets,
        room: u64,
    ) -> Result<Self, StepError> {
        let clips = targets.labels.len() as u64;
        let step = trainer.lock()?.begin(input, targets, room)?;
        Ok(Self {
            bytes: step.bytes(),
            step: Some(step),
            trainer,
            clips,
            slices: 0,
            time: Duration::ZERO,
            result: None,
        })
    }

    fn slice(&mut self) -> Result<Option<StepReport>, StepError> {
        let began = Instant::now();
        self.slices += 1;
        if self.slices == 2 {
            faults::point("mid-step");
        }
        let Some(mut step) = self.step.take() else {
            let what = "a slice after a step's end";
            return Err(Error::Order { what }.into());
        };
        if step.advance()? != Step::Done {
            self.step = Some(step);
            self.time += began.elapsed();
            return Ok(None);
        }
        let output = step.finish()?;
        let mut trainer = self.trainer.lock()?;
        let report = trainer.update(output, self.clips, self.bytes)?;
        trainer.position.training += self.time + began.elapsed();
        Ok(Some(report))
    }
}

impl Walk for StepWalk {
    type Output = Result<StepReport, StepError>;

    fn advance(&mut self) -> Step {
        match self.slice().transpose() {
            None => Step::More,
            Some(result) => {
                self.result = Some(result);
                Step::Done
            }
        }
    }

    fn finish(self) -> Self::Output {
        let what = "a step's result";
        self.result.unwrap_or(Err(Error::Order { what }.into()))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A forward whose outcome is one row of numbers per clip.
pub(in crate::jobs) enum Forward {
    /// Logits of the clips.
    Logits(Box<Inference>),
    /// Frozen features of the clips.
    Features(Box<Features>),
    /// Logits of a set without adapters from frozen features.
    Head(Box<HeadPass>),
}

/// A head over frozen features: one slice.
pub(in crate::jobs) struct HeadPass {
    pub(in crate::jobs) backbone: Arc<Backbone>,
    pub(in crate::jobs) set: Arc<AdapterSet>,
    /// Rows that go in, and logits once they are there.
    pub(in crate::jobs) rows: Vec<Vec<f32>>,
}

impl HeadPass {
    fn advance(&mut self) -> Result<Step, Error> {
        self.rows = model::logits(&self.backbone, &self.set, &self.rows)?;
        Ok(Step::Done)
    }
}

/// Runs a [`Forward`] on the device.
pub(in crate::jobs) struct ForwardWalk {
    forward: Forward,
    failed: Option<Error>,
}

impl ForwardWalk {
    pub(in crate::jobs) fn new(forward: Forward) -> Self {
        Self {
            forward,
            failed: None,
        }
    }
}

impl Walk for ForwardWalk {
    type Output = Result<Vec<Vec<f32>>, Error>;

    fn advance(&mut self) -> Step {
        let step = match &mut self.forward {
            Forward::Logits(inference) => inference.advance(),
            Forward::Features(features) => features.advance(),
            Forward::Head(head) => head.advance(),
        };
        step.unwrap_or_else(|error| {
            self.failed = Some(error);
            Step::Done
        })
    }

    fn finish(self) -> Self::Output {
        match (self.failed, self.forward) {
            (Some(error), _) => Err(error),
            (None, Forward::Logits(inference)) => inference.into_logits(),
            (None, Forward::Features(features)) => features.into_features(),
            (None, Forward::Head(head)) => Ok(head.rows),
        }
    }
}
