//! Draws motion clips in which no single frame tells the label: only the order of the frames does.
//!
//! Invariant: with the same stream, a clip and the clip of the opposite label have the same frames, bit for bit, in opposite order. So a model that is
//! blind to the order of frames gives both the same answer, and is right on exactly one of them.

use rayon::prelude::*;

use super::scene::{Background, Canvas, Object};
use crate::rng::Stream;

/// Frames of a clip. Eight frames that are sampled uniformly from seventeen are 1, 3, 5 … 15, which read the same from both ends.
pub const FRAMES: usize = 17;
/// Frames per second.
pub const RATE: u32 = 12;

/// What the clips of a task differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Motion {
    /// An object moves to one of four sides.
    Direction,
    /// An object grows or shrinks.
    Growth,
}

impl Motion {
    /// The labels; each even one and its successor are each other's time reversal.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Direction => &["left", "right", "up", "down"],
            Self::Growth => &["growing", "shrinking"],
        }
    }

    /// Pairs of labels that are each other's time reversal.
    pub fn reversed_pairs(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.labels().len())
            .step_by(2)
            .map(|label| (label, label + 1))
    }
}

/// Which clips: the two have no speed, size or grain of texture in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variety {
    /// Clips to learn from.
    Training,
    /// Clips to be tested on: slower and faster, smaller and larger, on coarser and finer textures than any of the former.
    Unseen,
}

impl Variety {
    /// Draws from a range: the inner part for training, one of the outer parts for unseen clips.
    fn draw(self, stream: &mut Stream, [low, from, to, high]: [f32; 4]) -> f32 {
        match self {
            Self::Training => stream.range(from, to),
            Self::Unseen => {
                let at = stream.range(0.0, (from - low) + (high - to));
                if at < from - low {
                    low + at
                } else {
                    to + (at - (from - low))
                }
            }
        }
    }

    fn grain(self, stream: &mut Stream) -> usize {
        let choices: [usize; 3] = match self {
            Self::Training => [7, 8, 9],
            Self::Unseen => [5, 6, 11],
        };
        choices[stream.below(choices.len() as u64) as usize]
    }
}

/// Size of a moving object: unseen ones are outside the two inner values.
const SIZE: [f32; 4] = [0.17, 0.20, 0.34, 0.38];
/// Half the way that a moving object goes.
const WAY: [f32; 4] = [0.36, 0.42, 0.66, 0.72];
/// By which share an object grows from its middle size to its last.
const GROWTH: [f32; 4] = [0.36, 0.42, 0.56, 0.62];

/// A clip: `FRAMES` pictures of `side` × `side` pixels, and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// Side of the picture in pixels.
    pub side: usize,
    /// Each frame as packed 8-bit RGB, `[side, side, 3]`.
    pub frames: Vec<Vec<u8>>,
    /// Index into the task's labels.
    pub label: usize,
}

/// What the clips of opposite labels have in common.
struct Script {
    object: Object,
    background: Background,
    way: f32,
    growth: f32,
}

impl Script {
    fn random(variety: Variety, stream: &mut Stream) -> Self {
        let grain = variety.grain(stream);
        let background = Background::random(stream, grain);
        let size = variety.draw(stream, SIZE);
        let way = variety.draw(stream, WAY);
        let growth = variety.draw(stream, GROWTH);
        let middle = [stream.range(-0.35, 0.35), stream.range(-0.35, 0.35)];
        Self {
            object: Object::random(stream, size, middle).0,
            background,
            way,
            growth,
        }
    }

    /// The object at a time from -1 to 1.
    fn at(&self, motion: Motion, label: usize, time: f32) -> Object {
        let mut object = self.object;
        let sign = if label.is_multiple_of(2) { -1.0 } else { 1.0 };
        match motion {
            Motion::Direction => object.center[label / 2] += sign * self.way * time,
            Motion::Growth => object.size *= 1.0 - sign * self.growth * time,
        }
        object
    }
}

/// Draws the clip of a label, whose frames are `side` × `side` pixels; object, background, place and speed come from the stream alone.
pub fn clip(motion: Motion, variety: Variety, label: usize, side: usize, stream: &Stream) -> Clip {
    let script = Script::random(variety, &mut stream.clone());
    let empty = Canvas::new(side, &script.background);
    let frames = (0..FRAMES)
        .map(|frame| {
            // Exact in binary, so that the clip of the opposite label is the reversal to the last bit.
            let time = 2.0 * frame as f32 / (FRAMES - 1) as f32 - 1.0;
            let mut canvas = empty.clone();
            canvas.draw(&script.at(motion, label, time));
            canvas.to_rgb()
        })
        .collect();
    Clip {
        side,
        frames,
        label,
    }
}

