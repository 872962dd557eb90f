//! From a picture to a view's planes in one pass: bicubic resize, crop, normalise. Pure.
//!
//! The reference normalises, then resizes (PyTorch's bicubic: a = -0.75, half-pixel centres, edges clamped, no antialias), then crops, in f32, and clamps
//! nothing. Normalising commutes with the resize, so that four vertical and four horizontal taps, a factor and a summand do all of it.

use super::request::{Rect, Views};
use crate::spec::Normalization;

/// A picture of RGB triples whose rows lie `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Rgb<'a> {
    /// The rows.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// For each output position of one axis the four source positions and their weights.
#[derive(Debug, Clone)]
struct Axis {
    taps: Vec<[usize; 4]>,
    weights: Vec<[f32; 4]>,
}

/// A piece of a source axis, resized to a whole of which a window is kept.
struct Window {
    /// The piece: start and length in source positions, at least 1.
    source: (usize, usize),
    /// Positions of the resized whole.
    whole: usize,
    /// The first kept position.
    first: usize,
    /// Kept positions.
    kept: usize,
}

impl Axis {
    fn new(window: &Window) -> Self {
        const A: f32 = -0.75;
        let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
        let (start, length) = window.source;
        let scale = length as f32 / window.whole as f32;
        let positions = window.first..window.first + window.kept;
        let (taps, weights) = positions
            .map(|position| {
                let at = scale * (position as f32 + 0.5) - 0.5;
                let floor = at.floor();
                let t = at - floor;
                let base = floor as i64 - 1;
                let tap = |k: i64| start + (base + k).clamp(0, length as i64 - 1) as usize;
                (
                    [tap(0), tap(1), tap(2), tap(3)],
                    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)],
                )
            })
            .unzip();
        Self { taps, weights }
    }

    fn reverse(&mut self) {
        self.taps.reverse();
        self.weights.reverse();
    }
}

/// How one view is made of pictures of one size.
#[derive(Debug, Clone)]
pub struct View {
    vertical: Axis,
    horizontal: Axis,
    /// Leftmost column that is read, and how many.
    columns: (usize, usize),
}

/// Width and height after the shorter side was resized to `size`.
pub fn resized((width, height): (usize, usize), size: usize) -> (usize, usize) {
    if height < width {
        (width * size / height.max(1), size)
    } else {
        (size, height * size / width.max(1))
    }
}

/// How views of `size` × `size` are made of pictures of this size (each side at least 1).
pub fn plan(views: &Views, (width, height): (usize, usize), size: usize) -> Vec<View> {
    let (whole_width, whole_height) = resized((width, height), size);
    let crop = |x: usize, y: usize| {
        View::new(
            &Window {
                source: (0, width),
                whole: whole_width,
                first: x,
                kept: size,
            },
            &Window {
                source: (0, height),
                whole: whole_height,
                first: y,
                kept: size,
            },
        )
    };
    match views {
        Views::Center => vec![crop((whole_width - size) / 2, (whole_height - size) / 2)],
        Views::Three => {
            let slack = whole_width.max(whole_height) - size;
            [0, slack / 2, slack]
                .map(|offset| {
                    if whole_height > whole_width {
                        crop(0, offset)
                    } else {
                        crop(offset, 0)
                    }
                })
                .into()
        }
        Views::Corners => {
            let (right, lower) = (whole_width - size, whole_height - size);
            let centre = (right / 2, lower / 2);
            [(0, 0), (right, 0), (0, lower), (right, lower), centre]
                .map(|(x, y)| crop(x, y))
                .into()
        }
        Views::Rects(rects) => rects
            .iter()
            .map(|rect| View::of_rect(rect, (width, height), size))
            .collect(),
    }
}

