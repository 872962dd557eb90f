//! Scores of labels that do not exclude one another, counted by level: what average precisions and thresholds follow from.
//!
//! Invariant: memory does not grow with the number of examples: when there are more levels with examples than have room, two neighbours become one, for all
//! labels alike. Equal scores in an equal order give equal counts, however often the counting is interrupted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{Independent, LabelScore};

/// Most levels with examples, over all labels.
const CELLS: usize = 1 << 19;
/// Levels of a score at first, as a power of 2.
const BITS: u32 = 16;
/// Levels divide the logit of a score evenly, from minus this to this: scores of rare labels are near 0.
const MOST: f64 = 16.0;

/// Counts of every label by level of its score.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    labels: Vec<Counts>,
    /// Neighbouring levels became one so often.
    halvings: u32,
    cells: usize,
}

/// Counts of one label.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    /// Examples whose score is 0.5 or more, and those of them that have the label.
    predicted: u64,
    right: u64,
    /// By level: examples without the label, and with it.
    levels: BTreeMap<u32, (u64, u64)>,
}

/// A level that has examples: those without the label, and those with it.
type Cell = (u32, u64, u64);

/// Counts as they are kept while an evaluation is interrupted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    halvings: u32,
    /// Of each label: predicted, right, and its levels in order.
    labels: Vec<(u64, u64, Vec<Cell>)>,
}

impl Levels {
    pub(super) fn new(labels: usize) -> Self {
        Self {
            labels: vec![Counts::default(); labels],
            halvings: 0,
            cells: 0,
        }
    }

    /// Continues from what was kept of so many labels and examples; `None` when it cannot be of them.
    pub(super) fn resumed(kept: Kept, (labels, examples): (usize, u64)) -> Option<Self> {
        let levels = 1_u32.checked_shl(BITS.checked_sub(kept.halvings)?)?;
        let mut own = Self::new(0);
        own.halvings = kept.halvings;
        for (predicted, right, cells) in kept.labels {
            let counted = cells.iter().try_fold(0_u64, |sum, (_, without, with)| {
                sum.checked_add(*without)?.checked_add(*with)
            });
            let is_ordered = cells.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let is_known = cells.last().is_none_or(|last| last.0 < levels);
            let is_sound = counted == Some(examples)
                && is_ordered
                && is_known
                && right <= predicted
                && predicted <= examples;
            if !is_sound {
                return None;
            }
            own.cells += cells.len();
            let levels = cells.into_iter();
            own.labels.push(Counts {
                predicted,
                right,
                levels: levels
                    .map(|(level, without, with)| (level, (without, with)))
                    .collect(),
            });
        }
        (own.labels.len() == labels && own.cells <= CELLS.max(labels)).then_some(own)
    }

    pub(super) fn kept(&self) -> Kept {
        let of = |own: &Counts| {
            let levels = own.levels.iter();
            let levels = levels.map(|(level, (without, with))| (*level, *without, *with));
            (own.predicted, own.right, levels.collect())
        };
        Kept {
            halvings: self.halvings,
            labels: self.labels.iter().map(of).collect(),
        }
    }

    /// Levels that have examples.
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// Counts an example by the rows of its labels and the scores of all labels. Returns the mean of the labels' binary cross entropies, in nats.
    pub(super) fn add(&mut self, rows: &[u32], scores: &[f64]) -> f64 {
        let mut loss = 0.0;
        let mut has = vec![false; self.labels.len()];
        for row in rows {
            if let Some(has) = has.get_mut(*row as usize) {
                *has = true;
            }
        }
        for ((own, score), has) in self.labels.iter_mut().zip(scores).zip(has) {
            let is_predicted = *score >= 0.5;
            own.predicted += u64::from(is_predicted);
            own.right += u64::from(is_predicted && has);
            let level = level_of(*score) >> self.halvings;
            let cell = own.levels.entry(level).or_insert_with(|| {
                self.cells += 1;
                (0, 0)
            });
            match has {
                true => cell.1 += 1,
                false => cell.0 += 1,
            }
            let likely = if has { *score } else { 1.0 - score };
            loss += super::surprise(likely);
        }
        // One level a label is the least.
        while self.cells > CELLS && self.halvings < BITS {
            self.halve();
        }
        loss / self.labels.len().max(1) as f64
    }

    /// Makes two neighbouring levels one.
    fn halve(&mut self) {
        self.halvings += 1;
        self.cells = 0;
        for own in &mut self.labels {
            let mut halved: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for (level, (without, with)) in &own.levels {
                let cell = halved.entry(level >> 1).or_default();
                cell.0 += without;
                cell.1 += with;
            }
            self.cells += halved.len();
            own.levels = halved;
        }
    }

    pub(super) fn finish(self) -> Independent {
        let labels = self.labels.iter().map(|own| own.score(self.halvings));
        Independent::of(labels.collect())
    }
}

