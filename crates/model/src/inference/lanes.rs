//! Which rows of the running tensor stand for which frames of a batch: a frame that several clips show is one row until one of them meets an adapter.
//!
//! Invariant: pure. Clips with rows of their own come first, in their order and with their frames in theirs; the rows that clips have in common follow, and
//! none of those clips has an adapter below. A row whose tokens an earlier batch kept comes before the block whose input they are.

use std::collections::HashMap;
use std::ops::Range;

use crate::pictures::{Pictures, Place};

/// A clip that reads common rows, and the row of each of its frames among them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reader {
    clip: usize,
    rows: Vec<usize>,
}

/// A row that clips have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// A clip, and the number of the frame in it, whose picture the row is.
    picture: (usize, usize),
    /// Index of the block before which the row comes; 0 for one that is computed from the picture.
    from: usize,
}

/// The rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lanes {
    /// Clips with rows of their own and the number of their frames, ascending.
    own: Vec<(usize, usize)>,
    /// Clips that read common rows, ascending.
    readers: Vec<Reader>,
    /// The common rows, those that come first at the beginning.
    common: Vec<Row>,
    /// Number of the common rows that have come.
    here: usize,
}

impl Lanes {
    /// One row for each different frame of clips of so many frames each. A clip that shares no frame has rows of its own from the beginning, unless its frames
    /// are kept. `leaves` has the block at which each clip gets rows of its own, `kept` tells before which block the tokens of a clip's frame are known.
    pub(super) fn shared(
        clips: &[Pictures],
        counts: &[usize],
        leaves: &[usize],
        kept: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let mut uses: HashMap<Place, usize> = HashMap::new();
        let all = || clips.iter().zip(counts).zip(leaves).enumerate();
        for (_, ((clip, &count), _)) in all() {
            for t in 0..count {
                *uses.entry(clip.place(t)).or_default() += 1;
            }
        }
        let mut lanes = Self::apart(&[]);
        let mut known = HashMap::new();
        for (number, ((clip, &count), &leaves)) in all() {
            let shares = |t: usize| uses.get(&clip.place(t)).is_some_and(|&uses| uses > 1);
            let is_kept = leaves > 0 && !clip.kept().is_empty();
            if !is_kept && !(0..count).any(shares) {
                lanes.own.push((number, count));
                continue;
            }
            let rows = (0..count).map(|t| {
                // Tokens before a block above the clip's own are of no use to it.
                let from = kept(number, t)
                    .filter(|block| *block <= leaves)
                    .unwrap_or(0);
                *known.entry((clip.place(t), from)).or_insert_with(|| {
                    let picture = (number, t);
                    lanes.common.push(Row { picture, from });
                    lanes.common.len() - 1
                })
            });
            let rows = rows.collect();
            lanes.readers.push(Reader { clip: number, rows });
        }
        lanes.in_order();
        lanes
    }

    /// Puts the common rows in the order in which they come.
    fn in_order(&mut self) {
        let mut order: Vec<usize> = (0..self.common.len()).collect();
        order.sort_by_key(|&row| self.common[row].from);
        let mut places = vec![0; order.len()];
        for (place, &row) in order.iter().enumerate() {
            places[row] = place;
        }
        self.common = order.iter().map(|&row| self.common[row]).collect();
        self.here = self.common.iter().filter(|row| row.from == 0).count();
        for row in self.readers.iter_mut().flat_map(|reader| &mut reader.rows) {
            *row = places[*row];
        }
    }

    /// Rows of its own for each clip.
    pub(super) fn apart(counts: &[usize]) -> Self {
        Self {
            own: counts.iter().copied().enumerate().collect(),
            readers: Vec::new(),
            common: Vec::new(),
            here: 0,
        }
    }

    /// The clips with rows of their own and the number of their frames, in the order of their rows, which begin at 0.
    pub(super) fn own(&self) -> &[(usize, usize)] {
        &self.own
    }

    /// The number of common rows that have come, which follow the others.
    pub(super) fn common(&self) -> usize {
        self.here
    }

    /// The number of common rows that have not come, since tokens before a later block are known of them.
    pub(super) fn later(&self) -> usize {
        self.common.len() - self.here
    }

    /// For each row that has come a clip, and the number of the frame in it, whose picture the row is.
    pub(super) fn sources(&self) -> impl Iterator<Item = (usize, usize)> {
        let own = self.own.iter();
        let own = own.flat_map(|&(clip, count)| (0..count).map(move |t| (clip, t)));
        own.chain(self.common[..self.here].iter().map(|row| row.picture))
    }

    /// Whether every clip has rows of its own, and no others are there or come.
    pub(super) fn is_apart(&self) -> bool {
        self.readers.is_empty() && self.common.is_empty()
    }

    /// The first block before which rows come.
    pub(super) fn next(&self) -> Option<usize> {
        self.common.get(self.here).map(|row| row.from)
    }

    /// The rows that come before a block and follow those that are there: of each a clip, and the number of the frame in it.
    pub(super) fn coming(&mut self, block: usize) -> Vec<(usize, usize)> {
        let rest = self.common[self.here..].iter();
        let coming = rest.take_while(|row| row.from <= block);
        let coming: Vec<(usize, usize)> = coming.map(|row| row.picture).collect();
        self.here += coming.len();
        coming
    }

