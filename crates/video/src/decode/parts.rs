//! Hands the wanted frames of a video of any length out in order, part by part.
//!
//! Invariant: a frame is handed out once. What is held is one part, and between two parts nothing is decoded.

use super::convert::Converter;
use super::sink::{Nothing, Sink};
use super::{Choice, Effort, Method, Refusal, Source, Summary, full, sparse, wide};
use crate::answer::{Orientation, Probe, Ratio, Warnings};
use crate::ffmpeg::owned::Frame;
use crate::frames::FramesSpec;
use crate::probe::{self, Budget, Frames};
use crate::reject::Reject;
use crate::spec::{FrameOrder, RotationPolicy};
use crate::transform::{Planes, View, plan};

/// Takes a part whose planes are written; when it returns, the next part may be written.
pub(crate) type Give<'a> = &'a mut dyn FnMut(Summary);

/// Decodes the wanted frames; `give` gets every part but the last, which is returned.
pub(super) fn decode(
    source: &mut Source<'_>,
    (spec, planes): (&FramesSpec, &mut [f32]),
    give: Give<'_>,
    method: Method,
) -> Result<Summary, Refusal> {
    let index = source.index;
    let facts = &source.opened.facts;
    let (time_base, turned) = (
        facts.time_base,
        match spec.rotation {
            RotationPolicy::Display => facts.orientation,
            RotationPolicy::Stored => Orientation::STORED,
        },
    );
    // What the container says, until the first frame has come.
    let side = |side: i32| u32::try_from(side).unwrap_or(0).max(1);
    let declared = (side(facts.width), side(facts.height));
    // Without a doubt the packets say what the frames are.
    let mut frames = Frames {
        pts: index.pts.clone(),
        reference_frames: u32::try_from(index.pts.len()).unwrap_or(u32::MAX),
        size: declared,
        is_damaged: false,
        warnings: Warnings::default(),
    };
    let mut parts = Parts {
        spec,
        planes,
        converter: Converter::new(turned, spec.color),
        give,
        budget: source.budget.clone(),
        views: None,
        row: Vec::new(),
        choice: wanted(spec, &frames, time_base, spec.from),
        probe: probe::probe(&source.opened, index, &frames),
        is_sized: false,
        from: spec.from,
        base: 0,
        filled: Vec::new(),
    };
    let is_sure = method.effort == Effort::Needed && index.doubt.is_none();
    if is_sure && parts.choice.indices.is_empty() && !index.pts.is_empty() {
        return Ok(parts.rest());
    }
    if is_sure {
        let choice = parts.choice.clone();
        if sparse::decode(source, &choice, &mut parts)?.is_some() {
            return parts.end();
        }
    }
    // The times of the frames are known when all of them have been decoded.
    source.budget.renew();
    (frames, _) = full::decode(source, &Choice::default(), &mut Nothing)?;
    source.budget.renew();
    let choice = wanted(spec, &frames, time_base, parts.from);
    parts.begin_with(choice.clone());
    parts.probe = probe::probe(&source.opened, index, &frames);
    parts.is_sized = true;
    if !choice.indices.is_empty() {
        full::decode(source, &choice, &mut parts)?;
    }
    parts.end()
}

/// The wanted ones of these frames from a number on.
fn wanted(spec: &FramesSpec, frames: &Frames, time_base: Ratio, from: u32) -> Choice {
    let deduplicated;
    let pts = match spec.order {
        FrameOrder::Display => &frames.pts,
        FrameOrder::Reference => {
            let mut distinct = frames.pts.clone();
            distinct.dedup();
            deduplicated = distinct;
            &deduplicated
        }
    };
    let mut indices = spec.slide.wanted(pts, time_base);
    indices.retain(|&index| index >= from);
    Choice {
        pts: indices.iter().map(|&index| pts[index as usize]).collect(),
        indices,
        out_of_range: None,
    }
}

/// Makes planes, f32 [frames, views, 3, S, S], of one part after the other.
struct Parts<'a> {
    spec: &'a FramesSpec,
    planes: &'a mut [f32],
    converter: Converter,
    give: Give<'a>,
    budget: Budget,
    /// The views of pictures of this size.
    views: Option<((usize, usize), Vec<View>)>,
    row: Vec<f32>,
    choice: Choice,
    probe: Probe,
    /// Whether a frame has said what size the pictures have.
    is_sized: bool,
    /// Frames before this number have been handed out.
    from: u32,
    /// Place of the part's first frame in the choice.
    base: usize,
    /// Which of the part's frames are there.
    filled: Vec<bool>,
}

impl Parts<'_> {
    /// Frames of this part.
    fn room(&self) -> usize {
        let rest = self.choice.indices.len().saturating_sub(self.base);
        rest.min(self.spec.frames_per_part())
    }

    /// Starts over with another choice.
    fn begin_with(&mut self, choice: Choice) {
        self.choice = choice;
        self.base = 0;
        self.filled.clear();
    }

    /// What is in the part, which is then over.
    fn rest(&mut self) -> Summary {
        let part = self.base..self.base + self.filled.len();
        self.base = part.end;
        self.filled.clear();
        let indices = self.choice.indices[part.clone()].to_vec();
        if let Some(&last) = indices.last() {
            self.from = last.saturating_add(1);
        }
        Summary {
            probe: Some(self.probe.clone()),
            indices,
            pts: self.choice.pts[part].to_vec(),
            sizes: Vec::new(),
        }
    }

    /// The last part.
    fn end(mut self) -> Result<Summary, Refusal> {
        let is_whole = self.filled.len() == self.room() && self.filled.iter().all(|&is| is);
        match is_whole {
            true => Ok(self.rest()),
            false => Err(Reject::Undecodable.into()),
        }
    }

    /// Writes a frame to a place of the part.
    fn write(&mut self, frame: &Frame, at: usize) -> Result<(), Refusal> {
        let picture = self.converter.rgb(frame)?;
        let size = (picture.width, picture.height);
        let views = match &mut self.views {
            Some((own, views)) if *own == size => views,
            slot => {
                let views = plan(&self.spec.views, size, usize::from(self.spec.size));
                &mut slot.insert((size, views)).1
            }
        };
        let len = self.spec.values_per_view();
        let start = at * self.spec.values_per_frame();
        for (number, view) in views.iter().enumerate() {
            let start = start + number * len;
            let planes = Planes {
                values: &mut self.planes[start..start + len],
                frames: 1,
                frame: 0,
            };
            let normalization = &self.spec.normalization;
            wide::write(view, picture, normalization, planes, &mut self.row);
        }
        Ok(())
    }
}

impl Sink for Parts<'_> {
    fn put(&mut self, frame: &Frame, slots: &[usize]) -> Result<(), Refusal> {
        if !std::mem::replace(&mut self.is_sized, true) {
            (self.probe.width, self.probe.height) = frame.size();
        }
        for &slot in slots {
            // One that comes again was handed out already; one that comes too early is missed at the end.
            let Some(at) = slot.checked_sub(self.base).filter(|&at| at < self.room()) else {
                continue;
            };
            self.write(frame, at)?;
            if self.filled.len() <= at {
                self.filled.resize(at + 1, false);
            }
            self.filled[at] = true;
            let is_full = self.filled.len() == self.spec.frames_per_part();
            let is_last = self.base + self.filled.len() == self.choice.indices.len();
            if is_full && !is_last && self.filled.iter().all(|&is| is) {
                let part = self.rest();
                (self.give)(part);
                self.budget.renew();
            }
        }
        Ok(())
    }
}