impl Counts {
    fn score(&self, halvings: u32) -> LabelScore {
        let sums = self.levels.values();
        let (without, with) = sums.fold((0, 0), |(a, b), (without, with)| (a + without, b + with));
        let mut score = LabelScore {
            examples: with,
            predicted: self.predicted,
            right: self.right,
            average_precision: 0.0,
            threshold: LabelScore::THRESHOLD,
        };
        // From the highest level down: examples so far, and those of them that have the label.
        let (mut seen, mut right) = (0, 0);
        let mut best: Option<(f64, u32)> = None;
        for (level, (more, own)) in self.levels.iter().rev() {
            seen += more + own;
            right += own;
            let precision = right as f64 / seen as f64;
            score.average_precision += precision * (*own as f64 / with.max(1) as f64);
            let f1 = 2.0 * right as f64 / (seen + with) as f64;
            if best.is_none_or(|(most, _)| f1 > most) {
                best = Some((f1, *level));
            }
        }
        // Sums of shares may be above 1 by rounding.
        score.average_precision = score.average_precision.clamp(0.0, 1.0);
        let is_known = with >= LabelScore::FEWEST && without >= LabelScore::FEWEST;
        if let Some((_, level)) = best.filter(|_| is_known) {
            // Halfway to the next lower score that there was.
            let below = self.levels.range(..level).next_back();
            let below = below.map_or(level, |(below, _)| below + 1);
            score.threshold = score_at((f64::from(level) + f64::from(below)) / 2.0, halvings);
        }
        score
    }
}

/// The level of a score.
fn level_of(score: f64) -> u32 {
    let logit = (score / (1.0 - score)).ln().clamp(-MOST, MOST);
    let levels = f64::from(1_u32 << BITS);
    // Metrics of what is no number are refused for their loss.
    ((logit + MOST) / (2.0 * MOST) * levels).min(levels - 1.0) as u32
}

/// The score at the lower end of a level, or between two.
fn score_at(level: f64, halvings: u32) -> f64 {
    let levels = f64::from((1_u32 << BITS) >> halvings);
    let logit = level / levels * 2.0 * MOST - MOST;
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Average precision as scikit-learn's `average_precision_score` defines it.
    fn average_precision(examples: &[(f64, bool)]) -> f64 {
        let mut scores: Vec<f64> = examples.iter().map(|own| own.0).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let all = examples.iter().filter(|own| own.1).count() as f64;
        let (mut sum, mut before) = (0.0, 0.0);
        for score in scores {
            let chosen = examples.iter().filter(|own| own.0 >= score);
            let right = chosen.clone().filter(|own| own.1).count() as f64;
            sum += (right / all - before) * right / chosen.count() as f64;
            before = right / all;
        }
        sum
    }

    fn examples(count: u32) -> Vec<(f64, bool)> {
        let mut stream = crate::rng::Stream::new(3, "levels");
        let one = |_| {
            let has = stream.below(4) == 0;
            let score = f64::from(stream.unit()) * if has { 0.8 } else { 0.6 };
            (score, has)
        };
        (0..count).map(one).collect()
    }

    fn counted(examples: &[(f64, bool)]) -> Levels {
        let mut levels = Levels::new(1);
        for (score, has) in examples {
            let rows: &[u32] = if *has { &[0] } else { &[] };
            levels.add(rows, &[*score]);
        }
        levels
    }

    #[test]
    fn average_precision_is_that_of_the_scores() {
        let known = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
        let of = |examples: &[(f64, bool)]| counted(examples).finish();
        // The example of scikit-learn's documentation.
        assert!((of(&known).map - 0.833_333_3).abs() < 1e-6);
        let many = examples(2000);
        let expected = average_precision(&many);
        assert!((of(&many).map - expected).abs() < 1e-3, "{expected}");
    }

    #[test]
    fn levels_without_room_are_halved_and_the_precision_hardly_changes() {
        let many = examples(2000);
        let mut levels = counted(&many);
        let before = levels.clone().finish().map;
        let cells = levels.cells();
        (0..6).for_each(|_| levels.halve());
        assert!(levels.cells() < cells, "{cells}");
        let after = levels.clone().finish();
        assert!((after.map - before).abs() < 0.02, "{before} {}", after.map);
        let labels = 3;
        let again = Levels::resumed(levels.kept(), (1, 2000)).unwrap();
        assert_eq!(again, levels);
        assert_eq!(Levels::resumed(levels.kept(), (labels, 2000)), None);
        assert_eq!(Levels::resumed(levels.kept(), (1, 1999)), None);
    }

    #[test]
    fn a_threshold_is_between_the_scores_that_it_divides() {
        let mut separate: Vec<(f64, bool)> = (0..8).map(|_| (0.2, false)).collect();
        separate.extend((0..6).map(|_| (0.3, true)));
        let own = counted(&separate).finish().labels[0];
        assert!((0.2..0.3).contains(&own.threshold), "{own:?}");
        assert_eq!((own.predicted, own.right, own.examples), (0, 0, 6));
        assert!((own.average_precision - 1.0).abs() < 1e-12);
        let few = counted(&separate[..12]).finish().labels[0];
        assert_eq!(few.threshold, 0.5, "four examples say too little");
        let none = counted(&separate[..8]).finish();
        assert_eq!((none.map, none.labels[0].average_precision), (0.0, 0.0));
    }

    #[test]
    fn scores_at_the_ends_have_levels() {
        for score in [0.0, 1e-300, 0.5, 1.0, f64::NAN] {
            assert!(level_of(score) < 1 << BITS);
        }
        assert_eq!(level_of(0.5), 1 << (BITS - 1));
        assert!((score_at(f64::from(level_of(0.3)), 0) - 0.3).abs() < 1e-3);
    }
}
