//! What the examples of a job are: which rows of the head are theirs.
//!
//! Invariant: an example names its rows by one number, so that an example of several labels takes no more memory than one of a single label; equal sets of
//! labels have one number.

use std::sync::Arc;

use super::{Example, Targets};
use crate::model::Marks;
use crate::spec::LabelKind;

/// Largest factor of a rare label's loss, and one over the smallest of a frequent one's.
const MOST_WEIGHT: f64 = 100.0;

/// Rows of the head by the class of an example.
#[derive(Debug, Clone, Default)]
pub(in crate::jobs) struct Truths {
    classes: usize,
    /// Rows of each set of labels; `None` when labels exclude one another, and a class is its row.
    sets: Option<Arc<[Box<[u32]>]>>,
    /// Factor of each label's loss where it is there; empty when all count the same.
    positive: Arc<[f64]>,
}

impl Truths {
    /// Rows of so many labels that exclude one another.
    pub(in crate::jobs) fn single(classes: usize) -> Self {
        Self {
            classes,
            ..Self::default()
        }
    }

    /// Rows of these sets of so many labels.
    pub(in crate::jobs) fn multi(classes: usize, sets: Vec<Box<[u32]>>) -> Self {
        Self {
            classes,
            sets: Some(sets.into()),
            positive: Arc::default(),
        }
    }

    pub(in crate::jobs) fn kind(&self) -> LabelKind {
        match self.sets {
            None => LabelKind::Single,
            Some(_) => LabelKind::Multi,
        }
    }

    /// Number of labels.
    pub(in crate::jobs) fn classes(&self) -> usize {
        self.classes
    }

    /// The rows of a class.
    pub(in crate::jobs) fn rows<'a>(&'a self, class: &'a u32) -> &'a [u32] {
        match &self.sets {
            None => std::slice::from_ref(class),
            Some(sets) => sets.get(*class as usize).map_or(&[], |rows| rows),
        }
    }

    /// How many of the examples have each label.
    fn counts(&self, examples: &[Example]) -> Vec<u64> {
        let mut counts = vec![0; self.classes];
        for example in examples {
            for row in self.rows(&example.class) {
                if let Some(count) = counts.get_mut(*row as usize) {
                    *count += 1;
                }
            }
        }
        counts
    }

    /// For each example the row of its rarest label, by which it is held out; one number for those without labels.
    pub(in crate::jobs) fn rarest(&self, examples: &[Example]) -> Vec<u32> {
        let counts = self.counts(examples);
        let count = |row: &u32| counts.get(*row as usize).copied().unwrap_or(0);
        let rarest = |example: &Example| {
            let rows = self.rows(&example.class).iter().copied();
            rows.min_by_key(|row| (count(row), *row))
                .unwrap_or(u32::MAX)
        };
        examples.iter().map(rarest).collect()
    }

    /// The same rows of labels that count by how rare they are among the examples: the loss of a label that is there is multiplied by the number of examples
    /// without it over those with it, at most [`MOST_WEIGHT`].
    #[must_use]
    pub(in crate::jobs) fn weighted(self, examples: &[Example]) -> Self {
        if self.sets.is_none() {
            return self;
        }
        let all = examples.len() as u64;
        let weight = |count: u64| match count {
            0 => 1.0,
            count => {
                let share = (all - count.min(all)) as f64 / count as f64;
                share.clamp(1.0 / MOST_WEIGHT, MOST_WEIGHT)
            }
        };
        let positive = self.counts(examples).into_iter().map(weight).collect();
        Self { positive, ..self }
    }

    /// The mean loss of guessing that the examples allow: of labels that exclude one another, that of scores that are all equal; else that of scores that are
    /// how frequent each label is, `None` when labels count by their rarity.
    pub(in crate::jobs) fn guess(&self, examples: &[Example]) -> Option<f64> {
        if self.sets.is_none() {
            return Some((self.classes.max(2) as f64).ln());
        }
        if !self.positive.is_empty() || examples.is_empty() {
            return None;
        }
        let all = examples.len() as f64;
        let part = |share: f64| match share > 0.0 {
            true => -share * share.ln(),
            false => 0.0,
        };
        let shares = self.counts(examples).into_iter();
        let shares = shares.map(|count| count as f64 / all);
        let sum: f64 = shares.map(|share| part(share) + part(1.0 - share)).sum();
        Some(sum / self.classes.max(1) as f64)
    }

    /// Says label by label what clips are to be, where labels do not exclude one another.
    pub(in crate::jobs) fn mark(&self, targets: &mut Targets) {
        if self.sets.is_none() {
            return;
        }
        let mut values = vec![0.0_f32; targets.labels.len() * self.classes];
        let clips = values.chunks_exact_mut(self.classes.max(1));
        for (place, (marks, class)) in clips.zip(&targets.labels).enumerate() {
            let goal = targets.goals.get(place);
            let (other, share) = goal.map_or((*class, 0.0), |goal| (goal.other, goal.share));
            for (class, share) in [(*class, 1.0 - share), (other, share)] {
                for row in self.rows(&class) {
                    if let Some(mark) = marks.get_mut(*row as usize) {
                        *mark = (*mark + share as f32).min(1.0);
                    }
                }
            }
        }
        targets.marks = Some(Marks {
            values,
            positive: Arc::clone(&self.positive),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VideoId;
    use crate::model::Goal;

    /// Sets of three labels: none, the first, the first and the last.
    fn truths() -> Truths {
        let sets = [&[][..], &[0], &[0, 2]];
        Truths::multi(3, sets.map(|rows: &[u32]| rows.into()).to_vec())
    }

    fn examples(classes: &[u32]) -> Vec<Example> {
        let example = |class: &u32| Example {
            video: VideoId::generate(),
            class: *class,
            frames: 8,
            size: (8, 8),
        };
        classes.iter().map(example).collect()
    }

    #[test]
    fn clips_are_marked_by_their_labels_and_mixed_by_their_shares() {
        let truths = truths();
        let mut targets = Targets {
            labels: vec![0, 1, 2],
            ..Targets::default()
        };
        truths.mark(&mut targets);
        let marks = targets.marks.as_ref().map(|own| own.values.clone());
        assert_eq!(
            marks,
            Some(vec![0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
        );
        targets.goals = [(2, 0.25), (1, 0.5), (0, 0.25)]
            .map(|(other, share)| Goal {
                other,
                share,
                weight: 1.0,
            })
            .to_vec();
        truths.mark(&mut targets);
        let marks = targets.marks.map(|own| own.values);
        assert_eq!(
            marks,
            Some(vec![0.25, 0.0, 0.25, 1.0, 0.0, 0.0, 0.75, 0.0, 0.75])
        );
        let mut single = Targets {
            labels: vec![1],
            ..Targets::default()
        };
        Truths::single(3).mark(&mut single);
        assert_eq!(single.marks, None);
    }

    #[test]
    fn rare_labels_weigh_more_and_decide_where_an_example_goes() {
        let examples = examples(&[0, 1, 1, 2]);
        let own = truths();
        assert_eq!(own.rarest(&examples), [u32::MAX, 0, 0, 2]);
        let guess = own.guess(&examples).unwrap();
        // The first label is in three of four, the second in none, the last in one of four.
        let entropy = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
        assert!((guess - 2.0 * entropy / 3.0).abs() < 1e-12);
        let weighted = own.weighted(&examples);
        assert_eq!(weighted.positive[..], [1.0 / 3.0, 1.0, 3.0]);
        assert_eq!(weighted.guess(&examples), None);
        assert_eq!(Truths::single(4).guess(&[]), Some(4.0_f64.ln()));
    }
}
