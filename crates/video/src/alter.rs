//! Changes of whole pictures before a view is taken of them: the operations of RandAugment as Pillow computes them. Pure.
//!
//! Invariant: an operation depends on the picture and its argument alone; look-up tables give Pillow's bytes, and what interpolates or blends is at most one
//! step apart from them.

mod affine;

/// Colour of what lies outside the picture.
const FILL: u8 = 128;

/// A change of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alter {
    /// Stretches each channel to the full range.
    AutoContrast,
    /// Flattens the histogram of each channel.
    Equalize,
    /// Every value subtracted from 255.
    Invert,
    /// Turned about the centre by degrees, counter-clockwise.
    Rotate(f32),
    /// The highest bits kept, 0 to 8.
    Posterize(u8),
    /// Values from a threshold on subtracted from 255, 0 to 256.
    Solarize(u16),
    /// Adds 0 to 128 to values below 128.
    SolarizeAdd(u8),
    /// Between grey (0), the picture (1) and beyond.
    Color(f32),
    /// Between its mean grey (0), the picture (1) and beyond.
    Contrast(f32),
    /// Between black (0), the picture (1) and beyond.
    Brightness(f32),
    /// Between smoothed (0), the picture (1) and beyond.
    Sharpness(f32),
    /// Sheared along x: a row moves by this share of its height.
    ShearX(f32),
    /// Sheared along y.
    ShearY(f32),
    /// Moved along x by a share of the width.
    TranslateX(f32),
    /// Moved along y by a share of the height.
    TranslateY(f32),
}

impl Alter {
    /// Whether the argument is in range.
    pub fn is_valid(&self) -> bool {
        match *self {
            Self::AutoContrast | Self::Equalize | Self::Invert => true,
            Self::Rotate(degrees) => (-90.0..=90.0).contains(&degrees),
            Self::Posterize(bits) => bits <= 8,
            Self::Solarize(threshold) => threshold <= 256,
            Self::SolarizeAdd(add) => add <= 128,
            Self::Color(factor)
            | Self::Contrast(factor)
            | Self::Brightness(factor)
            | Self::Sharpness(factor) => (0.0..=4.0).contains(&factor),
            Self::ShearX(share)
            | Self::ShearY(share)
            | Self::TranslateX(share)
            | Self::TranslateY(share) => (-1.0..=1.0).contains(&share),
        }
    }
}

/// A picture that is changed: RGB triples without gaps, and room for the next one.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    bytes: Vec<u8>,
    spare: Vec<u8>,
    width: usize,
    height: usize,
}

