//! The head of a training step: logits, loss, and the gradients at and of the head.

use std::sync::Arc;

use candle_core::Tensor;

use super::backward::Back;
use super::{Gradients, State, TrainingStep};
use crate::ops::placed::linear::Rows;
use crate::ops::{Array, Numbers, loss};
use crate::weights::Found;
use crate::{Error, head};

/// Results of the head, over the clips so far.
#[derive(Default)]
pub(super) struct Scores {
    pub(super) losses: Vec<f64>,
    pub(super) correct: usize,
    pub(super) logits: Vec<Vec<f32>>,
    /// Head's input and gradient of its output for each micro-batch, since the gradient of the head's weights is one product over all clips.
    rows: Vec<(Array, Array)>,
}

impl TrainingStep {
    /// Runs the head over what it reads of the clips, `[clips · R, C]`, and back. Returns the state to continue with.
    pub(super) fn head(&mut self, tokens: &Array, from_clips: bool) -> Result<State, Error> {
        let backbone = Arc::clone(&self.backbone);
        let norm = &backbone.vit.ln_post;
        let (kind, clips) = (self.layers.config().head, self.now.len());
        let grid = backbone.config().grid();
        let normed = norm.forward(tokens, Numbers::F32)?;
        if normed.dim(0)? != clips * head::rows(kind, self.num_frames, grid) {
            return Err(Error::Order { what: "head" });
        }
        let (features, saved) = self.layers.head.features(&normed, clips)?;
        let width = features.dim(1)?;
        let factors = match &self.dropout {
            Some(dropout) => {
                let own = self.now.clone();
                Some(head::dropout(dropout.rate, &dropout.stream, own, width)?)
            }
            None => None,
        };
        let input = match &factors {
            Some(factors) => times(&features, factors)?,
            None => features,
        };
        let last = self.layers.head.last();
        let logits = last.forward(&input, Rows::All, Numbers::F32)?;
        let logits = logits.host()?;
        let scored = self.scored(&logits)?;
        let gradient = Array::Host(scored.gradient);
        self.scores.losses.extend(scored.rows);
        self.scores.correct += scored.correct;
        self.scores.logits.extend(logits.to_vec2()?);
        self.scores.rows.push((input, gradient.clone()));
        if self.now.end == self.labels.len() {
            self.head_gradients()?;
        }
        let blocks = backbone.vit.blocks.len();
        let goes_on = from_clips && self.shape.lowest() < blocks;
        if !goes_on && !self.layers.head.is_deep() {
            return Ok(self.next());
        }
        let head = &self.layers.head;
        let mut d_features = head.last().backward(&gradient, Rows::All)?;
        if let Some(factors) = &factors {
            d_features = times(&d_features, factors)?;
        }
        let (d_normed, found) =
            head.backward(&normed, &saved, &d_features, &self.found, goes_on)?;
        write(&self.found, found)?;
        let Some(d_normed) = d_normed else {
            return Ok(self.next());
        };
        let d_tokens = norm.backward(tokens, &d_normed, &d_normed.zeros_like()?)?;
        let frames = vec![self.num_frames; clips];
        let d_last = head::scattered(kind, &d_tokens, &frames, (grid, backbone.place()))?;
        Ok(State::Backward(blocks - 1, Back::Output(d_last)))
    }

    /// Loss of the logits of the micro-batch.
    fn scored(&self, logits: &Tensor) -> Result<loss::Loss, Error> {
        let (clips, smoothing) = (self.labels.len(), self.smoothing);
        if let Some(marks) = &self.marks {
            let classes = self.layers.classes();
            let own = self.now.start * classes..self.now.end * classes;
            let marks = (&marks.values[own], &marks.positive[..]);
            return Ok(loss::binary(logits, marks, clips, smoothing)?);
        }
        let labels = &self.labels[self.now.clone()];
        let goals = match self.goals.is_empty() {
            true => &[],
            false => &self.goals[self.now.clone()],
        };
        Ok(loss::towards(logits, (labels, goals), clips, smoothing)?)
    }

    /// Computes the gradients of the head's weights, from the rows of all clips.
    fn head_gradients(&mut self) -> Result<(), Error> {
        let (inputs, gradients): (Vec<Array>, Vec<Array>) =
            std::mem::take(&mut self.scores.rows).into_iter().unzip();
        let (x, dy) = (Array::cat(&inputs)?, Array::cat(&gradients)?);
        let mut found = Found::new();
        let (x, dy) = ((&x, Rows::All), (&dy, Rows::All));
        let head = &self.layers.head;
        let names = head.last_names();
        let names = [names[0].as_str(), names[1].as_str()];
        head.last().gradients(x, dy, names, &mut found)?;
        write(&self.found, found)
    }
}

/// Writes gradients to the sums of the step.
fn write(all: &Gradients, found: Found) -> Result<(), Error> {
    for (name, gradient) in found {
        all.set(&name, &gradient)?;
    }
    Ok(())
}

/// Returns the products of the elements of two arrays on the host.
fn times(a: &Array, b: &Array) -> Result<Array, Error> {
    Ok(Array::Host((a.host()? * b.host()?)?))
}
