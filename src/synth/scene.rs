//! Draws one coloured shape on a textured background, as a single image with labels that say what it shows.
//!
//! Invariant: positions and sizes are in units of half the picture's side, x to the right, y down, (0, 0) in the middle; so a scene looks the same at
//! every resolution.

use rayon::prelude::*;

use crate::rng::Stream;

/// A shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A filled circle.
    Disc,
    /// A square.
    Square,
    /// An upright triangle with its point at the top.
    Triangle,
    /// A circle with a hole.
    Ring,
    /// Two crossed bars.
    Cross,
    /// A square that stands on a corner.
    Diamond,
    /// A horizontal bar.
    Bar,
    /// A vertical bar.
    Column,
}

impl Kind {
    /// All of them; the index is the label.
    pub const ALL: [Self; 8] = [
        Self::Disc,
        Self::Square,
        Self::Triangle,
        Self::Ring,
        Self::Cross,
        Self::Diamond,
        Self::Bar,
        Self::Column,
    ];
}

/// The colours, red, green and blue from 0 to 1; the index is the label.
pub const PALETTE: [[f32; 3]; 8] = [
    [0.90, 0.10, 0.10],
    [0.10, 0.80, 0.20],
    [0.15, 0.25, 0.90],
    [0.90, 0.80, 0.10],
    [0.80, 0.20, 0.80],
    [0.10, 0.80, 0.80],
    [0.95, 0.95, 0.95],
    [0.95, 0.50, 0.10],
];

/// How far an object's colour strays from its palette entry: one standard deviation.
const COLOR_SPREAD: f32 = 0.1;

/// A coloured shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// The outline of the coloured shape.
    pub kind: Kind,
    /// Red, green and blue from 0 to 1.
    pub color: [f32; 3],
    /// About half its height.
    pub size: f32,
    /// Where its middle is: x, y.
    pub center: [f32; 2],
}

impl Object {
    /// An object of a random kind and colour, with the labels of both.
    pub fn random(stream: &mut Stream, size: f32, center: [f32; 2]) -> (Self, [u32; 2]) {
        let kind = stream.below(Kind::ALL.len() as u64) as usize;
        let color = stream.below(PALETTE.len() as u64) as usize;
        let object = Self {
            kind: Kind::ALL[kind],
            color: PALETTE[color].map(|c| (c + COLOR_SPREAD * stream.normal()).clamp(0.0, 1.0)),
            size,
            center,
        };
        (object, [kind as u32, color as u32])
    }
}

/// A dark tint with a random texture: values on a coarse grid, bilinear between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    base: [f32; 3],
    grain: usize,
    grid: Vec<[f32; 3]>,
}

impl Background {
    /// A background whose texture has `grain` × `grain` values; a grain below 2 is taken as 2.
    pub fn random(stream: &mut Stream, grain: usize) -> Self {
        let grain = grain.max(2);
        let mut color = |low, high| std::array::from_fn(|_| stream.range(low, high));
        Self {
            base: color(0.0, 0.5),
            grain,
            grid: (0..grain * grain).map(|_| color(-0.15, 0.15)).collect(),
        }
    }
}

/// A picture in the making: `[3, side, side]`, red, green, blue, each from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Canvas {
    side: usize,
    planes: Vec<f32>,
}

impl Canvas {
    /// A picture of `side` × `side` pixels with nothing but the background.
    pub fn new(side: usize, background: &Background) -> Self {
        let mut planes = vec![0.0; 3 * side * side];
        let grain = background.grain;
        let taps: Vec<(usize, f32)> = (0..side)
            .map(|pixel| {
                let at = (pixel as f32 + 0.5) / side as f32 * (grain - 1) as f32;
                let cell = (at as usize).min(grain - 2);
                (cell, at - cell as f32)
            })
            .collect();
        for (channel, plane) in planes.chunks_exact_mut(side * side).enumerate() {
            let value = |row: usize, column: usize| background.grid[row * grain + column][channel];
            for (&(row, down), line) in taps.iter().zip(plane.chunks_exact_mut(side)) {
                for (&(column, right), pixel) in taps.iter().zip(line) {
                    let top = value(row, column) * (1.0 - right) + value(row, column + 1) * right;
                    let bottom =
                        value(row + 1, column) * (1.0 - right) + value(row + 1, column + 1) * right;
                    let texture = top * (1.0 - down) + bottom * down;
                    *pixel = (background.base[channel] + texture).clamp(0.0, 1.0);
                }
            }
        }
        Self { side, planes }
    }

