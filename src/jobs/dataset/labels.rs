//! What a job does about labels with unequal numbers of clips: weights in the loss, and which clips an epoch takes.
//!
//! Invariant: what an epoch takes depends on the seed and the place in its order alone; the clips of a label are taken in turn, none twice before all once.

use super::{Example, Targets};
use crate::jobs::augment::Draws;
use crate::model::Goal;

/// Labels of the training split, for jobs that weigh or balance them.
#[derive(Debug)]
pub(in crate::jobs) struct Balance {
    /// Weight of a clip by its label; empty when all count the same.
    weights: Vec<f64>,
    /// Examples by label, and where those of each label with examples begin; empty when epochs take every clip once.
    members: Vec<u32>,
    begins: Vec<usize>,
}

impl Balance {
    /// The labels of examples of so many classes, for loss weights and for sampling.
    pub(in crate::jobs) fn new(
        examples: &[Example],
        classes: usize,
        (is_weighted, is_sampled): (bool, bool),
    ) -> Self {
        let mut counts = vec![0_usize; classes];
        for example in examples {
            if let Some(count) = counts.get_mut(example.class as usize) {
                *count += 1;
            }
        }
        let used = counts.iter().filter(|count| **count > 0).count();
        let weight = |count: &usize| match count {
            0 => 0.0,
            count => examples.len() as f64 / (used * count) as f64,
        };
        let weights = counts.iter().map(weight);
        let mut balance = Self {
            weights: weights.filter(|_| is_weighted).collect(),
            members: Vec::new(),
            begins: Vec::new(),
        };
        if is_sampled {
            let all = u32::try_from(examples.len()).unwrap_or(u32::MAX);
            balance.members = (0..all).collect();
            balance
                .members
                .sort_by_key(|place| examples[*place as usize].class);
            let mut begin = 0;
            for count in counts.into_iter().filter(|count| *count > 0) {
                balance.begins.push(begin);
                begin += count;
            }
        }
        balance
    }

    /// The example at a place of an epoch's order of all examples: labels take turns, and so do the examples of a label, from epoch to epoch.
    pub(in crate::jobs) fn example(&self, draws: &Draws, epoch: u64, place: u64) -> usize {
        let labels = self.begins.len() as u64;
        if labels == 0 {
            return place as usize;
        }
        let label = (place % labels) as usize;
        let begin = self.begins[label];
        let end = self
            .begins
            .get(label + 1)
            .copied()
            .unwrap_or(self.members.len());
        let count = (end - begin) as u64;
        // Turns of a label in one epoch; a label may have one more in some places than others.
        let turns = (self.members.len() as u64).div_ceil(labels);
        let turn = epoch * turns + place / labels;
        let order = draws.label_order(label as u64, turn / count, count);
        self.members[begin + order.at(turn % count) as usize] as usize
    }

    /// Weighs the clips of a step: by the mean of their labels' weights, such that the step's weights have the mean 1.
    pub(in crate::jobs) fn weigh(&self, targets: &mut Targets) {
        if self.weights.is_empty() {
            return;
        }
        if targets.goals.is_empty() {
            targets.goals = targets.labels.iter().copied().map(Goal::plain).collect();
        }
        let of = |label: u32| self.weights.get(label as usize).copied().unwrap_or(1.0);
        for (label, goal) in targets.labels.iter().zip(&mut targets.goals) {
            goal.weight = (1.0 - goal.share) * of(*label) + goal.share * of(goal.other);
        }
        let sum: f64 = targets.goals.iter().map(|goal| goal.weight).sum();
        if sum > 0.0 {
            let factor = targets.goals.len() as f64 / sum;
            targets
                .goals
                .iter_mut()
                .for_each(|goal| goal.weight *= factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VideoId;

    /// Eight clips of label 0, two of label 2, none of label 1.
    fn examples() -> Vec<Example> {
        let example = |class| Example {
            video: VideoId::generate(),
            class,
            frames: 8,
            size: (8, 8),
        };
        [0, 0, 2, 0, 0, 0, 2, 0, 0, 0].map(example).to_vec()
    }

    #[test]
    fn a_step_weighs_its_clips_by_the_rarity_of_their_labels() {
        let balance = Balance::new(&examples(), 3, (true, false));
        assert_eq!(balance.weights, [10.0 / 16.0, 0.0, 2.5]);
        let mut targets = Targets {
            labels: vec![0, 2],
            ..Targets::default()
        };
        balance.weigh(&mut targets);
        let weights: Vec<f64> = targets.goals.iter().map(|goal| goal.weight).collect();
        assert!((weights[0] - 0.4).abs() < 1e-12 && (weights[1] - 1.6).abs() < 1e-12);
        let mut none = Targets {
            labels: vec![0, 2],
            ..Targets::default()
        };
        Balance::new(&examples(), 3, (false, false)).weigh(&mut none);
        assert!(none.goals.is_empty());
    }

    #[test]
    fn every_epoch_takes_as_many_clips_of_each_label_and_no_clip_before_its_turn() {
        let examples = examples();
        let balance = Balance::new(&examples, 3, (false, true));
        let draws = Draws::new(4);
        let mut taken = vec![0; examples.len()];
        for epoch in 0..8 {
            let picked: Vec<usize> = (0..10).map(|p| balance.example(&draws, epoch, p)).collect();
            let rare = picked.iter().filter(|i| examples[**i].class == 2).count();
            assert_eq!(rare, 5);
            picked.into_iter().for_each(|i| taken[i] += 1);
        }
        // Forty turns of each label: five for each of eight clips, twenty for each of two.
        for (example, taken) in examples.iter().zip(taken) {
            assert_eq!(taken, if example.class == 2 { 20 } else { 5 });
        }
    }

    #[test]
    fn without_balance_a_place_is_its_example() {
        let balance = Balance::new(&examples(), 3, (true, false));
        assert!((0..10).all(|place| balance.example(&Draws::new(1), 3, place) == place as usize));
    }
}
