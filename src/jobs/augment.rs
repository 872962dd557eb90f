//! Every random choice of training: the order of examples, frames, crops and mirroring, dropout and initial weights.
//!
//! Invariant: a choice depends on the job's seed, the epoch or step, the example and the purpose alone: a resumed job repeats the run that it
//! would have been.

mod alters;
mod mix;

use crate::rng::{Permutation, Stream};

pub use mix::{Mix, cut, mixed};

/// Tries to fit a rectangle of the drawn area and shape.
const TRIES: usize = 10;
/// Narrowest and widest shape of a crop, width over height.
const SHAPES: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// Random choices of one job's training.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    seed: u64,
}

/// Tries to fit an erased rectangle of the drawn area and shape.
const ERASING_TRIES: usize = 100;
/// Smallest and largest share of a picture that is erased.
const ERASED: (f32, f32) = (0.02, 1.0 / 3.0);
/// Narrowest and widest shape of what is erased, height over width.
const ERASED_SHAPES: (f32, f32) = (0.3, 1.0 / 0.3);

/// Crop of a picture in which no drawn crop fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The largest centre square: jobs that began under the release before.
    Square,
    /// As much of the middle as the shapes of crops allow, as the reference does.
    Shape,
}

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Left edge of the crop.
    pub x: u32,
    /// Upper edge of the crop.
    pub y: u32,
    /// Width of the crop, at least 1.
    pub width: u32,
    /// Height of the crop, at least 1.
    pub height: u32,
}

impl Draws {
    /// Returns the choices of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns the order in which an epoch takes its `clips` examples.
    pub fn order(&self, epoch: u64, clips: u64) -> Permutation {
        Permutation::new(
            clips,
            &mut Stream::new(self.seed, "permutation").fork(epoch),
        )
    }

    /// Returns the order in which the `clips` examples of a label take their next turns.
    pub fn label_order(&self, label: u64, round: u64, clips: u64) -> Permutation {
        let stream = Stream::new(self.seed, "label order").fork(label);
        Permutation::new(clips, &mut stream.fork(round))
    }

    /// Returns the order of an epoch as release 0.1 took it: a job that began with it goes on with it.
    pub fn shuffled(&self, epoch: u64, clips: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..clips).collect();
        Stream::new(self.seed, "order")
            .fork(epoch)
            .shuffle(&mut order);
        order
    }

    /// Returns the stream from which the frames of an example are drawn.
    pub fn frames(&self, epoch: u64, example: u64) -> Stream {
        Stream::new(self.seed, "frames").fork(epoch).fork(example)
    }

    /// Returns whether an example is mirrored.
    pub fn is_mirrored(&self, epoch: u64, example: u64) -> bool {
        let mut stream = Stream::new(self.seed, "mirror").fork(epoch).fork(example);
        stream.below(2) == 1
    }

    /// A random part of a picture: its area uniform from `min_area` of the picture to all of it, its shape log-uniform from 3:4 to 4:3.
    /// The middle of the picture, when ten draws do not fit.
    pub fn crop(
        &self,
        epoch: u64,
        example: u64,
        (width, height): (u32, u32),
        (min_area, fallback): (f64, Fallback),
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
        match fallback {
            Fallback::Square => {
                let side = width.min(height);
                centred((width, height), (side, side))
            }
            Fallback::Shape => centred((width, height), shaped(width, height)),
        }
    }

    /// The square that a view of a picture shows whose short side is scaled by a factor uniform from 1 to `largest`, at a random place.
    pub fn jitter(
        &self,
        epoch: u64,
        example: u64,
        (width, height): (u32, u32),
        largest: f64,
    ) -> Crop {
        let (width, height) = (width.max(1), height.max(1));
        let mut stream = Stream::new(self.seed, "jitter").fork(epoch).fork(example);
        let short = width.min(height);
        let scale = f64::from(stream.range(1.0, largest as f32)).max(1.0);
        let side = ((f64::from(short) / scale).round() as u32).clamp(1, short);
        Crop {
            x: stream.below(u64::from(width - side) + 1) as u32,
            y: stream.below(u64::from(height - side) + 1) as u32,
            width: side,
            height: side,
        }
    }

    /// The part of a view of this side that is erased in all frames of a clip; `None` when nothing is, which has the probability 1 - `probability`, or when
    /// no draw fits.
    pub fn erased(&self, epoch: u64, example: u64, side: usize, probability: f64) -> Option<Crop> {
        if probability <= 0.0 {
            return None;
        }
        let mut stream = Stream::new(self.seed, "erasing").fork(epoch).fork(example);
        if f64::from(stream.unit()) >= probability {
            return None;
        }
        let all = u32::try_from(side).unwrap_or(u32::MAX);
        let area = (side * side) as f32;
        for _ in 0..ERASING_TRIES {
            let wanted = area * stream.range(ERASED.0, ERASED.1);
            let shape = stream.range(ERASED_SHAPES.0.ln(), ERASED_SHAPES.1.ln());
            let shape = shape.exp();
            let height = (wanted * shape).sqrt().round() as u32;
            let width = (wanted / shape).sqrt().round() as u32;
            if (1..all).contains(&width) && (1..all).contains(&height) {
                return Some(Crop {
                    y: stream.below(u64::from(all - height) + 1) as u32,
                    x: stream.below(u64::from(all - width) + 1) as u32,
                    width,
                    height,
                });
            }
        }
        None
    }

    /// Returns the stream of a step's dropout masks.
    pub fn dropout(&self, step: u64) -> Stream {
        Stream::new(self.seed, "dropout").fork(step)
    }

    /// Returns the stream of the initial weights.
    pub fn weights(&self) -> Stream {
        Stream::new(self.seed, "weights")
    }
}

