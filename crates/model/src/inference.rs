//! One forward pass over a batch that mixes tasks, block by block.
//!
//! Invariant: the frozen layers run over the whole batch, whatever the tasks; an adapter runs only over its own segment. A frame that several clips show
//! is computed once, on request, up to the first adapter of a clip, which may be in the middle of a block, and beyond that for clips of one set whose adapters have
//! seen the same; no bit of a result depends on it.

mod fields;
mod forks;
mod lanes;
mod reading;
mod shared;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use fields::Fields;
use forks::{Fork, Half};
use lanes::Lanes;
use reading::Reading;

use super::block::{Sites, Tokens};
use super::kept::Prefix;
use super::ops::Array;
use super::ops::depthwise::Extent;
use super::ops::placed::rows;
use super::vit::{Picture, patches};
use super::{AdapterSet, Backbone, Error, Kept, Pictures, Step, threads};

pub use reading::Readout;

/// Adjacent clips of a batch that use one adapter set.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Adapter set of the clips.
    pub set: Arc<AdapterSet>,
    /// Range of the segment's clips in the batch.
    pub clips: Range<usize>,
    /// Number of frames of each clip.
    pub num_frames: usize,
}

/// Forward pass of a batch; each slice of the device advances it.
pub struct Inference {
    backbone: Arc<Backbone>,
    clips: Vec<Pictures>,
    segments: Vec<Segment>,
    /// One for each segment.
    readouts: Vec<Readout>,
    /// Index of each clip's segment.
    places: Vec<usize>,
    lanes: Lanes,
    /// Which rows of clips with rows of their own stand for others; none where clips have no frames in common.
    fields: Option<Fields>,
    /// Where the tokens of each clip's frames are kept.
    kept: Vec<Vec<Kept>>,
    /// Tokens that earlier batches kept, by the clip and the number of the frame in it.
    known: HashMap<(usize, usize), Prefix>,
    hidden: Option<Vec<Tensor>>,
    state: State,
}

enum State {
    Begin,
    /// Index of the next block, and its input, without the rows that come before this block; none as long as no row has come.
    Block(usize, Option<Array>),
    /// Tokens after the last block.
    Heads(Last),
    /// Everything is enqueued, and what the heads read is on its way.
    Reading(Reading),
    Done(Vec<Vec<f32>>),
}

/// Tokens of the clips after the last block.
struct Last {
    /// Class tokens, `[ΣT, C]`.
    class: Array,
    /// All tokens `[ΣT, L, C]` of each segment whose head reads them.
    whole: Vec<Option<Array>>,
}

impl Inference {
    /// Starts a forward pass over `clips`, each of them normalised planes of T frames. The segments cover all clips one after another. A set that is not where
    /// the backbone is ([`AdapterSet::beside`]) is copied there for this pass alone.
    ///
    /// # Errors
    /// When a clip, a segment or an adapter set does not fit.
    pub fn new(
        backbone: Arc<Backbone>,
        clips: Vec<impl Into<Pictures>>,
        mut segments: Vec<Segment>,
    ) -> Result<Self, Error> {
        let clips: Vec<Pictures> = clips.into_iter().map(Into::into).collect();
        check(&backbone, &clips, &segments)?;
        for segment in &mut segments {
            if !segment.set.is_beside(&backbone) {
                segment.set = Arc::new(segment.set.beside(&backbone)?);
            }
        }
        let per_clip = |(place, segment): (usize, &Segment)| {
            std::iter::repeat_n((place, segment.num_frames), segment.clips.len())
        };
        let per_clip = segments.iter().enumerate().flat_map(per_clip);
        let (places, counts): (Vec<usize>, Vec<usize>) = per_clip.unzip();
        Ok(Self {
            backbone,
            lanes: Lanes::apart(&counts),
            fields: None,
            readouts: vec![Readout::default(); segments.len()],
            places,
            clips,
            segments,
            kept: Vec::new(),
            known: HashMap::new(),
            hidden: None,
            state: State::Begin,
        })
    }

    /// Returns the same forward pass, but with all tokens through the last block and every block's output kept.
    #[must_use]
    pub fn with_hidden_states(mut self) -> Self {
        self.hidden = Some(Vec::new());
        self.lanes = Lanes::apart(&self.counts());
        self.fields = None;
        self
    }

    /// Returns the same forward pass, but with these readouts in place of logits, one for each segment.
    #[must_use]
    pub fn reading(mut self, readouts: impl IntoIterator<Item = Readout>) -> Self {
        for (own, readout) in self.readouts.iter_mut().zip(readouts) {
            *own = readout;
        }
        self
    }

    /// Returns the number of frames of each clip.
    fn counts(&self) -> Vec<usize> {
        let places = self.places.iter();
        places
            .map(|&place| self.segments[place].num_frames)
            .collect()
    }

