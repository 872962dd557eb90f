//! Which videos show almost the same pictures: pairs of sketches that are near one another, beside how far sketches of the data set usually are apart.
//!
//! Invariant: pure; equal sketches in equal order give equal pairs. Memory grows by a few bytes with each sketch, however many are alike.

use super::sketch::{Sketch, WIDTH};
use crate::rng;

/// Share of the usual distance within which pictures are almost the same: another encoding of a video, or a little less of it.
const NEAR: f32 = 0.06;
/// Share of the usual distance within which pictures probably are of one scene.
const SCENE: f32 = 0.3;
/// Fewest sketches of which the usual distance says anything.
const FEWEST: usize = 8;
/// Sketches up to which every pair is looked at.
const ALL_PAIRS: usize = 2048;
/// Tables of cells that near sketches share: one in which two do is enough.
const TABLES: u64 = 24;
/// Sketches of one cell with which each of them is compared.
const COMPARED: usize = 128;
/// Pairs by which the usual distance is found.
const SAMPLED: usize = 4096;

/// How alike two videos are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likeness {
    /// They show almost the same pictures.
    Near,
    /// They probably show one scene.
    Scene,
}

/// Calls `found` with pairs that are alike, the lower place first; a pair may come several times. A video without a sketch is like no other.
pub(super) fn pairs(sketches: &[Option<Sketch>], mut found: impl FnMut(usize, usize, Likeness)) {
    let places: Vec<u32> = (0..)
        .zip(sketches)
        .filter(|(_, own)| own.is_some())
        .map(|(place, _)| place)
        .collect();
    if places.len() < FEWEST {
        return;
    }
    let numbers = |place: u32| match &sketches[place as usize] {
        Some(sketch) => sketch.numbers(),
        None => [0.0; WIDTH],
    };
    let usual = usual(&places, numbers);
    if usual <= 0.0 || !usual.is_finite() {
        // Most videos are the same, beside which nothing is near.
        return;
    }
    let mut look = |one: u32, other: u32| {
        let (one, other) = (one.min(other), one.max(other));
        let share = distance(&numbers(one), &numbers(other)) / usual;
        let likeness = match share {
            share if share <= NEAR => Likeness::Near,
            share if share <= SCENE => Likeness::Scene,
            _ => return,
        };
        found(one as usize, other as usize, likeness);
    };
    if places.len() <= ALL_PAIRS {
        for (i, one) in places.iter().enumerate() {
            places[i + 1..].iter().for_each(|other| look(*one, *other));
        }
        return;
    }
    let mut cells: Vec<(u64, u32)> = Vec::with_capacity(places.len());
    for table in 0..TABLES {
        let grid = Grid::new(table, places.len(), usual);
        cells.clear();
        cells.extend(
            places
                .iter()
                .map(|place| (grid.cell(&numbers(*place)), *place)),
        );
        cells.sort_unstable();
        for cell in cells.chunk_by(|one, other| one.0 == other.0) {
            for (i, (_, one)) in cell.iter().enumerate() {
                let next = cell[i + 1..].iter().take(COMPARED);
                next.for_each(|(_, other)| look(*one, *other));
            }
        }
    }
}

/// For each video the first one of its group of almost the same pictures: its own place when it is like no other.
pub fn groups(sketches: &[Option<Sketch>]) -> Vec<u32> {
    let mut groups = Groups::new(sketches.len());
    pairs(sketches, |one, other, likeness| {
        if likeness == Likeness::Near {
            groups.join(one, other);
        }
    });
    (0..sketches.len())
        .map(|place| groups.first(place))
        .collect()
}

/// Sets of places that only grow.
#[derive(Debug)]
struct Groups(Vec<u32>);

impl Groups {
    fn new(places: usize) -> Self {
        Self((0..).take(places).collect())
    }

    fn first(&mut self, place: usize) -> u32 {
        let mut place = place as u32;
        loop {
            let above = self.0[place as usize];
            if above == place {
                return place;
            }
            // Halves the way for who comes next.
            self.0[place as usize] = self.0[above as usize];
            place = above;
        }
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other) as usize] = one.min(other);
    }
}

