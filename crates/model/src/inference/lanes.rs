//! Which rows of the running tensor stand for which frames of a batch: a frame that several clips show is one row until one of them meets an adapter.
//!
//! Invariant: pure. Clips with rows of their own come first, in their order and with their frames in theirs; the rows that clips have in common follow, and
//! none of those clips has an adapter below.

use std::collections::HashMap;
use std::ops::Range;

use crate::pictures::{Pictures, Place};

/// A clip that reads common rows, and the row of each of its frames among them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reader {
    clip: usize,
    rows: Vec<usize>,
}

/// The rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lanes {
    /// Clips with rows of their own and the number of their frames, ascending.
    own: Vec<(usize, usize)>,
    /// Clips that read common rows, ascending.
    readers: Vec<Reader>,
    /// A clip, and the number of the frame in it, whose picture each common row is.
    common: Vec<(usize, usize)>,
}

impl Lanes {
    /// One row for each different frame of clips of so many frames each. A clip that shares no frame has rows of its own from the beginning.
    pub(super) fn shared(clips: &[Pictures], counts: &[usize]) -> Self {
        let mut uses: HashMap<Place, usize> = HashMap::new();
        let all = || clips.iter().zip(counts).enumerate();
        for (_, (clip, &count)) in all() {
            for t in 0..count {
                *uses.entry(clip.place(t)).or_default() += 1;
            }
        }
        let mut lanes = Self {
            own: Vec::new(),
            readers: Vec::new(),
            common: Vec::new(),
        };
        let mut known = HashMap::new();
        for (number, (clip, &count)) in all() {
            let shares = |t: usize| uses.get(&clip.place(t)).is_some_and(|&uses| uses > 1);
            if !(0..count).any(shares) {
                lanes.own.push((number, count));
                continue;
            }
            let rows = (0..count).map(|t| {
                *known.entry(clip.place(t)).or_insert_with(|| {
                    lanes.common.push((number, t));
                    lanes.common.len() - 1
                })
            });
            let rows = rows.collect();
            lanes.readers.push(Reader { clip: number, rows });
        }
        lanes
    }

    /// Rows of its own for each clip.
    pub(super) fn apart(counts: &[usize]) -> Self {
        Self {
            own: counts.iter().copied().enumerate().collect(),
            readers: Vec::new(),
            common: Vec::new(),
        }
    }

    /// The clips with rows of their own and the number of their frames, in the order of their rows, which begin at 0.
    pub(super) fn own(&self) -> &[(usize, usize)] {
        &self.own
    }

    /// The number of common rows, which follow the others.
    pub(super) fn common(&self) -> usize {
        self.common.len()
    }

    /// For each row a clip, and the number of the frame in it, whose picture the row is.
    pub(super) fn sources(&self) -> impl Iterator<Item = (usize, usize)> {
        let own = self.own.iter();
        let own = own.flat_map(|&(clip, count)| (0..count).map(move |t| (clip, t)));
        own.chain(self.common.iter().copied())
    }

    /// Gives each clip that leaves rows of its own. Returns the old rows that the new ones are copied from, when anything changed.
    pub(super) fn split(&mut self, leaves: impl Fn(usize) -> bool) -> Option<Vec<Range<usize>>> {
        if !self.readers.iter().any(|reader| leaves(reader.clip)) {
            return None;
        }
        let mut own = Vec::new();
        let mut begin = 0;
        for (clip, count) in self.own.drain(..) {
            let end = begin + count;
            own.push((clip, count, std::iter::once(begin..end).collect()));
            begin = end;
        }
        let (left, stay): (Vec<Reader>, Vec<Reader>) = self
            .readers
            .drain(..)
            .partition(|reader| leaves(reader.clip));
        for Reader { clip, rows } in left {
            let count = rows.len();
            own.push((clip, count, joined(rows.into_iter().map(|row| begin + row))));
        }
        own.sort_by_key(|&(clip, ..)| clip);
        let mut rows = Vec::new();
        for (clip, count, from) in own {
            self.own.push((clip, count));
            rows.extend(from);
        }
        // Common rows that nobody reads any more are left out.
        let mut places = vec![None; self.common.len()];
        for &row in stay.iter().flat_map(|reader| &reader.rows) {
            places[row] = Some(row);
        }
        let read = places.iter_mut().filter(|place| place.is_some());
        for (new, place) in read.enumerate() {
            *place = Some(new);
        }
        let kept = |row: &usize| places[*row].is_some();
        rows.extend(joined(
            (0..places.len()).filter(kept).map(|row| begin + row),
        ));
        let mut row = 0;
        self.common.retain(|_| {
            row += 1;
            places[row - 1].is_some()
        });
        self.readers = stay
            .into_iter()
            .map(|Reader { clip, rows }| Reader {
                clip,
                rows: rows.into_iter().filter_map(|row| places[row]).collect(),
            })
            .collect();
        Some(rows)
    }
}

