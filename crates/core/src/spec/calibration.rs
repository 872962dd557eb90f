//! How far scores can be taken for probabilities, and the temperature that makes them so.
//!
//! Invariant: a temperature changes no order of labels, only how sure a version is of its best one.

use serde::{Deserialize, Serialize};

/// Reliability bins.
const BINS: usize = 15;

/// What the validation split says about a version's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Scores are raised to 1 / temperature and divided by their sum; with one view, that is a softmax of logits divided by the temperature.
    pub temperature: f64,
    /// Examples from which the temperature was found.
    pub examples: u64,
    /// Expected calibration error of the scores as they are.
    pub raw_error: f64,
    /// Expected calibration error with the temperature, on the examples from which it was found.
    pub error: f64,
    /// Examples by their confidence with the temperature, in parts of equal width of 0 to 1.
    pub bins: Vec<ReliabilityBin>,
    /// Confidence below which an answer is marked as unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_below: Option<f64>,
}

/// Examples whose confidence is in one part of 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Number of the examples.
    pub examples: u64,
    /// Mean confidence; 0 without examples.
    pub confidence: f64,
    /// Share of the examples that were right; 0 without examples.
    pub accuracy: f64,
}

/// How sure an answer is, by a version's calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sureness {
    /// The calibration's temperature.
    pub temperature: f64,
    /// Confidence below which an answer is marked as unknown.
    pub unknown_below: Option<f64>,
}

impl From<Option<&Calibration>> for Sureness {
    fn from(calibration: Option<&Calibration>) -> Self {
        Self {
            temperature: calibration.map_or(1.0, |own| own.temperature),
            unknown_below: calibration.and_then(|own| own.unknown_below),
        }
    }
}

impl Calibration {
    /// Whether a calibration from elsewhere is valid.
    pub fn is_sound(&self) -> bool {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        self.temperature.is_finite()
            && self.temperature > 0.0
            && is_share(self.raw_error)
            && is_share(self.error)
            && self.unknown_below.is_none_or(is_share)
            && self.bins.len() <= BINS
            && self
                .bins
                .iter()
                .all(|bin| is_share(bin.confidence) && is_share(bin.accuracy))
    }
}

/// The best score of scores that sum to 1, with a temperature.
pub fn confidence(scores: &[f64], temperature: f64) -> f64 {
    let best = scores.iter().copied().fold(0.0, f64::max);
    // A score of 0 stays 0, whatever the temperature.
    let sum: f64 = scores
        .iter()
        .map(|score| (score / best).powf(1.0 / temperature))
        .sum();
    if best > 0.0 && sum.is_finite() {
        1.0 / sum
    } else {
        0.0
    }
}

/// The reliability bins of examples, each its confidence and whether it was right, and the expected calibration error: the mean distance of confidence and
/// accuracy of the bins, by their examples.
pub fn reliability(examples: impl Iterator<Item = (f64, bool)>) -> (Vec<ReliabilityBin>, f64) {
    let mut bins = vec![ReliabilityBin::default(); BINS];
    for (confidence, is_right) in examples {
        let place = ((confidence * BINS as f64) as usize).min(BINS - 1);
        let bin = &mut bins[place];
        bin.examples += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(is_right));
    }
    let all: u64 = bins.iter().map(|bin| bin.examples).sum();
    let mut error = 0.0;
    for bin in bins.iter_mut().filter(|bin| bin.examples > 0) {
        bin.confidence /= bin.examples as f64;
        bin.accuracy /= bin.examples as f64;
        let distance = (bin.confidence - bin.accuracy).abs();
        error += distance * bin.examples as f64 / all as f64;
    }
    (bins, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_makes_the_best_score_surer_or_less_sure() {
        let scores = [0.6, 0.3, 0.1];
        assert!((confidence(&scores, 1.0) - 0.6).abs() < 1e-12);
        // Of squares: 0.36 / 0.46.
        assert!((confidence(&scores, 0.5) - 0.36 / 0.46).abs() < 1e-12);
        assert!(confidence(&scores, 4.0) < 0.6);
        assert_eq!(confidence(&[1.0, 0.0], 3.0), 1.0);
        assert_eq!(confidence(&[0.0, 0.0], 1.0), 0.0);
        assert_eq!(confidence(&[], 1.0), 0.0);
    }

    #[test]
    fn the_error_is_the_mean_distance_of_confidence_and_accuracy() {
        // Ten examples with confidence 0.95, eight of them right; ten with 0.5, five right.
        let sure = (0..10).map(|i| (0.95, i < 8));
        let unsure = (0..10).map(|i| (0.5, i < 5));
        let (bins, error) = reliability(sure.chain(unsure));
        assert!((error - 0.075).abs() < 1e-12, "{error}");
        assert_eq!((bins[14].examples, bins[7].examples), (10, 10));
        assert!((bins[14].accuracy - 0.8).abs() < 1e-12);
        let (bins, error) = reliability(std::iter::empty());
        assert_eq!((bins.len(), error), (BINS, 0.0));
    }
}
