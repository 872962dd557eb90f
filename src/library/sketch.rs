//! What is kept of a video's frozen features: a random projection to 64 numbers, in which distances are nearly those of the features.
//!
//! Invariant: pure; equal features give equal sketches, and the text of a sketch reads back as the sketch.

use sha2::{Digest as _, Sha256};

use crate::rng;
use crate::spec::Digest;

/// Numbers of a sketch.
pub(super) const WIDTH: usize = 64;
/// Length of a sketch as text: a scale and the numbers, two hexadecimal digits a byte.
const TEXT: usize = 2 * (4 + 2 * WIDTH);
/// Chooses the projection; sketches of another one cannot be compared.
const PROJECTION: u64 = 0x5ce7c4;

/// A video's features, projected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sketch {
    /// Value of one step of the numbers.
    scale: f32,
    values: [i16; WIDTH],
}

impl Sketch {
    /// Projects features: each number is a sum of them all with random signs. `None` when they are no numbers.
    pub fn of(features: &[f32]) -> Option<Self> {
        let mut sums = [0.0_f64; WIDTH];
        for (place, feature) in features.iter().enumerate() {
            // A bit for each number of the sketch.
            let signs = rng::splitmix64(PROJECTION ^ rng::splitmix64(place as u64));
            for (number, sum) in sums.iter_mut().enumerate() {
                let is_negative = signs >> number & 1 == 1;
                *sum += f64::from(if is_negative { -feature } else { *feature });
            }
        }
        let most = sums.iter().fold(0.0_f64, |most, sum| most.max(sum.abs()));
        if sums.iter().any(|sum| !sum.is_finite()) {
            return None;
        }
        let scale = (most / f64::from(i16::MAX)) as f32;
        let step = f64::from(scale).max(f64::MIN_POSITIVE);
        Some(Self {
            scale,
            // Whole numbers within the range, since the largest one is what the scale was chosen for.
            values: sums.map(|sum| (sum / step).round() as i16),
        })
    }

    /// The numbers at one scale for all sketches.
    pub(super) fn numbers(&self) -> [f32; WIDTH] {
        self.values.map(|value| self.scale * f32::from(value))
    }

    /// The sketch as text.
    pub fn to_text(&self) -> String {
        let scale = self.scale.to_be_bytes().into_iter();
        let values = self.values.iter().flat_map(|value| value.to_be_bytes());
        scale
            .chain(values)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Reads a text that [`Self::to_text`] wrote; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TEXT || !text.is_ascii() {
            return None;
        }
        let (scale, values) = text.split_at(8);
        let scale = f32::from_bits(u32::from_str_radix(scale, 16).ok()?);
        let mut sketch = Self {
            scale: Some(scale).filter(|scale| scale.is_finite())?,
            values: [0; WIDTH],
        };
        for (number, value) in sketch.values.iter_mut().enumerate() {
            let digits = values.get(4 * number..4 * number + 4)?;
            *value = u16::from_str_radix(digits, 16).ok()?.cast_signed();
        }
        Some(sketch)
    }
}

/// What sketches of this backbone's features are kept under.
pub fn kind(backbone: Digest) -> Digest {
    let mut sha256 = Sha256::new();
    sha256.update(b"sketch of two frames 1");
    sha256.update(backbone.0);
    Digest(sha256.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn features(seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, "features");
        (0..768).map(|_| stream.normal()).collect()
    }

    fn distance(one: &[f32], other: &[f32]) -> f32 {
        let squares = one.iter().zip(other).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    }

    #[test]
    fn distances_of_sketches_are_nearly_those_of_the_features() {
        for seed in 0..50 {
            let (one, other) = (features(2 * seed), features(2 * seed + 1));
            let sketches = [&one, &other].map(|own| Sketch::of(own).unwrap().numbers());
            let got = distance(&sketches[0], &sketches[1]) / (WIDTH as f32).sqrt();
            let ratio = got / distance(&one, &other);
            assert!((0.6..1.4).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn a_sketch_reads_back_from_its_text_and_nothing_else_does() {
        for own in [features(3), vec![0.0; 8], vec![1e-30, -1e30]] {
            let sketch = Sketch::of(&own).unwrap();
            assert_eq!(Sketch::parse(&sketch.to_text()), Some(sketch));
        }
        let text = Sketch::of(&features(1)).unwrap().to_text();
        for bad in ["", &text[1..], &format!("{text}0"), &text.replace('0', "x")] {
            assert_eq!(Sketch::parse(bad), None, "{bad}");
        }
        assert_eq!(Sketch::of(&[f32::NAN]), None);
        assert_eq!(Sketch::of(&[f32::INFINITY, 1.0]), None);
    }

    #[test]
    fn sketches_of_another_backbone_have_another_kind() {
        assert_ne!(kind(Digest([1; 32])), kind(Digest([2; 32])));
        assert_eq!(kind(Digest([1; 32])), kind(Digest([1; 32])));
    }
}
