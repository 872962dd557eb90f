//! Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): the clips of a step are mixed in pairs, all frames of a clip alike.
//!
//! Deviation from timm: a pair's rectangle lies within the picture as a whole, instead of being cut off at its edge, so that shares follow their distribution.

use super::{Crop, Draws};
use crate::rng::Stream;

/// How the clips of a step are mixed. The partner of the i-th clip is the i-th from the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mix {
    /// Pictures are blended, by this share of the partner.
    Blend(f64),
    /// This part of the pictures is the partner's; its area is the partner's share.
    Cut(Crop),
}

impl Mix {
    /// Returns the partner's share of a mixed clip of this side.
    pub fn share(self, side: usize) -> f64 {
        match self {
            Self::Blend(share) => share,
            Self::Cut(part) => {
                let area = f64::from(part.width) * f64::from(part.height);
                area / (side * side).max(1) as f64
            }
        }
    }
}

impl Draws {
    /// Returns how the clips of a step, of pictures of this side, are mixed; `None` when they are not.
    pub fn mix(&self, step: u64, side: usize, (mixup, cutmix): (f64, f64)) -> Option<Mix> {
        let mut stream = Stream::new(self.seed, "mix").fork(step);
        let is_cut = match (mixup > 0.0, cutmix > 0.0) {
            (false, false) => return None,
            (true, false) => false,
            (false, true) => true,
            (true, true) => stream.below(2) == 1,
        };
        if !is_cut {
            return Some(Mix::Blend(beta(&mut stream, mixup)));
        }
        let share = beta(&mut stream, cutmix);
        let length = ((side as f64 * share.sqrt()).round() as usize).min(side);
        let mut place = || stream.below((side - length) as u64 + 1) as u32;
        let (x, y) = (place(), place());
        let (width, height) = (length as u32, length as u32);
        Some(Mix::Cut(Crop {
            x,
            y,
            width,
            height,
        }))
    }
}

/// A draw from Beta(shape, shape), as the share of one of two gamma draws.
fn beta(stream: &mut Stream, shape: f64) -> f64 {
    let (a, b) = (gamma(stream, shape), gamma(stream, shape));
    match a + b > 0.0 {
        true => a / (a + b),
        // Both are below what a float tells from 0, which a tiny shape makes one or the other of.
        false => f64::from(u8::from(stream.below(2) == 1)),
    }
}

/// A draw from the gamma distribution (Marsaglia and Tsang, 2000).
fn gamma(stream: &mut Stream, shape: f64) -> f64 {
    if shape < 1.0 {
        let unit = 1.0 - f64::from(stream.unit());
        return gamma(stream, shape + 1.0) * unit.powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let normal = f64::from(stream.normal());
        let cube = (1.0 + c * normal).powi(3);
        let unit = 1.0 - f64::from(stream.unit());
        if cube > 0.0 && unit.ln() < 0.5 * normal * normal + d - d * cube + d * cube.ln() {
            return d * cube;
        }
    }
}

/// Planes of a clip blended with those of its partner, by the partner's share.
pub fn mixed(own: &[f32], partner: &[f32], share: f64) -> Vec<f32> {
    let (of_partner, of_own) = (share as f32, (1.0 - share) as f32);
    let pairs = own.iter().zip(partner);
    pairs.map(|(a, b)| of_own * a + of_partner * b).collect()
}

/// Planes of a clip of pictures of this side, of which a part is the partner's.
pub fn cut(own: &[f32], partner: &[f32], side: usize, part: Crop) -> Vec<f32> {
    let mut planes = own.to_vec();
    let size = (side * side).max(1);
    let (x, width) = (part.x as usize, part.width as usize);
    for (plane, from) in planes
        .chunks_exact_mut(size)
        .zip(partner.chunks_exact(size))
    {
        for y in (part.y as usize..).take(part.height as usize) {
            let row = y * side + x..y * side + x + width;
            if let (Some(to), Some(from)) = (plane.get_mut(row.clone()), from.get(row)) {
                to.copy_from_slice(from);
            }
        }
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_moments_of_their_distribution() {
        for shape in [0.1_f64, 0.8, 1.0, 4.0] {
            let mut stream = Stream::new(5, "beta");
            let draws: Vec<f64> = (0..20_000).map(|_| beta(&mut stream, shape)).collect();
            assert!(draws.iter().all(|share| (0.0..=1.0).contains(share)));
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let spread = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            // Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2a + 1)).
            let expected = 1.0 / (4.0 * (2.0 * shape + 1.0));
            assert!((mean - 0.5).abs() < 0.015, "{shape}: {mean}");
            assert!((spread / expected - 1.0).abs() < 0.05, "{shape}: {spread}");
        }
    }

    #[test]
    fn a_step_repeats_its_mix_and_another_has_its_own() {
        let draws = Draws::new(3);
        assert_eq!(draws.mix(1, 32, (0.0, 0.0)), None);
        let both: Vec<Mix> = (0..100)
            .filter_map(|i| draws.mix(i, 32, (0.8, 1.0)))
            .collect();
        assert_eq!(both.len(), 100);
        let cuts = both.iter().filter(|mix| matches!(mix, Mix::Cut(_))).count();
        assert!((30..70).contains(&cuts), "{cuts}");
        assert_eq!(draws.mix(7, 32, (0.8, 1.0)), Some(both[7]));
        for mix in both {
            assert!((0.0..=1.0).contains(&mix.share(32)));
            if let Mix::Cut(part) = mix {
                assert!(part.x + part.width <= 32 && part.y + part.height <= 32);
            }
        }
    }

    #[test]
    fn a_part_of_every_plane_is_the_partners() {
        let (own, partner) = (vec![0.0; 2 * 16], vec![1.0; 2 * 16]);
        let part = Crop {
            x: 1,
            y: 2,
            width: 2,
            height: 1,
        };
        let planes = cut(&own, &partner, 4, part);
        let ones: Vec<usize> = (0..32).filter(|i| planes[*i] == 1.0).collect();
        assert_eq!(ones, [9, 10, 25, 26]);
        assert_eq!(Mix::Cut(part).share(4), 2.0 / 16.0);
        assert_eq!(mixed(&own, &partner, 0.25)[5], 0.25);
    }
}
