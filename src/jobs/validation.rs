//! Everything that is wrong with a data set, found before training begins.
//!
//! Invariant: all problems are found, not only the first; they are told in the order of the examples, and at most 100 are spelled out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::metadata::ExampleRecord;
use crate::spec::{LabelSet, Split};

/// Problems that are spelled out.
const LISTED: usize = 100;

/// What is wrong with a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems {
    listed: Vec<String>,
    count: usize,
    /// Problems that are videos whose stored bytes are gone or damaged.
    unavailable: usize,
}

impl Problems {
    pub(super) fn push(&mut self, problem: String) {
        self.count += 1;
        if self.listed.len() < LISTED {
            self.listed.push(problem);
        }
    }

    /// A video that was good when it was uploaded, and whose stored bytes are gone or damaged now.
    pub(super) fn push_unavailable(&mut self, problem: String) {
        self.unavailable += 1;
        self.push(problem);
    }

    /// Whether nothing is wrong with the data set but that stored bytes are gone or damaged.
    pub(super) fn are_of_the_store(&self) -> bool {
        self.unavailable == self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(
            f,
            "{} problem{plural}: {}",
            self.count,
            self.listed.join("; ")
        )?;
        match self.count - self.listed.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// The labels of training and validation in alphabetical order, which becomes the version's, and what is wrong with them.
pub(super) fn labels(examples: &[ExampleRecord]) -> (Option<LabelSet>, Problems) {
    let mut problems = Problems::default();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for example in examples
        .iter()
        .filter(|example| example.split != Split::Test)
    {
        let count = counts.entry(&example.label).or_default();
        *count += u64::from(example.split == Split::Train);
    }
    let trained: BTreeSet<&str> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(label, _)| *label)
        .collect();
    match trained.len() {
        0 => problems.push("there is no training example".into()),
        1 => problems.push(format!(
            "there is one label with training examples ({:?}), at least 2 are needed",
            trained.first().copied().unwrap_or_default()
        )),
        _ => {}
    }
    for label in counts.keys().filter(|label| !trained.contains(*label)) {
        problems.push(format!(
            "label {label:?} has validation examples, but no training example"
        ));
    }
    match LabelSet::new(counts.into_keys().map(String::from).collect()) {
        Ok(labels) => (Some(labels), problems),
        Err(invalid) => {
            problems.push(invalid.to_string());
            (None, problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VideoId;

    fn examples(list: &[(&str, Split)]) -> Vec<ExampleRecord> {
        list.iter()
            .map(|(label, split)| ExampleRecord {
                video: VideoId::generate(),
                label: (*label).into(),
                split: *split,
            })
            .collect()
    }

    #[test]
    fn labels_are_those_of_training_and_validation_in_order() {
        let (labels, problems) = labels(&examples(&[
            ("right", Split::Train),
            ("left", Split::Train),
            ("left", Split::Validation),
            ("unseen", Split::Test),
        ]));
        assert!(problems.is_empty());
        assert_eq!(labels.expect("labels").as_slice(), ["left", "right"]);
    }

    #[test]
    fn every_label_needs_a_training_example_and_two_are_needed() {
        let told = |list: &[(&str, Split)]| labels(&examples(list)).1.to_string();
        assert_eq!(
            told(&[
                ("left", Split::Train),
                ("up", Split::Validation),
                ("down", Split::Validation)
            ]),
            "3 problems: there is one label with training examples (\"left\"), at least 2 are needed; \
             label \"down\" has validation examples, but no training example; \
             label \"up\" has validation examples, but no training example"
        );
        assert_eq!(told(&[]), "1 problem: there is no training example");
        assert_eq!(
            told(&[("a", Split::Test)]),
            "1 problem: there is no training example"
        );
    }

    #[test]
    fn a_hundred_problems_are_spelled_out_and_the_rest_is_counted() {
        let mut problems = Problems::default();
        for i in 0..123 {
            problems.push(format!("p{i}"));
        }
        let told = problems.to_string();
        assert!(told.starts_with("123 problems: p0; p1") && told.ends_with("; p99; and 23 more"));
    }
}