    /// Draws an object with smooth edges; what lies outside the picture is cut off.
    pub fn draw(&mut self, object: &Object) {
        let s = object.size;
        match object.kind {
            Kind::Disc => self.fill(object, |x, y| x.hypot(y) - s),
            Kind::Square => self.fill(object, |x, y| x.abs().max(y.abs()) - 0.85 * s),
            Kind::Triangle => self.fill(object, |x, y| {
                ((x.abs() - 0.6 * (y + 0.8 * s)) * 0.857_5).max(y - 0.8 * s)
            }),
            Kind::Ring => self.fill(object, |x, y| {
                let r = x.hypot(y);
                (r - s).max(0.55 * s - r)
            }),
            Kind::Cross => self.fill(object, |x, y| {
                let (x, y) = (x.abs(), y.abs());
                (x - 0.3 * s).max(y - s).min((y - 0.3 * s).max(x - s))
            }),
            Kind::Diamond => self.fill(object, |x, y| {
                (x.abs() + y.abs() - 1.1 * s) * std::f32::consts::FRAC_1_SQRT_2
            }),
            Kind::Bar => self.fill(object, |x, y| (x.abs() - s).max(y.abs() - 0.35 * s)),
            Kind::Column => self.fill(object, |x, y| (x.abs() - 0.35 * s).max(y.abs() - s)),
        }
    }

    /// Blends the object's colour where `distance`, which is negative inside the shape, says so.
    fn fill(&mut self, object: &Object, distance: impl Fn(f32, f32) -> f32) {
        let side = self.side;
        let half = side as f32 / 2.0;
        let reach = 1.15 * object.size + 2.0 / half;
        let span = |middle: f32| {
            let first = ((middle - reach + 1.0) * half).floor().max(0.0) as usize;
            let last = ((middle + reach + 1.0) * half).ceil().max(0.0) as usize;
            first.min(side)..last.min(side)
        };
        let (columns, rows) = (span(object.center[0]), span(object.center[1]));
        let (red, rest) = self.planes.split_at_mut(side * side);
        let (green, blue) = rest.split_at_mut(side * side);
        for row in rows {
            let y = (row as f32 + 0.5) / half - 1.0 - object.center[1];
            for column in columns.clone() {
                let x = (column as f32 + 0.5) / half - 1.0 - object.center[0];
                // The edge is one pixel wide.
                let cover = (0.5 - distance(x, y) * half).clamp(0.0, 1.0);
                let pixel = row * side + column;
                for (plane, color) in [&mut *red, &mut *green, &mut *blue]
                    .iter_mut()
                    .zip(object.color)
                {
                    plane[pixel] += (color - plane[pixel]) * cover;
                }
            }
        }
    }

    /// Adds independent noise, uniform in ±`amplitude`, to every value.
    pub fn add_noise(&mut self, stream: &mut Stream, amplitude: f32) {
        for value in &mut self.planes {
            *value = (*value + stream.range(-amplitude, amplitude)).clamp(0.0, 1.0);
        }
    }

    /// The values as `[3, side, side]`.
    pub fn into_planes(self) -> Vec<f32> {
        self.planes
    }

    /// The picture as packed 8-bit RGB, `[side, side, 3]`.
    pub fn to_rgb(&self) -> Vec<u8> {
        let plane = self.side * self.side;
        (0..plane)
            .flat_map(|pixel| [0, 1, 2].map(|channel| self.planes[channel * plane + pixel]))
            .map(|value| (value * 255.0).round() as u8)
            .collect()
    }
}

/// Rows and columns of the grid that positions are told apart on.
const CELLS: usize = 4;
/// How many sizes are told apart.
const SIZES: usize = 4;
/// Smallest and largest object.
const SIZE: (f32, f32) = (0.12, 0.54);
/// An object's middle is within ± this.
const REACH: f32 = 0.8;
/// Coarsest and finest texture.
const GRAIN: (usize, usize) = (4, 12);
/// Noise of a scene, in ± of the full range.
const NOISE: f32 = 0.05;

/// What is asked about a scene, with the number of answers, in the order of its labels.
pub const QUESTIONS: [(&str, usize); 4] = [
    ("shape", Kind::ALL.len()),
    ("color", PALETTE.len()),
    ("position", CELLS * CELLS),
    ("size", SIZES),
];