impl View {
    fn new(horizontal: &Window, vertical: &Window) -> Self {
        let (horizontal, vertical) = (Axis::new(horizontal), Axis::new(vertical));
        let columns = horizontal.taps.iter().flatten();
        let first = columns.clone().min().copied().unwrap_or(0);
        let last = columns.max().copied().unwrap_or(0);
        Self {
            vertical,
            horizontal,
            columns: (first, last + 1 - first),
        }
    }

    /// The part of a rectangle that lies inside the picture, at least one pixel of it, resized to the whole view.
    fn of_rect(rect: &Rect, (width, height): (usize, usize), size: usize) -> Self {
        let inside = |start: u32, length: u32, limit: usize| {
            let start = (start as usize).min(limit - 1);
            Window {
                source: (start, (length as usize).clamp(1, limit - start)),
                whole: size,
                first: 0,
                kept: size,
            }
        };
        let mut view = Self::new(
            &inside(rect.x, rect.width, width),
            &inside(rect.y, rect.height, height),
        );
        if rect.flip {
            view.horizontal.reverse();
        }
        view
    }

    /// Writes the view of a picture as frame `t` of `planes`, f32 [3, T, S, S]. `row` is scratch space.
    ///
    /// The picture must have the size that the view was planned for.
    #[inline(always)]
    pub fn write(
        &self,
        picture: Rgb<'_>,
        normalization: &Normalization,
        planes: Planes<'_>,
        row: &mut Vec<f32>,
    ) {
        let size = self.vertical.taps.len();
        let (first, count) = self.columns;
        // Four values are read at each tap and three used, so the row is one longer.
        row.clear();
        row.resize(count * 3 + 1, 0.0);
        let factor = normalization.std.map(|std| 1.0 / (255.0 * std));
        let summand: [f32; 3] =
            std::array::from_fn(|c| -normalization.mean[c] / normalization.std[c]);
        let [red, green, blue] = planes.split(size);
        let rows = self.vertical.taps.iter().zip(&self.vertical.weights);
        let targets = red
            .chunks_exact_mut(size)
            .zip(green.chunks_exact_mut(size))
            .zip(blue.chunks_exact_mut(size));
        for ((taps, weights), ((red, green), blue)) in rows.zip(targets) {
            let source = taps.map(|y| {
                let start = y * picture.stride + first * 3;
                &picture.bytes[start..start + count * 3]
            });
            blend(source, *weights, row);
            for (x, (taps, weights)) in
                (self.horizontal.taps.iter().zip(&self.horizontal.weights)).enumerate()
            {
                let mut sum = [0.0_f32; 4];
                for (tap, weight) in taps.iter().zip(weights) {
                    let start = (tap - first) * 3;
                    for (sum, value) in sum.iter_mut().zip(&row[start..start + 4]) {
                        *sum += weight * value;
                    }
                }
                red[x] = sum[0] * factor[0] + summand[0];
                green[x] = sum[1] * factor[1] + summand[1];
                blue[x] = sum[2] * factor[2] + summand[2];
            }
        }
    }
}

/// Four rows of bytes become one of floats.
#[inline(always)]
fn blend(rows: [&[u8]; 4], weights: [f32; 4], target: &mut [f32]) {
    let [a, b, c, d] = rows;
    let [wa, wb, wc, wd] = weights;
    for ((((target, a), b), c), d) in target.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *target = wa * f32::from(*a) + wb * f32::from(*b) + wc * f32::from(*c) + wd * f32::from(*d);
    }
}

/// One frame's place in the planes of a view, f32 [3, T, S, S].
#[derive(Debug)]
pub struct Planes<'a> {
    /// The whole view.
    pub values: &'a mut [f32],
    /// T.
    pub frames: usize,
    /// The frame's number, from 0.
    pub frame: usize,
}