/// Rows as ranges, those that follow one another as one.
fn joined(rows: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            Some(_) | None => ranges.push(row..row + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn planes(values: usize) -> Arc<[f32]> {
        vec![0.0; values].into()
    }

    fn sources(lanes: &Lanes) -> Vec<(usize, usize)> {
        lanes.sources().collect()
    }

    #[test]
    fn clips_of_the_same_planes_share_rows_until_they_leave() {
        let (a, b) = (planes(2), planes(3));
        // Equal values are not the same pictures.
        let clips = [a.clone(), b.clone(), a.clone(), planes(2), a, b].map(Pictures::from);
        let counts = [2, 3, 2, 2, 2, 3];
        let mut lanes = Lanes::shared(&clips, &counts);
        assert_eq!(lanes.own(), [(3, 2)]);
        let common = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)];
        assert_eq!(sources(&lanes)[2..], common);
        assert_eq!(lanes.split(|_| false), None);
        assert_eq!(lanes.split(|clip| clip == 3), None);
        // Rows 0..2 are clip 3's, 2..4 those of `a`, 4..7 those of `b`.
        assert_eq!(lanes.split(|clip| clip == 4), Some(vec![0..2, 2..4, 2..7]));
        assert_eq!(lanes.own(), [(3, 2), (4, 2)]);
        let rows = lanes.split(|_| true);
        assert_eq!(rows, Some(vec![4..6, 6..9, 4..6, 0..2, 2..4, 6..9]));
        assert_eq!(lanes, Lanes::apart(&counts));
        assert_eq!(lanes.split(|_| true), None);
    }

    #[test]
    fn windows_that_overlap_share_their_frames() {
        let frames: Vec<Arc<[f32]>> = (0..5).map(|_| planes(1)).collect();
        let windows: Vec<Pictures> = (0..3)
            .map(|begin| Pictures::from(frames[begin..begin + 3].to_vec()))
            .collect();
        let mut lanes = Lanes::shared(&windows, &[3; 3]);
        assert_eq!(lanes.own(), []);
        assert_eq!(sources(&lanes), [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]);
        // The first frame is the first window's alone, and is not kept in common.
        assert_eq!(lanes.split(|clip| clip == 0), Some(vec![0..3, 1..5]));
        assert_eq!(lanes.split(|_| true), Some(vec![0..3, 3..6, 4..7]));
        assert_eq!(lanes, Lanes::apart(&[3; 3]));
    }

    proptest! {
        /// Every clip ends with the rows of its own pictures, whoever leaves when.
        #[test]
        fn no_frame_is_lost_or_mixed_up(
            clips in prop::collection::vec(prop::collection::vec(0_usize..6, 1..5), 1..6),
            leaving in prop::collection::vec(0_usize..4, 6),
        ) {
            let frames: Vec<Arc<[f32]>> = (0..6).map(|_| planes(1)).collect();
            let pictures: Vec<Pictures> = clips.iter()
                .map(|clip| Pictures::from(clip.iter().map(|&frame| frames[frame].clone()).collect::<Vec<_>>()))
                .collect();
            let counts: Vec<usize> = clips.iter().map(Vec::len).collect();
            let mut lanes = Lanes::shared(&pictures, &counts);
            // What each row shows.
            let mut rows: Vec<usize> = lanes.sources().map(|(clip, t)| clips[clip][t]).collect();
            for step in 0..4 {
                if let Some(from) = lanes.split(|clip| leaving[clip] <= step) {
                    rows = from.into_iter().flatten().map(|row| rows[row]).collect();
                }
                let shown: Vec<usize> = lanes.sources().map(|(clip, t)| clips[clip][t]).collect();
                prop_assert_eq!(&rows, &shown);
                let own = lanes.own().iter().map(|(clip, _)| *clip);
                prop_assert!(own.is_sorted());
            }
            prop_assert_eq!(&rows, &clips.concat());
            prop_assert_eq!(lanes, Lanes::apart(&counts));
        }
    }
}
