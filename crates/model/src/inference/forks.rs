//! Where the rows of a batch's clips part, and where they are one again.
//!
//! Invariant: an adapter runs over all rows of its own clips; no bit of a result depends on which rows are one besides.

use std::cmp::Ordering;

use super::fields::Fields;
use super::{Array, Error, Inference, Sites, rows};
use crate::site::Site;

/// Where in a block a clip gets rows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// Before the block.
    Block,
    /// Between the attention half and the MLP half: the clip's lowest adapter is there.
    Mlp,
}

/// A half of a block, with the adapters before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Attention,
    Mlp,
}

impl Half {
    fn of<'a, 'b>(self, sites: &'b Sites<'a>) -> &'b [Site<'a>] {
        match self {
            Self::Attention => &sites.pre_attn,
            Self::Mlp => &sites.pre_mlp,
        }
    }
}

impl Inference {
    /// Runs the adapters before one half of a block, each over all rows of its own clips; afterwards rows that are equal are one.
    pub(super) fn adapted(&mut self, index: usize, x: Array, half: Half) -> Result<Array, Error> {
        if !Sites::any(half.of(&self.sites(index, self.lanes.own()))) {
            return Ok(x);
        }
        let x = self.parted(x)?;
        let sites = self.sites(index, self.lanes.own());
        let x = Sites::through(&x, half.of(&sites))?;
        drop(sites);
        self.merged(index, x, half)
    }

    /// Gives every frame of a clip with rows of its own a row again.
    pub(super) fn parted(&mut self, x: Array) -> Result<Array, Error> {
        Ok(match self.fields.as_mut().and_then(Fields::part) {
            Some(rows) => rows::gathered(&x, &rows)?,
            None => x,
        })
    }

    /// Gives frames of clips with rows of their own one row when the adapters that they have passed have seen the same.
    fn merged(&mut self, index: usize, x: Array, half: Half) -> Result<Array, Error> {
        let Some(fields) = &mut self.fields else {
            return Ok(x);
        };
        for &(clip, _) in self.lanes.own() {
            let set = &self.segments[self.places[clip]].set;
            fields.looked(clip, set.reach(index, half == Half::Attention));
        }
        if !self.lanes.is_apart() {
            return Ok(x);
        }
        let own = self.lanes.own().iter();
        let own: Vec<_> = own
            .map(|&(clip, frames)| (clip, frames, self.places[clip]))
            .collect();
        Ok(match fields.merge(&own) {
            Some(rows) => rows::gathered(&x, &rows)?,
            None => x,
        })
    }

    /// Whether, and where, a clip gets rows of its own in a block.
    pub(super) fn fork(&self, clip: usize, index: usize) -> Option<Fork> {
        let last = index + 1 == self.backbone.vit.blocks.len();
        let set = &self.segments[self.places[clip]].set;
        let first = set.first_block();
        if last && self.reads_patches(clip) {
            return Some(Fork::Block);
        }
        match first.cmp(&index) {
            Ordering::Less => Some(Fork::Block),
            Ordering::Equal if last || set.adapts_attention() => Some(Fork::Block),
            Ordering::Equal => Some(Fork::Mlp),
            Ordering::Greater => None,
        }
    }

    /// Gives the clips that leave rows of their own, copied from those that they had in common.
    pub(super) fn forked(
        &mut self,
        x: Array,
        leaves: impl Fn(usize) -> bool,
    ) -> Result<Array, Error> {
        Ok(match self.lanes.split(leaves) {
            Some(rows) => rows::gathered(&x, &rows)?,
            None => x,
        })
    }
}
