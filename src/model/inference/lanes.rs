//! Which clips of a batch are computed together: those of the same pictures are one lane until one of them meets an adapter of its own.
//!
//! Invariant: pure. A lane that several clips read has no adapter below; lanes are in the order of their first readers, and hold every clip once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Rows of the running tensor: the frames of one clip, for all who read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lane {
    /// Clips of the batch that these frames stand for, ascending.
    pub(super) readers: Vec<usize>,
    /// Number of frames.
    pub(super) frames: usize,
}

/// The lanes of a batch, in the order of the running tensor's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lanes(Vec<Lane>);

impl Lanes {
    /// One lane for all clips that share their planes.
    pub(super) fn shared(clips: &[Arc<[f32]>], frames: &[usize]) -> Self {
        let mut lanes: Vec<Lane> = Vec::with_capacity(clips.len());
        let mut known = HashMap::new();
        for (clip, (planes, &frames)) in clips.iter().zip(frames).enumerate() {
            let lane = *known.entry(planes.as_ptr()).or_insert(lanes.len());
            match lanes.get_mut(lane) {
                Some(lane) => lane.readers.push(clip),
                None => lanes.push(Lane {
                    readers: vec![clip],
                    frames,
                }),
            }
        }
        Self(lanes)
    }

    /// One lane for each clip.
    pub(super) fn apart(frames: &[usize]) -> Self {
        let lane = |(clip, &frames): (usize, &usize)| Lane {
            readers: vec![clip],
            frames,
        };
        Self(frames.iter().enumerate().map(lane).collect())
    }

    /// The lanes in order.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Lane> {
        self.0.iter()
    }

    /// The first reader of each lane: a clip whose pictures are the lane's.
    pub(super) fn sources(&self) -> impl Iterator<Item = usize> {
        self.0
            .iter()
            .filter_map(|lane| lane.readers.first().copied())
    }

    /// Gives each clip that leaves a lane of its own. Returns the old rows that each lane's are copied from, when anything changed.
    pub(super) fn split(&mut self, leaves: impl Fn(usize) -> bool) -> Option<Vec<Range<usize>>> {
        let is_split =
            |lane: &Lane| lane.readers.len() > 1 && lane.readers.iter().any(|&r| leaves(r));
        if !self.0.iter().any(is_split) {
            return None;
        }
        let mut lanes = Vec::new();
        let mut begin = 0;
        for Lane { readers, frames } in self.0.drain(..) {
            let rows = begin..begin + frames;
            begin = rows.end;
            let (own, common): (Vec<usize>, Vec<usize>) =
                readers.into_iter().partition(|&reader| leaves(reader));
            let own = own.into_iter().map(|reader| vec![reader]);
            let parts = own.chain((!common.is_empty()).then_some(common));
            lanes.extend(parts.map(|readers| (Lane { readers, frames }, rows.clone())));
        }
        lanes.sort_by(|(a, _), (b, _)| a.readers.cmp(&b.readers));
        let rows;
        (self.0, rows) = lanes.into_iter().unzip();
        Some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(lanes: &Lanes) -> Vec<Vec<usize>> {
        lanes.iter().map(|lane| lane.readers.clone()).collect()
    }

    fn planes(values: usize) -> Arc<[f32]> {
        vec![0.0; values].into()
    }

    #[test]
    fn clips_of_the_same_pictures_are_one_lane_until_they_leave() {
        let (a, b) = (planes(2), planes(3));
        // Equal values are not the same pictures.
        let clips = [a.clone(), b.clone(), a.clone(), planes(2), a, b];
        let mut lanes = Lanes::shared(&clips, &[2, 3, 2, 2, 2, 3]);
        assert_eq!(readers(&lanes), [vec![0, 2, 4], vec![1, 5], vec![3]]);
        assert!(lanes.sources().eq([0, 1, 3]));
        assert_eq!(lanes.split(|_| false), None);
        assert_eq!(lanes.split(|clip| clip == 3), None);
        // Rows 0..2 are the first lane's, 2..5 the second's, 5..7 the third's.
        assert_eq!(
            lanes.split(|clip| clip == 4),
            Some(vec![0..2, 2..5, 5..7, 0..2])
        );
        assert_eq!(readers(&lanes), [vec![0, 2], vec![1, 5], vec![3], vec![4]]);
        let rows = lanes.split(|_| true);
        assert_eq!(rows, Some(vec![0..2, 2..5, 0..2, 5..7, 7..9, 2..5]));
        assert_eq!(lanes, Lanes::apart(&[2, 3, 2, 2, 2, 3]));
        assert_eq!(lanes.split(|_| true), None);
    }

    #[test]
    fn whoever_stays_may_be_the_first_or_the_last() {
        let a = planes(1);
        let clips = [a.clone(), a.clone(), a];
        for (leaves, expected) in [
            (0, [vec![0], vec![1, 2]]),
            (1, [vec![0, 2], vec![1]]),
            (2, [vec![0, 1], vec![2]]),
        ] {
            let mut lanes = Lanes::shared(&clips, &[1; 3]);
            assert_eq!(lanes.split(|clip| clip == leaves), Some(vec![0..1, 0..1]));
            assert_eq!(readers(&lanes), expected);
        }
    }
}