    /// Runs one slice: the patch embedding, one block, or the heads. On a device a slice is over when it is enqueued; when all of them are, the next one only
    /// waits for the result.
    ///
    /// # Errors
    /// When the forward pass is already done, or the device has no room or is lost.
    pub fn advance(&mut self) -> Result<Step, Error> {
        match self.backbone.place().is_host() {
            true => threads::within(|| self.slice()),
            false => self.slice(),
        }
    }

    fn slice(&mut self) -> Result<Step, Error> {
        let state = std::mem::replace(&mut self.state, State::Begin);
        self.state = match state {
            State::Begin => {
                self.check_heads()?;
                let config = self.backbone.config();
                let (clips, len) = (&self.clips, config.frame_len());
                let pictures = (self.lanes.sources()).map(|(clip, t)| clips[clip].picture(t, len));
                let pictures: Vec<Picture<'_>> = pictures.collect();
                let vit = &self.backbone.vit;
                let begun = match pictures.is_empty() {
                    true => (self.lanes.next().unwrap_or(0), None),
                    false => {
                        let (x, _) = vit.embed(&patches(&pictures, config, vit.input())?)?;
                        (0, Some(x))
                    }
                };
                self.clips = Vec::new();
                State::Block(begun.0, begun.1)
            }
            State::Block(block, x) => self.block(block, x)?,
            State::Heads(last) => {
                let reading = self.read(&last)?;
                match self.backbone.place().is_host() {
                    true => State::Done(self.heads(reading)?),
                    false => State::Reading(reading),
                }
            }
            State::Reading(reading) => State::Done(self.heads(reading)?),
            State::Done(logits) => {
                self.state = State::Done(logits);
                return Err(Error::Order { what: "advance" });
            }
        };
        let step = match self.state {
            State::Done(_) => return Ok(Step::Done),
            State::Reading(_) => Step::Pending,
            State::Begin | State::Block(..) | State::Heads(_) => Step::More,
        };
        self.backbone.place().pace()?;
        Ok(step)
    }

    /// Returns whether the result is there, after [`Inference::advance`] has returned [`Step::Pending`].
    pub fn is_ready(&self) -> bool {
        match &self.state {
            State::Reading(reading) => reading.is_ready(),
            State::Begin | State::Block(..) | State::Heads(_) | State::Done(_) => true,
        }
    }

