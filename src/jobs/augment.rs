//! Every random choice of training: the order of examples, frames, crops and mirroring, dropout and initial weights.
//!
//! Invariant: a choice depends on the job's seed, the epoch or step, the example and the purpose alone: a resumed job repeats the run that it
//! would have been.

use crate::rng::{Permutation, Stream};

/// Tries to fit a rectangle of the drawn area and shape, before the centre square is taken.
const TRIES: usize = 10;
/// Narrowest and widest shape of a crop, width over height.
const SHAPES: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// The random choices of one job.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    seed: u64,
}

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl Draws {
    /// The choices of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The order in which an epoch takes its `clips` examples.
    pub fn order(&self, epoch: u64, clips: u64) -> Permutation {
        Permutation::new(
            clips,
            &mut Stream::new(self.seed, "permutation").fork(epoch),
        )
    }

    /// The order of an epoch as release 0.1 took it: a job that began with it goes on with it.
    pub fn shuffled(&self, epoch: u64, clips: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..clips).collect();
        Stream::new(self.seed, "order")
            .fork(epoch)
            .shuffle(&mut order);
        order
    }

    /// Where the frames of an example are drawn from.
    pub fn frames(&self, epoch: u64, example: u64) -> Stream {
        Stream::new(self.seed, "frames").fork(epoch).fork(example)
    }

    /// Whether an example is mirrored.
    pub fn is_mirrored(&self, epoch: u64, example: u64) -> bool {
        let mut stream = Stream::new(self.seed, "mirror").fork(epoch).fork(example);
        stream.below(2) == 1
    }

    /// A random part of a picture: its area uniform from `min_area` of the picture to all of it, its shape log-uniform from 3:4 to 4:3.
    /// The largest centre square, when ten draws do not fit.
    pub fn crop(
        &self,
        epoch: u64,
        example: u64,
        (width, height): (u32, u32),
        min_area: f64,
    ) -> Crop {
        let (width, height) = (width.max(1), height.max(1));
        let mut stream = Stream::new(self.seed, "crop").fork(epoch).fork(example);
        let area = f64::from(width) * f64::from(height);
        for _ in 0..TRIES {
            let wanted = area * f64::from(stream.range(min_area as f32, 1.0));
            let shape = f64::from(stream.range(SHAPES.0.ln(), SHAPES.1.ln()).exp());
            let w = (wanted * shape).sqrt().round() as u32;
            let h = (wanted / shape).sqrt().round() as u32;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                return Crop {
                    x: stream.below(u64::from(width - w) + 1) as u32,
                    y: stream.below(u64::from(height - h) + 1) as u32,
                    width: w,
                    height: h,
                };
            }
        }
        let side = width.min(height);
        Crop {
            x: (width - side) / 2,
            y: (height - side) / 2,
            width: side,
            height: side,
        }
    }

    /// Where the dropout masks of a step come from.
    pub fn dropout(&self, step: u64) -> Stream {
        Stream::new(self.seed, "dropout").fork(step)
    }

    /// Where the initial weights come from.
    pub fn weights(&self) -> Stream {
        Stream::new(self.seed, "weights")
    }
}

/// Mirrors planes `[…, side, side]` left to right, in place.
pub fn mirror(planes: &mut [f32], side: usize) {
    for row in planes.chunks_exact_mut(side.max(1)) {
        row.reverse();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_epoch_has_its_own_order_and_the_seed_decides_it() {
        let order = |seed, epoch| {
            let order = Draws::new(seed).order(epoch, 50);
            (0..50).map(|place| order.at(place)).collect::<Vec<_>>()
        };
        let mut sorted = order(5, 0);
        assert_eq!(order(5, 0), sorted);
        assert_ne!(order(5, 1), sorted);
        assert_ne!(order(6, 0), sorted);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_job_of_release_0_1_keeps_its_order() {
        assert_eq!(Draws::new(5).shuffled(2, 8), [1, 6, 2, 3, 5, 0, 4, 7]);
    }

    #[test]
    fn about_half_of_the_clips_are_mirrored() {
        let draws = Draws::new(5);
        let count = (0..1000).filter(|i| draws.is_mirrored(2, *i)).count();
        assert!((420..580).contains(&count), "{count}");
    }

    #[test]
    fn mirroring_reverses_rows() {
        let mut planes = [1.0, 2.0, 3.0, 4.0];
        mirror(&mut planes, 2);
        assert_eq!(planes, [2.0, 1.0, 4.0, 3.0]);
    }

    proptest! {
        #[test]
        fn a_crop_lies_inside_and_keeps_its_area(seed: u64, example: u64, width in 1_u32..2000, height in 1_u32..2000, min in 0.01_f64..=1.0) {
            let draws = Draws::new(seed);
            let crop = draws.crop(1, example, (width, height), min);
            prop_assert!(crop.width >= 1 && crop.x + crop.width <= width);
            prop_assert!(crop.height >= 1 && crop.y + crop.height <= height);
            prop_assert_eq!(crop, draws.crop(1, example, (width, height), min));
            let side = width.min(height);
            let least = (min * f64::from(width) * f64::from(height)).sqrt();
            let square = f64::from(crop.width) * f64::from(crop.height);
            // Rounding to pixels can lose up to a pixel a side.
            let is_centre = crop.width == side && crop.height == side;
            prop_assert!(is_centre || square.sqrt() >= least - 1.5);
        }
    }
}