/// There is no memory for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Canvas {
    /// Takes a picture of RGB triples whose rows lie `stride` bytes apart.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for it.
    pub(super) fn load(
        &mut self,
        bytes: &[u8],
        stride: usize,
        (width, height): (usize, usize),
    ) -> Result<(), Full> {
        let len = width * height * 3;
        for room in [&mut self.bytes, &mut self.spare] {
            room.clear();
            room.try_reserve_exact(len).map_err(|_| Full)?;
        }
        for row in bytes.chunks(stride.max(1)).take(height) {
            self.bytes.extend_from_slice(&row[..width * 3]);
        }
        self.spare.resize(len, FILL);
        (self.width, self.height) = (width, height);
        Ok(())
    }

    /// The picture: RGB triples without gaps.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Changes the picture.
    pub(super) fn apply(&mut self, alter: Alter) {
        let (w, h) = (self.width as f64, self.height as f64);
        match alter {
            Alter::AutoContrast => self.by_histogram(contrast_table),
            Alter::Equalize => self.by_histogram(equal_table),
            Alter::Invert => self.table(|value| 255 - value),
            Alter::Posterize(bits) => {
                let mask = (0xff00_u16 >> bits.min(8)) as u8;
                self.table(|value| value & mask);
            }
            Alter::Solarize(threshold) => self.table(|value| match u16::from(value) < threshold {
                true => value,
                false => 255 - value,
            }),
            Alter::SolarizeAdd(add) => self.table(|value| match value < 128 {
                true => value.saturating_add(add),
                false => value,
            }),
            Alter::Color(factor) => {
                let (triples, _) = self.bytes.as_chunks_mut();
                for triple in triples {
                    let grey = grey(*triple);
                    *triple = triple.map(|value| blend(grey, value, factor));
                }
            }
            Alter::Contrast(factor) => {
                let mean = self.mean_grey();
                self.table(|value| blend(mean, value, factor));
            }
            Alter::Brightness(factor) => self.table(|value| blend(0, value, factor)),
            Alter::Sharpness(factor) => self.sharpen(factor),
            Alter::Rotate(degrees) => {
                let angle = -f64::from(degrees).to_radians();
                let (sin, cos) = angle.sin_cos();
                let (x, y) = (w / 2.0, h / 2.0);
                let matrix = [
                    cos,
                    sin,
                    x - cos * x - sin * y,
                    -sin,
                    cos,
                    y + sin * x - cos * y,
                ];
                if degrees != 0.0 {
                    self.affine(matrix);
                }
            }
            Alter::ShearX(share) => self.affine([1.0, share.into(), 0.0, 0.0, 1.0, 0.0]),
            Alter::ShearY(share) => self.affine([1.0, 0.0, 0.0, share.into(), 1.0, 0.0]),
            Alter::TranslateX(share) => {
                self.affine([1.0, 0.0, f64::from(share) * w, 0.0, 1.0, 0.0]);
            }
            Alter::TranslateY(share) => {
                self.affine([1.0, 0.0, 0.0, 0.0, 1.0, f64::from(share) * h]);
            }
        }
    }

    /// Replaces every value by that of a table.
    fn table(&mut self, of: impl Fn(u8) -> u8) {
        let table: [u8; 256] = std::array::from_fn(|value| of(value as u8));
        for value in &mut self.bytes {
            *value = table[usize::from(*value)];
        }
    }

    /// Replaces the values of each channel by those of a table of its histogram.
    fn by_histogram(&mut self, table: fn(&[u64; 256]) -> Option<[u8; 256]>) {
        for channel in 0..3 {
            let mut counts = [0_u64; 256];
            for value in self.bytes.iter().skip(channel).step_by(3) {
                counts[usize::from(*value)] += 1;
            }
            if let Some(table) = table(&counts) {
                for value in self.bytes.iter_mut().skip(channel).step_by(3) {
                    *value = table[usize::from(*value)];
                }
            }
        }
    }

    fn mean_grey(&self) -> u8 {
        let (triples, _) = self.bytes.as_chunks();
        let sum: u64 = triples.iter().map(|triple| u64::from(grey(*triple))).sum();
        (sum as f64 / triples.len().max(1) as f64 + 0.5) as u8
    }

    /// Blends the picture with its smoothed self: 3 × 3 weights of 1 and 5 in the middle; the edge stays.
    fn sharpen(&mut self, factor: f32) {
        let row = self.width * 3;
        self.spare.copy_from_slice(&self.bytes);
        for y in 1..self.height.saturating_sub(1) {
            for x in 3..row.saturating_sub(3) {
                let at = y * row + x;
                let line = |at: usize, middle: f32| {
                    let near = |at: usize| f32::from(self.bytes[at]);
                    let one = 1.0 / 13.0;
                    near(at - 3) * one + near(at) * middle + near(at + 3) * one
                };
                let sum = 0.5
                    + line(at + row, 1.0 / 13.0)
                    + line(at, 5.0 / 13.0)
                    + line(at - row, 1.0 / 13.0);
                self.spare[at] = sum as u8;
            }
        }
        for (value, smooth) in self.bytes.iter_mut().zip(&self.spare) {
            *value = blend(*smooth, *value, factor);
        }
    }

    fn affine(&mut self, matrix: [f64; 6]) {
        let size = (self.width, self.height);
        affine::bicubic(&self.bytes, &mut self.spare, size, matrix, FILL);
        std::mem::swap(&mut self.bytes, &mut self.spare);
    }
}

/// Luminance as ITU-R 601-2 has it, in Pillow's fixed point.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471;
    ((sum + 0x8000) >> 16) as u8
}

/// a at 0, b at 1, and what is on the line between and beyond them.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    let (a, b) = (i32::from(a), i32::from(b));
    // A cast of a float saturates and cuts off, as Pillow does.
    (a as f32 + factor * (b - a) as f32) as u8
}

fn contrast_table(counts: &[u64; 256]) -> Option<[u8; 256]> {
    let low = counts.iter().position(|count| *count > 0)?;
    let high = counts.iter().rposition(|count| *count > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    Some(std::array::from_fn(|value| {
        (value as f64 * scale + offset) as u8
    }))
}

fn equal_table(counts: &[u64; 256]) -> Option<[u8; 256]> {
    let mut used = counts.iter().filter(|count| **count > 0);
    let last = *used.next_back()?;
    used.next()?;
    let step = (counts.iter().sum::<u64>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut below = step / 2;
    Some(std::array::from_fn(|value| {
        let equal = below / step;
        below += counts[value];
        equal.min(255) as u8
    }))
}

#[cfg(test)]
mod tests;
