//! Frames that several clips show: computed once in a batch, and known from earlier batches where their tokens are kept.
//!
//! Invariant: no bit of a result depends on it.

#[cfg(doc)]
use super::Backbone;
use super::fields::Fields;
use super::lanes::Lanes;
use super::{Array, Error, Inference, Prefix, rows};

impl Inference {
    /// Returns the same forward pass, but with frames that several clips show computed once, up to the first adapter of a clip. Where tokens are kept
    /// ([`Backbone::keeps_tokens`]), that goes for the clips of later batches, too, if their frames have a place for them. On the host it also goes beyond the
    /// first adapter, for clips of one set in which a frame has the same neighbours as far as its adapters look. This changes no result.
    #[must_use]
    pub fn sharing(mut self) -> Self {
        if self.hidden.is_some() {
            return self;
        }
        if self.backbone.keeps_tokens() {
            self.kept = self.clips.iter().map(|own| own.kept().to_vec()).collect();
        }
        let of_clips = self.kept.iter().enumerate();
        let places = of_clips.flat_map(|(clip, kept)| {
            let frames = kept.iter().enumerate();
            frames.map(move |(t, kept)| ((clip, t), kept))
        });
        let known = places.filter_map(|(place, kept)| Some((place, kept.tokens()?)));
        self.known = known.collect();
        let leaves: Vec<usize> = (0..self.places.len()).map(|own| self.leaves(own)).collect();
        let before = |clip, t| self.known.get(&(clip, t)).map(|tokens| tokens.block);
        let counts = self.counts();
        self.lanes = Lanes::shared(&self.clips, &counts, &leaves, before);
        let is_shared = !self.lanes.is_apart() && self.backbone.place().is_host();
        self.fields = is_shared.then(|| Fields::new(&self.clips, &counts));
        self
    }

    /// Returns the number of frames that are still to join the forward pass with tokens that earlier batches kept; before the first slice these are all that do.
    pub fn resumed_frames(&self) -> usize {
        self.lanes.later()
    }

    /// Returns the block at which a clip gets rows of its own.
    fn leaves(&self, clip: usize) -> usize {
        let blocks = self.backbone.vit.blocks.len();
        let first = self.segments[self.places[clip]].set.first_block();
        match self.reads_patches(clip) {
            true => first.min(blocks.saturating_sub(1)),
            false => first,
        }
    }

    /// Adds the rows that come before a block, whose tokens earlier batches kept.
    pub(super) fn arrived(&mut self, index: usize, x: Option<Array>) -> Result<Array, Error> {
        let mut parts: Vec<Array> = x.into_iter().collect();
        for place in self.lanes.coming(index) {
            let tokens = self.known.remove(&place);
            parts.push(
                tokens
                    .ok_or(Error::Order {
                        what: "kept tokens",
                    })?
                    .x,
            );
        }
        Ok(Array::cat(&parts)?)
    }

    /// Keeps the tokens of common rows before a block, for those clips of later batches that show the same frames.
    pub(super) fn keep(
        &self,
        block: usize,
        x: &Array,
        reads: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        if block == 0 || self.kept.iter().all(Vec::is_empty) {
            return Ok(());
        }
        for (clip, t, row) in self.lanes.read_by(reads) {
            let kept = self.kept.get(clip).and_then(|own| own.get(t));
            if let Some(kept) = kept.filter(|kept| kept.wants(block)) {
                let x = rows::gathered(x, std::slice::from_ref(&(row..row + 1)))?;
                kept.keep(Prefix { block, x });
            }
        }
        Ok(())
    }
}