/// The middle one of many distances between different places.
fn usual(places: &[u32], numbers: impl Fn(u32) -> [f32; WIDTH]) -> f32 {
    let count = places.len() as u64;
    let mut distances: Vec<f32> = (0..SAMPLED as u64)
        .filter_map(|sample| {
            let draw = rng::splitmix64(sample);
            let (one, apart) = (draw % count, 1 + (draw >> 32) % (count - 1));
            let other = (one + apart) % count;
            let (one, other) = (places[one as usize], places[other as usize]);
            let own = distance(&numbers(one), &numbers(other));
            own.is_finite().then_some(own)
        })
        .collect();
    distances.sort_unstable_by(f32::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(0.0)
}

fn distance(one: &[f32; WIDTH], other: &[f32; WIDTH]) -> f32 {
    let squares = one.iter().zip(other).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f32>().sqrt()
}

/// Cells of some of the numbers, as wide as those of sketches of one scene rarely are apart.
struct Grid {
    numbers: Vec<usize>,
    width: f32,
    shift: f32,
}

impl Grid {
    fn new(table: u64, count: usize, usual: f32) -> Self {
        // More numbers for more sketches, so that cells stay small.
        let used = (count.ilog2() as usize * 3 / 5).clamp(3, 12);
        let draws = (0..).map(|draw| rng::splitmix64(table << 16 | draw));
        let mut numbers: Vec<usize> = Vec::with_capacity(used);
        for draw in draws {
            let number = (draw % WIDTH as u64) as usize;
            if numbers.len() == used {
                break;
            }
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        let width = 1.5 * usual / (2.0 * WIDTH as f32).sqrt();
        let share = (rng::splitmix64(!table) >> 40) as f32 / (1_u64 << 24) as f32;
        Self {
            numbers,
            width,
            shift: share * width,
        }
    }

    fn cell(&self, numbers: &[f32; WIDTH]) -> u64 {
        let of = |number: &usize| ((numbers[*number] + self.shift) / self.width).floor() as i64;
        let steps = self.numbers.iter().map(of);
        steps.fold(0, |cell, step| rng::splitmix64(cell ^ step.cast_unsigned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    /// Features of so many different videos.
    fn different(count: u64) -> Vec<Vec<f32>> {
        let of = |seed| {
            let mut stream = Stream::new(seed, "video");
            (0..96).map(|_| stream.normal()).collect()
        };
        (0..count).map(of).collect()
    }

    /// A video that differs from another by this share of what different ones do.
    fn like(other: &[f32], share: f32, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, "like");
        let factor = share * 2.0_f32.sqrt();
        other
            .iter()
            .map(|own| own + factor * stream.normal())
            .collect()
    }

    fn sketches(features: &[Vec<f32>]) -> Vec<Option<Sketch>> {
        features.iter().map(|own| Sketch::of(own)).collect()
    }

    /// Planted pairs among so many videos, and which of them were found as what; how many others were found.
    fn planted(count: u64) -> ([usize; 2], usize) {
        let mut all = different(count);
        let mut pairs_of = Vec::new();
        for i in 0..20 {
            let (place, share) = (i * 7, [0.02, 0.15][i % 2]);
            pairs_of.push((place, all.len(), i % 2));
            let twin = like(&all[place], share, i as u64);
            all.push(twin);
        }
        let mut found = std::collections::BTreeMap::new();
        pairs(&sketches(&all), |one, other, likeness| {
            assert!(one < other);
            found.insert((one, other), likeness);
        });
        let mut counts = [0; 2];
        for (one, other, kind) in pairs_of {
            let expected = [Likeness::Near, Likeness::Scene][kind];
            counts[kind] += usize::from(found.remove(&(one, other)) == Some(expected));
        }
        (counts, found.len())
    }

    #[test]
    fn planted_pairs_are_found_among_few_and_among_many() {
        assert_eq!(planted(300), ([10, 10], 0));
        let (found, others) = planted(6000);
        assert_eq!((found[0], others), (10, 0));
        assert!(found[1] >= 9, "{found:?}");
    }

    #[test]
    fn groups_are_of_almost_the_same_pictures_and_videos_without_a_sketch_are_alone() {
        let mut all = different(20);
        let chain = [like(&all[4], 0.02, 1), like(&all[4], 0.02, 2)];
        all.extend(chain);
        let mut own = sketches(&all);
        own.push(None);
        let mut expected: Vec<u32> = (0..20).collect();
        expected.extend([4, 4, 22]);
        assert_eq!(groups(&own), expected);
        // Too few, and all the same.
        let few = sketches(&[all[0].clone(), all[0].clone()]);
        assert_eq!(groups(&few), [0, 1]);
        let same = sketches(&vec![all[0].clone(); 20]);
        assert!(groups(&same).iter().copied().eq(0..20));
    }
}