    /// The common rows that some clips read: of each a clip, the number of the frame in it, and the row.
    pub(super) fn read_by(&self, reads: impl Fn(usize) -> bool) -> Vec<(usize, usize, usize)> {
        let begin: usize = self.own.iter().map(|(_, count)| count).sum();
        let readers = self.readers.iter().filter(|reader| reads(reader.clip));
        let rows = readers.flat_map(|reader| {
            let rows = reader.rows.iter().enumerate();
            rows.map(move |(t, row)| (reader.clip, t, begin + row))
        });
        rows.collect()
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
        let here: Vec<usize> = (0..self.here).filter(kept).collect();
        self.here = here.len();
        rows.extend(joined(here.into_iter().map(|row| begin + row)));
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
pub(super) fn joined(rows: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
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
    use crate::Kept;

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
        let mut lanes = Lanes::shared(&clips, &counts, &[9; 6], |_, _| None);
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
        let mut lanes = Lanes::shared(&windows, &[3; 3], &[9; 3], |_, _| None);
        assert_eq!(lanes.own(), []);
        assert_eq!(sources(&lanes), [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]);
        // The first frame is the first window's alone, and is not kept in common.
        assert_eq!(lanes.split(|clip| clip == 0), Some(vec![0..3, 1..5]));
        assert_eq!(lanes.split(|_| true), Some(vec![0..3, 3..6, 4..7]));
        assert_eq!(lanes, Lanes::apart(&[3; 3]));
    }

    #[test]
    fn kept_rows_come_before_their_block_for_clips_that_have_not_left() {
        let frames: Vec<Arc<[f32]>> = (0..4).map(|_| planes(1)).collect();
        let window = |range: Range<usize>| -> Pictures {
            let frames = frames[range].iter().cloned();
            frames.map(|frame| (frame, Kept::default())).collect()
        };
        let windows = [window(0..3), window(1..4), window(1..4)];
        // The frames 1 and 2 are known before block 2, which the last window has left by then.
        let known = [[None, Some(2), Some(2)], [Some(2), Some(2), None]];
        let kept = |clip: usize, t: usize| known[clip.min(1)][t];
        let mut lanes = Lanes::shared(&windows, &[3; 3], &[2, 3, 1], kept);
        assert_eq!(lanes.own(), []);
        // Frame 0, frame 3, and the frames 1 and 2 for the last window.
        assert_eq!(sources(&lanes), [(0, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!((lanes.next(), lanes.coming(1)), (Some(2), Vec::new()));
        let left = lanes.split(|clip| clip == 2);
        assert_eq!(left, Some(vec![2..4, 1..2, 0..2]));
        assert_eq!(lanes.coming(2), [(0, 1), (0, 2)]);
        assert_eq!(lanes.next(), None);
        let read = lanes.read_by(|clip| clip == 0);
        assert_eq!(read, [(0, 0, 3), (0, 1, 5), (0, 2, 6)]);
        let left = lanes.split(|clip| clip == 0);
        assert_eq!(left, Some(vec![3..4, 5..7, 0..3, 4..7]));
        lanes.split(|_| true);
        assert_eq!(lanes, Lanes::apart(&[3; 3]));
    }

    proptest! {
        /// Every clip ends with the rows of its own pictures, whoever leaves when and whatever is kept.
        #[test]
        fn no_frame_is_lost_or_mixed_up(
            clips in prop::collection::vec(prop::collection::vec(0_usize..6, 1..5), 1..6),
            leaving in prop::collection::vec(0_usize..4, 6),
            keeping in prop::collection::vec(prop::option::of(1_usize..4), 6),
            is_kept in any::<bool>(),
        ) {
            let frames: Vec<Arc<[f32]>> = (0..6).map(|_| planes(1)).collect();
            let pictures: Vec<Pictures> = clips.iter()
                .map(|clip| {
                    let frames = clip.iter().map(|&frame| frames[frame].clone());
                    match is_kept {
                        true => frames.map(|frame| (frame, Kept::default())).collect(),
                        false => Pictures::from(frames.collect::<Vec<_>>()),
                    }
                })
                .collect();
            let counts: Vec<usize> = clips.iter().map(Vec::len).collect();
            let leaves = &leaving[..clips.len()];
            let kept = |clip: usize, t: usize| keeping[clips[clip][t]].filter(|_| is_kept);
            let mut lanes = Lanes::shared(&pictures, &counts, leaves, kept);
            // What each row shows.
            let mut rows: Vec<usize> = lanes.sources().map(|(clip, t)| clips[clip][t]).collect();
            for step in 0..4 {
                for (clip, t) in lanes.coming(step) {
                    prop_assert!(keeping[clips[clip][t]] == Some(step));
                    rows.push(clips[clip][t]);
                }
                for (clip, t, row) in lanes.read_by(|_| true).into_iter().filter(|own| own.2 < rows.len()) {
                    prop_assert_eq!(rows[row], clips[clip][t]);
                }
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
