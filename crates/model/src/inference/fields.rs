//! Frames of clips whose adapters have seen the same pictures at the same distance from the clips' ends: one row stands for all of them, until an adapter looks
//! at their neighbours again.
//!
//! Invariant: pure. Two frames have one row only if every picture that any adapter of theirs has looked at is the same one, in the same order, and if the clips
//! begin and end at the same distance as far as an adapter could tell.

use std::collections::HashMap;
use std::ops::Range;

use super::lanes::joined;
use crate::pictures::{Pictures, Place};

/// Rows are merged when at most this many of 8 are left, since copying them takes time, too.
const WORTH: usize = 7;

/// The frames of a batch's clips.
#[derive(Debug)]
pub(super) struct Fields {
    /// Number of the picture of each frame of each clip; equal numbers are the same picture.
    pictures: Vec<Vec<u32>>,
    /// Frames to either side of its own that a clip's adapters have looked at so far.
    reach: Vec<usize>,
    /// For each row of the clips the row that stands for it; none while each stands for itself.
    rows: Option<Vec<usize>>,
}

impl Fields {
    /// The frames of clips of so many frames each, before any adapter.
    pub(super) fn new(clips: &[Pictures], counts: &[usize]) -> Self {
        let mut known: HashMap<Place, u32> = HashMap::new();
        let mut number = |place| {
            let next = known.len() as u32;
            *known.entry(place).or_insert(next)
        };
        let pictures = clips.iter().zip(counts);
        let pictures = pictures
            .map(|(clip, &count)| (0..count).map(|t| number(clip.place(t))).collect())
            .collect();
        Self {
            pictures,
            reach: vec![0; clips.len()],
            rows: None,
        }
    }

    /// Gives each frame a row of its own. Returns the rows that the new ones are copied from, when anything changed.
    pub(super) fn part(&mut self) -> Option<Vec<Range<usize>>> {
        Some(joined(self.rows.take()?.into_iter()))
    }

    /// Notes that a clip's adapter has looked at so many frames to either side.
    pub(super) fn looked(&mut self, clip: usize, frames: usize) {
        self.reach[clip] += frames;
    }

    /// Gives frames of these clips one row when they are equal; each clip with the number of its frames and of its adapter set, in the order of the rows. Returns
    /// the rows that are left, when that is worth it.
    pub(super) fn merge(&mut self, clips: &[(usize, usize, usize)]) -> Option<Vec<Range<usize>>> {
        let (mut rows, mut left) = (Vec::new(), Vec::new());
        let mut known = HashMap::new();
        for &(clip, count, set) in clips {
            let (pictures, reach) = (&self.pictures[clip], self.reach[clip]);
            for t in 0..count {
                let from = t.saturating_sub(reach);
                let seen = &pictures[from..count.min(t + reach + 1)];
                let row = *known.entry((set, t - from, seen)).or_insert_with(|| {
                    left.push(rows.len());
                    left.len() - 1
                });
                rows.push(row);
            }
        }
        if 8 * left.len() > WORTH * rows.len() {
            return None;
        }
        self.rows = Some(rows);
        Some(joined(left.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// Clips of pictures with these numbers.
    fn clips(shown: &[Vec<usize>]) -> Vec<Pictures> {
        let pictures: Vec<Arc<[f32]>> = (0..16).map(|own| vec![own as f32].into()).collect();
        let clip = |numbers: &Vec<usize>| -> Vec<Arc<[f32]>> {
            numbers.iter().map(|&own| pictures[own].clone()).collect()
        };
        shown.iter().map(|own| Pictures::from(clip(own))).collect()
    }

    fn fields(shown: &[Vec<usize>]) -> (Fields, Vec<(usize, usize, usize)>) {
        let counts: Vec<usize> = shown.iter().map(Vec::len).collect();
        let own = counts
            .iter()
            .enumerate()
            .map(|(clip, &count)| (clip, count, 0));
        (Fields::new(&clips(shown), &counts), own.collect())
    }

    fn count(rows: &[Range<usize>]) -> usize {
        rows.iter().map(Range::len).sum()
    }

    #[test]
    fn overlapping_windows_differ_at_their_ends_alone() {
        let windows: Vec<Vec<usize>> = (0..8).map(|begin| (begin..begin + 8).collect()).collect();
        let (mut fields, own) = fields(&windows);
        // Fifteen frames; then thirteen of them inside, and of each window the first and the last one; then eleven inside, and two at each end.
        for expected in [15, 13 + 16, 11 + 32] {
            let rows = fields.merge(&own).expect("rows that are equal");
            assert_eq!(count(&rows), expected);
            assert_eq!(count(&fields.part().expect("rows were merged")), 64);
            assert_eq!(fields.part(), None);
            (0..8).for_each(|clip| fields.looked(clip, 1));
        }
        // Nine inside, and three at each end, are nearly all.
        assert_eq!(fields.merge(&own), None);
    }

    #[test]
    fn a_step_of_other_frames_or_another_set_is_no_twin() {
        let (mut fields, mut own) = fields(&[vec![0, 1, 2, 3], vec![0, 2, 4, 6], vec![0, 1, 2, 3]]);
        (0..3).for_each(|clip| fields.looked(clip, 1));
        // The third is the first again, and the second nobody's.
        assert_eq!(fields.merge(&own), Some(std::iter::once(0..8).collect()));
        fields.part();
        own[2].2 = 1;
        assert_eq!(fields.merge(&own), None);
    }

    proptest! {
        /// A row that stands for others has looked at the same pictures from the same places.
        #[test]
        fn rows_are_merged_only_with_their_like(
            shown in prop::collection::vec(prop::collection::vec(0_usize..4, 1..6), 1..7),
            sets in prop::collection::vec(0_usize..2, 7),
            reach in 0_usize..3,
        ) {
            let (mut fields, mut own) = fields(&shown);
            for (clip, _, set) in &mut own {
                *set = sets[*clip];
                fields.looked(*clip, reach);
            }
            // What each row has looked at, with a mark where a clip begins and ends.
            let mut all = Vec::new();
            for (pictures, set) in shown.iter().zip(&sets) {
                for t in 0..pictures.len() as isize {
                    let at = |t: isize| usize::try_from(t).ok().and_then(|t| pictures.get(t).copied());
                    let reach = reach as isize;
                    let seen: Vec<Option<usize>> = (t - reach..=t + reach).map(at).collect();
                    all.push((*set, seen));
                }
            }
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            match fields.merge(&own) {
                None => prop_assert!(8 * distinct.len() > WORTH * all.len()),
                Some(left) => {
                    let left: Vec<_> = left.into_iter().flatten().map(|row| &all[row]).collect();
                    prop_assert_eq!(left.len(), distinct.len());
                    let again = fields.part().expect("rows were merged");
                    let again: Vec<_> = again.into_iter().flatten().map(|row| left[row]).collect();
                    prop_assert_eq!(again, all.iter().collect::<Vec<_>>());
                }
            }
        }
    }
}