/// Draws `count` clips, with every label equally often: clip 2i and clip 2i + 1 are each other's time reversal.
pub fn clips(
    motion: Motion,
    variety: Variety,
    count: usize,
    side: usize,
    stream: &Stream,
) -> Vec<Clip> {
    let labels = motion.labels().len();
    (0..count)
        .into_par_iter()
        .map(|i| {
            clip(
                motion,
                variety,
                i % labels,
                side,
                &stream.fork(i as u64 / 2),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    const TASKS: [Motion; 2] = [Motion::Direction, Motion::Growth];

    #[test]
    fn the_opposite_label_is_the_time_reversal_to_the_bit() {
        let stream = Stream::new(5, "clips");
        for motion in TASKS {
            for (one, other) in motion.reversed_pairs() {
                for variety in [Variety::Training, Variety::Unseen] {
                    let forward = clip(motion, variety, one, 48, &stream);
                    let mut backward = clip(motion, variety, other, 48, &stream);
                    assert_ne!(forward.frames, backward.frames);
                    backward.frames.reverse();
                    assert_eq!(forward.frames, backward.frames, "{motion:?}");
                }
            }
        }
    }

    #[test]
    fn eight_uniform_frames_of_a_clip_read_the_same_from_both_ends() {
        let bound = |i: usize| ((FRAMES - 1) as f64 / 8.0 * i as f64).round_ties_even() as usize;
        let taken: Vec<usize> = (0..8).map(|i| (bound(i) + bound(i + 1)) / 2).collect();
        let mirrored: Vec<usize> = taken.iter().rev().map(|i| FRAMES - 1 - i).collect();
        assert_eq!(taken, mirrored);
    }

    #[test]
    fn labels_are_balanced_and_neighbours_are_reversals() {
        for motion in TASKS {
            let drawn = clips(motion, Variety::Unseen, 16, 32, &Stream::new(1, "clips"));
            for label in 0..motion.labels().len() {
                let count = drawn.iter().filter(|clip| clip.label == label).count();
                assert_eq!(count, 16 / motion.labels().len());
            }
            for pair in drawn.chunks(2) {
                assert_eq!(pair[0].frames.first(), pair[1].frames.last());
            }
            assert_ne!(drawn[0].frames[8], drawn[2].frames[8]);
        }
    }

    #[test]
    fn unseen_clips_share_no_speed_size_or_grain_with_training_clips() {
        let mut stream = Stream::new(2, "ranges");
        for range in [SIZE, WAY, GROWTH] {
            for _ in 0..1000 {
                let seen = Variety::Training.draw(&mut stream, range);
                let unseen = Variety::Unseen.draw(&mut stream, range);
                assert!((range[1]..range[2]).contains(&seen));
                assert!(
                    (range[0]..=range[1]).contains(&unseen)
                        || (range[2]..=range[3]).contains(&unseen)
                );
            }
        }
        let mut grains = |variety: Variety| -> std::collections::HashSet<usize> {
            (0..100).map(|_| variety.grain(&mut stream)).collect()
        };
        assert!(grains(Variety::Training).is_disjoint(&grains(Variety::Unseen)));
    }

    #[test]
    fn a_label_names_the_motion_that_is_seen() {
        let script = Script::random(Variety::Training, &mut Stream::new(8, "clips"));
        for (label, name) in Motion::Direction.labels().iter().enumerate() {
            let [first, last] =
                [-1.0, 1.0].map(|time| script.at(Motion::Direction, label, time).center);
            let (x, y) = (last[0] - first[0], last[1] - first[1]);
            // y points down.
            let seen = match (x.total_cmp(&0.0), y.total_cmp(&0.0)) {
                (Ordering::Less, Ordering::Equal) => "left",
                (Ordering::Greater, Ordering::Equal) => "right",
                (Ordering::Equal, Ordering::Less) => "up",
                (Ordering::Equal, Ordering::Greater) => "down",
                _ => "askew",
            };
            assert_eq!(seen, *name);
        }
        for (label, name) in Motion::Growth.labels().iter().enumerate() {
            let [first, last] = [-1.0, 1.0].map(|time| script.at(Motion::Growth, label, time).size);
            assert_eq!(if last > first { "growing" } else { "shrinking" }, *name);
        }
    }
}
