//! The backward pass of a training step through one block, in slices of about the time of a forward one: requests wait for the slice that runs.
//!
//! Invariant: no bit of a result depends on the slices.

use super::{Kept, State, TrainingStep};
use crate::Error;
use crate::block::{Gradients, Hidden, Saved, SavedAttention};
use crate::ops::Array;

/// Where in a block the backward pass is.
pub(super) enum Back {
    /// Before the block, with the gradient of its output.
    Output(Array),
    /// The same, with the activations that were computed again.
    Again(Array, Box<Saved>),
    /// Between the halves, with the gradient of what the attention half gave and its activations.
    Attention(Array, Box<SavedAttention>),
}

impl TrainingStep {
    /// Goes back through a part of a block. Returns the state to continue with.
    pub(super) fn backward(&mut self, block: usize, back: Back) -> Result<State, Error> {
        let (dy, saved) = match back {
            Back::Output(dy) => match self.kept.pop() {
                Some(Kept::Saved(saved)) => (dy, saved),
                Some(Kept::Input(x)) => {
                    let saved = self.again(block, &x)?;
                    return Ok(State::Backward(block, Back::Again(dy, saved)));
                }
                None => return Err(Error::Order { what: "backward" }),
            },
            Back::Again(dy, saved) => (dy, saved),
            Back::Attention(dy, saved) => {
                let (_, reach) = self.shape.plan(block);
                let (run, sites) = (&self.backbone.vit.blocks[block], self.sites(block));
                let found = run.backward_attention(&dy, &saved, &sites, reach)?;
                let dx = self.found_in(block, found)?;
                return Ok(self.below(block, dx));
            }
        };
        let (_, reach) = self.shape.plan(block);
        let (run, sites) = (&self.backbone.vit.blocks[block], self.sites(block));
        let (found, attention) = run.backward_mlp(&dy, *saved, &sites, reach)?;
        let dx = self.found_in(block, found)?;
        Ok(match (dx, attention) {
            (Some(dx), Some(saved)) => State::Backward(block, Back::Attention(dx, Box::new(saved))),
            (dx, _) => self.below(block, dx),
        })
    }

    /// Computes the activations of a block again from its input.
    fn again(&self, block: usize, x: &Array) -> Result<Box<Saved>, Error> {
        let (tokens, reach) = self.shape.plan(block);
        let (run, sites) = (&self.backbone.vit.blocks[block], self.sites(block));
        let (_, saved) = run.forward(x, &sites, tokens, reach, Hidden::Kept)?;
        saved.map(Box::new).ok_or(Error::Order { what: "backward" })
    }

    /// Takes the gradients of a block's adapters. Returns that of what came into the part that was gone through.
    fn found_in(&self, block: usize, found: Gradients) -> Result<Option<Array>, Error> {
        for (name, gradient) in found.adapters.into_iter().flatten() {
            let name = format!("transformer.resblocks.{block}.{name}");
            self.found.set(&name, &gradient)?;
        }
        Ok(found.dx)
    }

    /// Returns the state after a block: the block below, or the next micro-batch when the gradient ends here.
    fn below(&mut self, block: usize, dx: Option<Array>) -> State {
        match dx {
            Some(dx) => State::Backward(block - 1, Back::Output(dx)),
            None => self.next(),
        }
    }
}