/// A rectangle in the middle of a picture.
fn centred((width, height): (u32, u32), (w, h): (u32, u32)) -> Crop {
    Crop {
        x: (width - w) / 2,
        y: (height - h) / 2,
        width: w,
        height: h,
    }
}

/// The largest rectangle of a picture with one of the shapes of crops.
fn shaped(width: u32, height: u32) -> (u32, u32) {
    let shape = f64::from(width) / f64::from(height);
    let (narrowest, widest) = (3.0 / 4.0, 4.0 / 3.0);
    if shape < narrowest {
        let h = (f64::from(width) / narrowest).round() as u32;
        (width, h.clamp(1, height))
    } else if shape > widest {
        let w = (f64::from(height) * widest).round() as u32;
        (w.clamp(1, width), height)
    } else {
        (width, height)
    }
}

/// Replaces the same part of all planes `[…, side, side]` by 0, the mean colour, in place.
pub fn erase(planes: &mut [f32], side: usize, part: Crop) {
    let rows = part.y as usize..(part.y + part.height) as usize;
    let columns = part.x as usize..(part.x + part.width) as usize;
    for plane in planes.chunks_exact_mut((side * side).max(1)) {
        for row in rows.clone() {
            plane[row * side..][columns.clone()].fill(0.0);
        }
    }
}

/// Mirrors planes `[…, side, side]` left to right, in place.
pub fn mirror(planes: &mut [f32], side: usize) {
    for row in planes.chunks_exact_mut(side.max(1)) {
        row.reverse();
    }
}

#[cfg(test)]
mod reference;

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

    #[test]
    fn a_picture_in_which_no_crop_fits_keeps_a_shape_of_crops_as_in_the_reference() {
        // torchvision's RandomResizedCrop.get_params with draws that never fit.
        for (picture, expected) in [
            ((1000, 100), (433, 0, 133, 100)),
            ((100, 1000), (0, 433, 100, 133)),
            ((400, 300), (0, 0, 400, 300)),
            ((7, 3), (1, 0, 4, 3)),
        ] {
            let (w, h) = shaped(picture.0, picture.1);
            let crop = centred(picture, (w, h));
            let got = (crop.x, crop.y, crop.width, crop.height);
            assert_eq!(got, expected, "{picture:?}");
        }
        // Of a picture as wide as this one, nearly all of the area fits into no shape.
        let draws = Draws::new(3);
        let crop = |fallback| draws.crop(0, 0, (4000, 10), (0.99, fallback));
        assert_eq!(
            (crop(Fallback::Square).width, crop(Fallback::Shape).width),
            (10, 13)
        );
    }

    #[test]
    fn erasing_replaces_the_same_part_of_every_plane_and_nothing_else() {
        let draws = Draws::new(5);
        let erased = (0..1000).filter(|i| draws.erased(2, *i, 32, 0.25).is_some());
        let count = erased.count();
        assert!((200..300).contains(&count), "{count}");
        assert!(draws.erased(2, 1, 32, 0.0).is_none());
        let part = draws.erased(2, 1, 32, 1.0).unwrap();
        let mut planes = vec![9.0; 6 * 32 * 32];
        erase(&mut planes, 32, part);
        for plane in planes.chunks_exact(32 * 32) {
            for (i, pixel) in plane.iter().enumerate() {
                let (x, y) = (i as u32 % 32, i as u32 / 32);
                let is_inside = (part.x..part.x + part.width).contains(&x)
                    && (part.y..part.y + part.height).contains(&y);
                assert_eq!(*pixel == 0.0, is_inside, "{x}, {y}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_jittered_part_is_a_square_inside_the_picture(seed: u64, width in 1_u32..2000, height in 1_u32..2000, largest in 1.0_f64..=4.0) {
            let crop = Draws::new(seed).jitter(1, 2, (width, height), largest);
            prop_assert!(crop.x + crop.width <= width && crop.y + crop.height <= height);
            prop_assert_eq!(crop.width, crop.height);
            let short = f64::from(width.min(height));
            prop_assert!(f64::from(crop.width) >= (short / largest - 1.0).max(1.0));
        }

        #[test]
        fn an_erased_part_lies_inside(seed: u64, side in 1_usize..300) {
            if let Some(part) = Draws::new(seed).erased(0, 0, side, 1.0) {
                prop_assert!((part.x + part.width) as usize <= side);
                prop_assert!((part.y + part.height) as usize <= side);
                let share = f64::from(part.width * part.height) / (side * side) as f64;
                prop_assert!(side < 32 || (0.01..0.4).contains(&share), "{}", share);
            }
        }

        #[test]
        fn a_crop_lies_inside_and_keeps_its_area(seed: u64, example: u64, width in 1_u32..2000, height in 1_u32..2000, min in 0.01_f64..=1.0) {
            let draws = Draws::new(seed);
            let crop = draws.crop(1, example, (width, height), (min, Fallback::Square));
            prop_assert!(crop.width >= 1 && crop.x + crop.width <= width);
            prop_assert!(crop.height >= 1 && crop.y + crop.height <= height);
            prop_assert_eq!(crop, draws.crop(1, example, (width, height), (min, Fallback::Square)));
            let side = width.min(height);
            let least = (min * f64::from(width) * f64::from(height)).sqrt();
            let square = f64::from(crop.width) * f64::from(crop.height);
            // Rounding to pixels can lose up to a pixel a side.
            let is_centre = crop.width == side && crop.height == side;
            prop_assert!(is_centre || square.sqrt() >= least - 1.5);
        }
    }
}
