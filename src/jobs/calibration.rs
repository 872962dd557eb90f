//! The temperature that makes a version's scores on the validation split most likely.
//!
//! Invariant: pure; the same scores give the same temperature by the bit.

use crate::spec::{Calibration, confidence, reliability};

/// Bytes of scores that are kept of an evaluation; further examples do not count.
const BYTES: usize = 32 << 20;
/// Fewest examples that say anything about a temperature.
const FEWEST: usize = 10;
/// Smallest and largest temperature, as logarithms.
const RANGE: (f64, f64) = (-2.0, 2.5);
/// Halvings of the range, roughly, by the golden ratio.
const TURNS: usize = 60;

/// Scores of an evaluation's examples, as far as they have room.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples {
    classes: Vec<u32>,
    scores: Vec<f32>,
    /// Number of labels.
    width: usize,
}

impl Samples {
    /// Adds an example.
    pub(super) fn add(&mut self, class: u32, scores: &[f64]) {
        let bytes = (self.scores.len() + scores.len()) * size_of::<f32>();
        let fits = self.width == 0 || self.width == scores.len();
        if bytes > BYTES || !fits || scores.is_empty() {
            return;
        }
        self.width = scores.len();
        self.classes.push(class);
        self.scores.extend(scores.iter().map(|score| *score as f32));
    }

    fn rows(&self) -> impl Iterator<Item = (usize, Vec<f64>)> {
        let classes = self.classes.iter().map(|class| *class as usize);
        let rows = self.scores.chunks_exact(self.width.max(1));
        classes.zip(rows.map(|row| row.iter().map(|score| f64::from(*score)).collect()))
    }

    /// Mean negative log likelihood of the labels with a temperature, and what its distance from 1 costs: as if its logarithm were known to be normal with
    /// deviation 1, which keeps a few examples that are all right from making scores certain.
    fn cost(&self, log_temperature: f64) -> f64 {
        let inverse = (-log_temperature).exp();
        let of = |(class, scores): (usize, Vec<f64>)| {
            let mut logs = scores.iter().map(|score| inverse * score.max(1e-30).ln());
            let most = logs.clone().fold(f64::NEG_INFINITY, f64::max);
            let total = logs.clone().map(|log| (log - most).exp()).sum::<f64>().ln() + most;
            total - logs.nth(class).unwrap_or(most)
        };
        let sum: f64 = self.rows().map(of).sum();
        (sum + 0.5 * log_temperature * log_temperature) / self.classes.len().max(1) as f64
    }

    /// The calibration; `None` when there are too few examples or their scores are no numbers.
    pub(super) fn calibration(&self, unknown_below: Option<f64>) -> Option<Calibration> {
        let is_number = self.scores.iter().all(|score| score.is_finite());
        if self.classes.len() < FEWEST || self.width < 2 || !is_number {
            return None;
        }
        let temperature = self.minimum().exp();
        let judged = |temperature: f64| {
            self.rows().map(move |(class, scores)| {
                let best = (0..scores.len())
                    .fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
                (confidence(&scores, temperature), best == class)
            })
        };
        let (_, raw_error) = reliability(judged(1.0));
        let (bins, error) = reliability(judged(temperature));
        Some(Calibration {
            temperature,
            examples: self.classes.len() as u64,
            raw_error,
            error,
            bins,
            unknown_below,
        })
    }

    /// The logarithm of the temperature with the lowest cost, which is convex enough for a golden-section search.
    fn minimum(&self) -> f64 {
        let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = RANGE;
        let (mut a, mut b) = (high - golden * (high - low), low + golden * (high - low));
        let (mut of_a, mut of_b) = (self.cost(a), self.cost(b));
        for _ in 0..TURNS {
            if of_a <= of_b {
                (high, b, of_b) = (b, a, of_a);
                a = high - golden * (high - low);
                of_a = self.cost(a);
            } else {
                (low, a, of_a) = (a, b, of_b);
                b = low + golden * (high - low);
                of_b = self.cost(b);
            }
        }
        0.5 * (low + high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of which this share is right, with this score of the best of two labels.
    fn samples(count: u32, right: u32, score: f64) -> Samples {
        let mut samples = Samples::default();
        for i in 0..count {
            samples.add(u32::from(i >= right), &[score, 1.0 - score]);
        }
        samples
    }

    #[test]
    fn scores_that_are_too_sure_get_a_high_temperature_and_timid_ones_a_low_one() {
        let sure = samples(1000, 800, 0.99).calibration(None).unwrap();
        assert!(sure.temperature > 2.0, "{sure:?}");
        assert!(
            (sure.raw_error - 0.19).abs() < 1e-6 && sure.error < 0.01,
            "{sure:?}"
        );
        // Confidence and accuracy are both 0.8, as the prior costs nearly nothing of a thousand examples.
        let timid = samples(1000, 900, 0.6).calibration(Some(0.5)).unwrap();
        assert!(timid.temperature < 0.5 && timid.error < 0.01, "{timid:?}");
        assert_eq!(timid.unknown_below, Some(0.5));
        let right = samples(1000, 700, 0.7).calibration(None).unwrap();
        assert!((right.temperature - 1.0).abs() < 0.02, "{right:?}");
        assert!(right.is_sound() && sure.is_sound() && timid.is_sound());
    }

    #[test]
    fn a_few_examples_that_are_all_right_make_nothing_certain() {
        let few = samples(12, 12, 0.7).calibration(None).unwrap();
        assert!(confidence(&[0.7, 0.3], few.temperature) < 0.97, "{few:?}");
        assert_eq!(samples(9, 9, 0.7).calibration(None), None);
        let mut broken = samples(12, 12, 0.7);
        broken.add(0, &[f64::NAN, f64::NAN]);
        assert_eq!(broken.calibration(None), None);
    }

    #[test]
    fn scores_without_room_are_left_out() {
        let mut samples = Samples::default();
        let scores = vec![0.5; BYTES / 8];
        (0..5).for_each(|_| samples.add(0, &scores));
        assert_eq!(samples.classes.len(), 2);
        samples.add(0, &[1.0]);
        assert_eq!(samples.classes.len(), 2);
    }
}