/// Images and what they show.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[N, 3, side, side]`, from 0 to 1.
    pub images: Vec<f32>,
    /// The N answers to each of [`QUESTIONS`].
    pub labels: [Vec<u32>; QUESTIONS.len()],
}

fn bucket(value: f32, (low, high): (f32, f32), buckets: usize) -> u32 {
    let share = (value - low) / (high - low);
    ((share * buckets as f32) as usize).min(buckets - 1) as u32
}

fn scene(mut stream: Stream, side: usize) -> (Vec<f32>, [u32; QUESTIONS.len()]) {
    let size = stream.range(SIZE.0, SIZE.1);
    let center = [stream.range(-REACH, REACH), stream.range(-REACH, REACH)];
    let (object, [kind, color]) = Object::random(&mut stream, size, center);
    let grain = GRAIN.0 + stream.below((GRAIN.1 - GRAIN.0 + 1) as u64) as usize;
    let mut canvas = Canvas::new(side, &Background::random(&mut stream, grain));
    canvas.draw(&object);
    canvas.add_noise(&mut stream, NOISE);
    let [column, row] = center.map(|at| bucket(at, (-REACH, REACH), CELLS));
    let labels = [
        kind,
        color,
        row * CELLS as u32 + column,
        bucket(size, SIZE, SIZES),
    ];
    (canvas.into_planes(), labels)
}

/// Draws `count` scenes of `side` × `side` pixels, the i-th from the i-th part of the stream.
pub fn batch(stream: &Stream, count: usize, side: usize) -> Batch {
    let scenes: Vec<_> = (0..count as u64)
        .into_par_iter()
        .map(|i| scene(stream.fork(i), side))
        .collect();
    let mut images = Vec::with_capacity(count * 3 * side * side);
    let mut labels: [Vec<u32>; QUESTIONS.len()] = Default::default();
    for (planes, answers) in scenes {
        images.extend(planes);
        for (all, answer) in labels.iter_mut().zip(answers) {
            all.push(answer);
        }
    }
    Batch { images, labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_depends_on_its_stream_alone() {
        let stream = Stream::new(3, "scenes");
        let many = batch(&stream, 5, 32);
        let few = batch(&stream, 2, 32);
        assert_eq!(many.images[..few.images.len()], few.images[..]);
        assert_ne!(many, batch(&Stream::new(4, "scenes"), 5, 32));
    }

    #[test]
    fn every_answer_occurs_and_is_in_range() {
        let drawn = batch(&Stream::new(1, "scenes"), 600, 16);
        assert!(drawn.images.iter().all(|value| (0.0..=1.0).contains(value)));
        for ((question, answers), labels) in QUESTIONS.iter().zip(&drawn.labels) {
            let mut seen = vec![false; *answers];
            for &label in labels {
                seen[label as usize] = true;
            }
            assert!(seen.iter().all(|&seen| seen), "{question}: {seen:?}");
        }
    }

    #[test]
    fn an_object_is_drawn_where_it_is_said_to_be() {
        let background = Background {
            base: [0.0; 3],
            grain: 2,
            grid: vec![[0.0; 3]; 4],
        };
        for kind in Kind::ALL {
            let mut canvas = Canvas::new(64, &background);
            canvas.draw(&Object {
                kind,
                color: [1.0, 0.5, 0.25],
                size: 0.3,
                center: [0.5, -0.5],
            });
            let plane = 64 * 64;
            let total: f32 = canvas.planes[..plane].iter().sum();
            let corner: f32 = (0..plane)
                .filter(|pixel| pixel % 64 >= 32 && pixel / 64 < 32)
                .map(|pixel| canvas.planes[pixel])
                .sum();
            assert!(
                total > 50.0 && corner > 0.99 * total,
                "{kind:?}: {corner} of {total}"
            );
            let green: f32 = canvas.planes[plane..2 * plane].iter().sum();
            assert!((green / total - 0.5).abs() < 1e-3);
        }
    }

    #[test]
    fn a_scene_looks_the_same_at_every_resolution() {
        let mut stream = Stream::new(9, "background");
        let background = Background::random(&mut stream, 7);
        let (object, _) = Object::random(&mut stream, 0.4, [0.1, 0.2]);
        let mean = |side: usize| {
            let mut canvas = Canvas::new(side, &background);
            canvas.draw(&object);
            canvas.planes.iter().sum::<f32>() / canvas.planes.len() as f32
        };
        assert!((mean(64) - mean(128)).abs() < 2e-3);
    }
}