    /// Returns the logits of each clip, in the order of `clips`.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_logits(self) -> Result<Vec<Vec<f32>>, Error> {
        self.into_rows("into_logits")
    }

    /// Returns the readout of each clip, in the order of `clips`.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_readouts(self) -> Result<Vec<Vec<f32>>, Error> {
        self.into_rows("into_readouts")
    }

    fn into_rows(self, what: &'static str) -> Result<Vec<Vec<f32>>, Error> {
        match self.state {
            State::Done(rows) => Ok(rows),
            State::Begin | State::Block(..) | State::Heads(_) | State::Reading(_) => {
                Err(Error::Order { what })
            }
        }
    }

    /// Returns the outputs of the blocks so far, each `[ΣT, L, C]`; empty unless they were requested.
    pub fn hidden_states(&self) -> &[Tensor] {
        self.hidden.as_deref().unwrap_or_default()
    }

    fn block(&mut self, index: usize, x: Option<Array>) -> Result<State, Error> {
        let x = self.arrived(index, x)?;
        let last = index + 1 == self.backbone.vit.blocks.len();
        let forks: Vec<Option<Fork>> = (0..self.places.len())
            .map(|clip| self.fork(clip, index))
            .collect();
        // After the last block nobody reads tokens of all places of a frame.
        self.keep(index, &x, |clip| last || forks[clip].is_some())?;
        let x = self.forked(x, |clip| forks[clip] == Some(Fork::Block))?;
        if last {
            let x = self.parted(x)?;
            return Ok(State::Heads(self.last(index, &x)?));
        }
        let x = self.adapted(index, x, Half::Attention)?;
        let x = self.backbone.vit.blocks[index].infer_attention(&x)?;
        let x = self.forked(x, |clip| forks[clip].is_some())?;
        let x = self.adapted(index, x, Half::Mlp)?;
        let x = self.backbone.vit.blocks[index].infer_mlp(&x)?;
        if let Some(hidden) = &mut self.hidden {
            hidden.push(x.host()?);
        }
        Ok(State::Block(index + 1, Some(x)))
    }

    /// Runs a block over the frames of some clips with rows of their own, and over whatever follows them.
    fn infer(
        &self,
        index: usize,
        x: &Array,
        own: &[(usize, usize)],
        tokens: Tokens,
    ) -> Result<Array, Error> {
        let sites = self.sites(index, own);
        self.backbone.vit.blocks[index].infer(x, &sites, tokens)
    }

    /// Whether all tokens of the last block are needed of a clip.
    fn reads_patches(&self, clip: usize) -> bool {
        let place = self.places[clip];
        let head = self.segments[place].set.config().head;
        self.readouts[place] == Readout::Logits && head.reads_patches()
    }

    /// Runs the last block: with all tokens for clips whose head reads them, and with class tokens for the others, which no other clip changes.
    fn last(&mut self, index: usize, x: &Array) -> Result<Last, Error> {
        let is_whole = |clip: usize| self.hidden.is_some() || self.reads_patches(clip);
        let own = self.lanes.own().iter();
        let mut runs: Vec<(bool, Vec<(usize, usize)>)> = Vec::new();
        for &(clip, frames) in own {
            match runs.last_mut() {
                Some((whole, run)) if *whole == is_whole(clip) => run.push((clip, frames)),
                Some(_) | None => runs.push((is_whole(clip), vec![(clip, frames)])),
            }
        }
        // Nobody who reads common rows reads all tokens: such clips have just left.
        if self.lanes.common() > 0 && runs.last().is_none_or(|(whole, _)| *whole) {
            runs.push((false, Vec::new()));
        }
        let (mut classes, mut whole) = (Vec::new(), vec![None; self.segments.len()]);
        let (mut hidden, mut begin, count) = (None, 0, runs.len());
        for (number, (is_whole, run)) in runs.iter().enumerate() {
            let mut rows: usize = run.iter().map(|(_, frames)| frames).sum();
            if number + 1 == count {
                rows += self.lanes.common();
            }
            let part = x.rows(begin..begin + rows)?;
            begin += rows;
            if !is_whole {
                classes.push(self.infer(index, &part, run, Tokens::Class)?);
                continue;
            }
            let y = self.infer(index, &part, run, Tokens::All)?;
            classes.push(rows::class(&y)?);
            let mut from = 0;
            for own in run.chunk_by(|a, b| self.places[a.0] == self.places[b.0]) {
                let frames: usize = own.iter().map(|(_, frames)| frames).sum();
                whole[self.places[own[0].0]] = Some(y.rows(from..from + frames)?);
                from += frames;
            }
            hidden = Some(y);
        }
        if let (Some(kept), Some(y)) = (&mut self.hidden, hidden) {
            kept.push(y.host()?);
        }
        let class = self.forked(Array::cat(&classes)?, |_| true)?;
        Ok(Last { class, whole })
    }

    /// Returns the adapters in one block of clips whose frames begin at 0; what follows them has none there.
    fn sites(&self, block: usize, own: &[(usize, usize)]) -> Sites<'_> {
        let (mut sites, mut begin) = (Sites::default(), 0);
        let place = |(clip, _): &(usize, usize)| self.places[*clip];
        for run in own.chunk_by(|a, b| place(a) == place(b)) {
            let frames = begin..begin + run.iter().map(|(_, frames)| frames).sum::<usize>();
            begin = frames.end;
            let Some(segment) = run.first().and_then(|own| self.segments.get(place(own))) else {
                continue;
            };
            let extent = Extent {
                frames: segment.num_frames,
                grid: self.backbone.config().grid(),
            };
            segment.set.push_sites(block, &frames, extent, &mut sites);
        }
        sites
    }

    /// Returns an error unless every head that is read is one for its clips.
    fn check_heads(&self) -> Result<(), Error> {
        for (segment, readout) in self.segments.iter().zip(&self.readouts) {
            if *readout == Readout::Logits {
                segment.set.reads_frames(segment.num_frames)?;
            }
        }
        Ok(())
    }
}

/// Returns an error unless the segments cover all clips one after another, and clips and adapter sets fit.
fn check(backbone: &Backbone, clips: &[Pictures], segments: &[Segment]) -> Result<(), Error> {
    let mut begin = 0;
    for (index, segment) in segments.iter().enumerate() {
        let (own, last) = (&segment.clips, index + 1 == segments.len());
        let follows = own.start == begin && own.end > begin && own.end <= clips.len();
        if !follows || segment.num_frames == 0 || (last && own.end != clips.len()) {
            return Err(Error::Segments {
                index,
                got: own.clone(),
                begin,
                clips: clips.len(),
            });
        }
        segment.set.fits(backbone.config())?;
        let frame_len = backbone.config().frame_len();
        for clip in own.clone() {
            if clips[clip].frames(frame_len) != Some(segment.num_frames) {
                return Err(Error::ClipSize {
                    clip,
                    expected: segment.num_frames * frame_len,
                    got: clips[clip].values(),
                });
            }
        }
        begin = own.end;
    }
    if segments.is_empty() {
        return Err(Error::Segments {
            index: 0,
            got: 0..0,
            begin: 0,
            clips: clips.len(),
        });
    }
    Ok(())
}

/// Returns an error unless one clip's planes have the expected length.
pub(super) fn check_clip(clip: usize, planes: &[f32], expected: usize) -> Result<(), Error> {
    if planes.len() == expected {
        return Ok(());
    }
    Err(Error::ClipSize {
        clip,
        expected,
        got: planes.len(),
    })
}

#[cfg(test)]
mod tests;