impl<'a> Planes<'a> {
    /// The frame's planes, each [S, S].
    fn split(self, size: usize) -> [&'a mut [f32]; 3] {
        let plane = size * size;
        let (red, rest) = self.values.split_at_mut(self.frames * plane);
        let (green, blue) = rest.split_at_mut(self.frames * plane);
        let range = self.frame * plane..(self.frame + 1) * plane;
        [
            &mut red[range.clone()],
            &mut green[range.clone()],
            &mut blue[range],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Normalization = Normalization {
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    fn apply(views: &Views, picture: &[u8], size: (usize, usize), side: usize) -> Vec<Vec<f32>> {
        let picture = Rgb {
            bytes: picture,
            stride: size.0 * 3,
            width: size.0,
            height: size.1,
        };
        plan(views, size, side)
            .iter()
            .map(|view| {
                let mut values = vec![0.0; 3 * side * side];
                let planes = Planes {
                    values: &mut values,
                    frames: 1,
                    frame: 0,
                };
                view.write(picture, &PLAIN, planes, &mut Vec::new());
                values
            })
            .collect()
    }

    /// Red is the column, green the row.
    fn ramp(width: usize, height: usize) -> Vec<u8> {
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7]))
            .collect()
    }

    #[test]
    fn a_picture_of_the_right_size_is_only_normalised() {
        let view = &apply(&Views::Center, &ramp(16, 16), (16, 16), 16)[0];
        assert!((view[5] * 255.0 - 5.0).abs() < 1e-4);
        assert!((view[256 + 16 * 9] * 255.0 - 9.0).abs() < 1e-4);
        assert!((view[512] * 255.0 - 7.0).abs() < 1e-4);
    }

    #[test]
    fn three_views_lie_along_the_longer_side() {
        let wide = apply(&Views::Three, &ramp(48, 16), (48, 16), 16);
        let lefts: Vec<f32> = wide.iter().map(|view| (view[0] * 255.0).round()).collect();
        assert_eq!(lefts, [0.0, 16.0, 32.0]);
        let high = apply(&Views::Three, &ramp(16, 48), (16, 48), 16);
        let tops: Vec<f32> = high
            .iter()
            .map(|view| (view[256] * 255.0).round())
            .collect();
        assert_eq!(tops, [0.0, 16.0, 32.0]);
    }

    #[test]
    fn corners_and_the_centre() {
        let views = apply(&Views::Corners, &ramp(48, 16), (48, 16), 16);
        let lefts: Vec<f32> = views.iter().map(|view| (view[0] * 255.0).round()).collect();
        assert_eq!(lefts, [0.0, 32.0, 0.0, 32.0, 16.0]);
        let views = apply(&Views::Corners, &ramp(16, 48), (16, 48), 16);
        let tops: Vec<f32> = (views.iter())
            .map(|view| (view[256] * 255.0).round())
            .collect();
        assert_eq!(tops, [0.0, 0.0, 32.0, 32.0, 16.0]);
    }

    #[test]
    fn a_rectangle_is_cut_to_the_picture_and_mirrored() {
        let rect = |x, width, flip| Rect {
            x,
            y: 0,
            width,
            height: 16,
            flip,
        };
        let views = Views::Rects(vec![
            rect(4, 16, false),
            rect(4, 16, true),
            rect(900, 5, false),
        ]);
        let made = apply(&views, &ramp(64, 16), (64, 16), 16);
        assert!((made[0][0] * 255.0 - 4.0).abs() < 1e-3);
        let mirrored: Vec<f32> = made[0][..16].iter().rev().copied().collect();
        assert_eq!(mirrored, made[1][..16]);
        assert!(
            made[2][..256]
                .iter()
                .all(|value| (value * 255.0 - 63.0).abs() < 1e-3)
        );
    }

    #[test]
    fn extreme_shapes_stay_inside() {
        for size in [(1, 1), (1, 4000), (4000, 1), (3, 2)] {
            for views in [Views::Center, Views::Three, Views::Corners] {
                for view in apply(&views, &vec![255; size.0 * size.1 * 3], size, 8) {
                    assert!(view.iter().all(|value| (value - 1.0).abs() < 1e-3));
                }
            }
        }
    }
}
