//! The operations that RandAugment draws for a clip, with their arguments as the reference derives them from the magnitude.

use super::Draws;
use crate::rng::Stream;
use crate::spec::RandAugment;
use crate::video::Alter;

/// Number of operations that are drawn from.
const OPERATIONS: u64 = 15;
/// Largest magnitude.
const MOST: f64 = 10.0;

impl Draws {
    /// The changes of a clip's pictures, the same for all of its frames: operations drawn with repetition, of which each is done with probability 0.5, at a
    /// magnitude of its own.
    pub fn alters(&self, epoch: u64, example: u64, of: &RandAugment) -> Vec<Alter> {
        let purpose = Stream::new(self.seed, "rand_augment");
        let stream = purpose.fork(epoch).fork(example);
        let draw = |layer: u8| {
            let mut own = stream.fork(layer.into());
            let number = own.below(OPERATIONS);
            if own.below(2) == 0 {
                return None;
            }
            let magnitude = of.magnitude + of.deviation * f64::from(own.normal());
            let sign = if own.below(2) == 0 { 1.0 } else { -1.0 };
            let level = magnitude.clamp(0.0, MOST) / MOST;
            Some(operation(number, level, sign, of.increasing))
        };
        (0..of.layers).filter_map(draw).collect()
    }
}

/// One of the operations at a level from 0 to 1; of those that have no two directions the sign is not read.
fn operation(number: u64, level: f64, sign: f64, increasing: bool) -> Alter {
    let signed = |most: f64| (sign * level * most) as f32;
    let factor = || match increasing {
        true => 1.0 + signed(0.9),
        false => (level * 1.8 + 0.1) as f32,
    };
    let rising = |most: f64| {
        let part = (level * most) as u16;
        if increasing { most as u16 - part } else { part }
    };
    match number {
        0 => Alter::AutoContrast,
        1 => Alter::Equalize,
        2 => Alter::Invert,
        3 => Alter::Rotate(signed(30.0)),
        4 => Alter::Posterize(rising(4.0) as u8),
        5 => Alter::Solarize(rising(256.0)),
        6 => Alter::SolarizeAdd((level * 110.0) as u8),
        7 => Alter::Color(factor()),
        8 => Alter::Contrast(factor()),
        9 => Alter::Brightness(factor()),
        10 => Alter::Sharpness(factor()),
        11 => Alter::ShearX(signed(0.3)),
        12 => Alter::ShearY(signed(0.3)),
        13 => Alter::TranslateX(signed(0.45)),
        _ => Alter::TranslateY(signed(0.45)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn augment(text: &str) -> RandAugment {
        text.parse().unwrap()
    }

    #[test]
    fn operations_are_drawn_evenly_and_each_is_done_half_of_the_time() {
        let draws = Draws::new(11);
        let of = augment("rand-m7-n4-mstd0.5-inc1");
        let mut counts = [0_u32; OPERATIONS as usize];
        let mut done = 0_u32;
        const CLIPS: u32 = 10_000;
        for clip in 0..CLIPS {
            let alters = draws.alters(3, clip.into(), &of);
            assert!(alters.len() <= 4 && alters.iter().all(Alter::is_valid));
            done += alters.len() as u32;
            for alter in alters {
                // Which operation it is, by its name.
                let name =
                    |alter: &Alter| format!("{alter:?}").split('(').next().map(str::to_owned);
                let number = (0..OPERATIONS)
                    .find(|number| name(&operation(*number, 0.7, 1.0, true)) == name(&alter));
                counts[number.unwrap() as usize] += 1;
            }
        }
        let share = f64::from(done) / f64::from(4 * CLIPS);
        assert!((share - 0.5).abs() < 0.01, "{share}");
        let expected = f64::from(done) / OPERATIONS as f64;
        let apart = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        let square: f64 = counts.iter().map(apart).sum();
        // Chi-square with 14 degrees of freedom: 36.1 is exceeded once in a thousand times.
        assert!(square < 36.1, "{square}: {counts:?}");
    }

    #[test]
    fn a_clip_has_one_draw_an_epoch_whatever_is_drawn_of_it_besides() {
        let draws = Draws::new(13);
        let of = augment("rand-m7-n4-mstd0.5-inc1");
        let mut seen = Vec::new();
        for (epoch, clip) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let own = draws.alters(epoch, clip, &of);
            // The frames of a clip are drawn of it, too: once or again, its changes stay the same.
            for _ in 0..3 {
                let _ = draws.frames(epoch, clip);
                assert_eq!(draws.alters(epoch, clip, &of), own);
            }
            assert!(!seen.contains(&own), "epoch {epoch}, clip {clip}");
            seen.push(own);
        }
    }

    #[test]
    fn magnitudes_scatter_around_theirs_and_signs_are_even() {
        let draws = Draws::new(12);
        let of = augment("rand-m7-n1-mstd0.5-inc1");
        let degrees: Vec<f64> = (0..20_000)
            .flat_map(|clip| draws.alters(0, clip, &of))
            .filter_map(|alter| {
                let Alter::Rotate(degrees) = alter else {
                    return None;
                };
                Some(f64::from(degrees))
            })
            .collect();
        let count = degrees.len() as f64;
        assert!(count > 500.0);
        let positive = degrees.iter().filter(|degrees| **degrees > 0.0).count() as f64;
        assert!((positive / count - 0.5).abs() < 0.1);
        let levels = degrees.iter().map(|degrees| degrees.abs() / 3.0);
        let mean = levels.clone().sum::<f64>() / count;
        let variance = levels.map(|level| (level - mean).powi(2)).sum::<f64>() / count;
        assert!((mean - 7.0).abs() < 0.1, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.1, "{variance}");
    }

    #[test]
    fn arguments_are_those_of_the_reference() {
        let at = |number, level, sign| operation(number, level, sign, true);
        assert_eq!(at(3, 0.7, -1.0), Alter::Rotate(-21.0));
        assert_eq!(at(4, 0.7, 1.0), Alter::Posterize(2));
        assert_eq!(at(5, 0.7, 1.0), Alter::Solarize(77));
        assert_eq!(at(6, 0.7, 1.0), Alter::SolarizeAdd(77));
        assert_eq!(at(7, 0.5, -1.0), Alter::Color(0.55));
        assert_eq!(at(13, 1.0, 1.0), Alter::TranslateX(0.45));
        let plain = |number| operation(number, 0.5, -1.0, false);
        assert_eq!(plain(4), Alter::Posterize(2));
        assert_eq!(plain(5), Alter::Solarize(128));
        assert_eq!(plain(9), Alter::Brightness(1.0));
    }
}
