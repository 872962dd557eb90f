//! Everything that is wrong with a data set, found before training begins.
//!
//! Invariant: all problems are found, not only the first; they are told in the order of the examples, and at most 100 are spelled out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::dataset::Truths;
use crate::spec::{ExampleLabels, LabelKind, LabelSet, Split};

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

    /// Adds what was found later.
    pub(super) fn append(&mut self, later: Self) {
        self.count += later.count;
        self.unavailable += later.unavailable;
        let room = LISTED.saturating_sub(self.listed.len());
        self.listed.extend(later.listed.into_iter().take(room));
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

/// The labels of training and validation, numbered as they are met.
#[derive(Debug, Default)]
pub(super) struct Labels {
    met: BTreeMap<String, Met>,
    /// Sets of labels, by their numbers, as they are met; `None` when labels exclude one another.
    sets: Option<HashMap<Box<[u32]>, u32>>,
}

#[derive(Debug)]
struct Met {
    number: u32,
    /// Training examples.
    trained: u64,
}

/// The labels of a whole data set.
#[derive(Debug)]
pub(super) struct Classes {
    /// The labels in the order that becomes the version's; `None` when they cannot be a label set.
    pub(super) labels: Option<LabelSet>,
    /// The class of each example, by the number that it got when it was met.
    pub(super) by_number: Vec<u32>,
    /// Which labels a class has.
    pub(super) truths: Truths,
    /// What is wrong with the labels.
    pub(super) problems: Problems,
}

impl Labels {
    pub(super) fn of(kind: LabelKind) -> Self {
        Self {
            met: BTreeMap::new(),
            sets: kind.is_multi().then(HashMap::new),
        }
    }

    /// Counts an example of training or validation. Returns its number, which examples of equal labels have in common.
    pub(super) fn meet(&mut self, labels: &ExampleLabels, split: Split) -> u32 {
        let mut numbers: Vec<u32> = labels.iter().map(|own| self.one(own, split)).collect();
        let Some(sets) = &mut self.sets else {
            // The data set has refused every other number of labels.
            return numbers.first().copied().unwrap_or_default();
        };
        numbers.sort_unstable();
        let next = u32::try_from(sets.len()).unwrap_or(u32::MAX);
        *sets.entry(numbers.into()).or_insert(next)
    }

    fn one(&mut self, label: &str, split: Split) -> u32 {
        let number = u32::try_from(self.met.len()).unwrap_or(u32::MAX);
        let met = match self.met.get_mut(label) {
            Some(met) => met,
            None => self
                .met
                .entry(label.to_owned())
                .or_insert(Met { number, trained: 0 }),
        };
        met.trained += u64::from(split == Split::Train);
        met.number
    }

    /// The classes, once every example was met: the labels that are known in their order, then the others in alphabetical order.
    pub(super) fn finish(self, known: Option<&LabelSet>) -> Classes {
        let known = known.map_or(&[][..], LabelSet::as_slice);
        let mut problems = Problems::default();
        let trained: Vec<&String> = self
            .met
            .iter()
            .filter(is_trained)
            .map(|(label, _)| label)
            .collect();
        match trained[..] {
            [] if self.sets.is_some() => {
                problems.push("there is no training example with a label".into());
            }
            [] => problems.push("there is no training example".into()),
            [only] if known.is_empty() && self.sets.is_none() => problems.push(format!(
                "there is one label with training examples ({only:?}), at least 2 are needed"
            )),
            _ => {}
        }
        let places: HashMap<&str, u32> = known.iter().map(String::as_str).zip(0..).collect();
        for (label, _) in self.met.iter().filter(|label| !is_trained(label)) {
            if places.contains_key(label.as_str()) {
                continue;
            }
            problems.push(format!(
                "label {label:?} has validation examples, but no training example"
            ));
        }
        let mut by_number = vec![0; self.met.len()];
        let mut labels = known.to_vec();
        for (label, met) in &self.met {
            let class = places.get(label.as_str()).copied().unwrap_or_else(|| {
                labels.push(label.clone());
                u32::try_from(labels.len() - 1).unwrap_or(u32::MAX)
            });
            if let Some(place) = by_number.get_mut(met.number as usize) {
                *place = class;
            }
        }
        let classes = labels.len();
        let (truths, kind) = match self.sets {
            None => (Truths::single(classes), LabelKind::Single),
            Some(sets) => {
                let rows = in_rows(sets, &by_number);
                by_number = (0..).take(rows.len()).collect();
                (Truths::multi(classes, rows), LabelKind::Multi)
            }
        };
        let labels = match LabelSet::new(labels) {
            Ok(labels) => Some(labels.of_kind(kind)),
            Err(invalid) => {
                problems.push(invalid.to_string());
                None
            }
        };
        Classes {
            labels,
            by_number,
            truths,
            problems,
        }
    }
}

/// Rows of each set by its number, out of the numbers of its labels.
fn in_rows(sets: HashMap<Box<[u32]>, u32>, row_of: &[u32]) -> Vec<Box<[u32]>> {
    let mut rows: Vec<Box<[u32]>> = vec![Box::default(); sets.len()];
    for (numbers, number) in sets {
        let row = |own: &u32| row_of.get(*own as usize).copied();
        let mut own: Vec<u32> = numbers.iter().filter_map(row).collect();
        own.sort_unstable();
        if let Some(place) = rows.get_mut(number as usize) {
            *place = own.into();
        }
    }
    rows
}

fn is_trained((_, met): &(&String, &Met)) -> bool {
    met.trained > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(list: &[(&str, Split)]) -> Classes {
        let mut labels = Labels::default();
        for (label, split) in list {
            labels.meet(&(*label).into(), *split);
        }
        labels.finish(None)
    }

    #[test]
    fn labels_are_in_order_whenever_they_were_met() {
        let classes = classes(&[
            ("right", Split::Train),
            ("left", Split::Train),
            ("left", Split::Validation),
            ("ahead", Split::Train),
        ]);
        assert!(classes.problems.is_empty());
        let labels = classes.labels.expect("labels");
        assert_eq!(labels.as_slice(), ["ahead", "left", "right"]);
        assert_eq!(classes.by_number, [2, 1, 0]);
    }

    #[test]
    fn a_label_keeps_its_number() {
        let mut labels = Labels::default();
        let met = [
            ("b", Split::Train),
            ("a", Split::Train),
            ("b", Split::Validation),
        ];
        assert_eq!(
            met.map(|(label, split)| labels.meet(&label.into(), split)),
            [0, 1, 0]
        );
    }

    #[test]
    fn labels_of_an_earlier_version_keep_their_places_and_need_no_examples() {
        let known = LabelSet::new(["up", "gone", "down"].map(str::to_owned).to_vec()).unwrap();
        let mut labels = Labels::default();
        for (label, split) in [
            ("left", Split::Train),
            ("down", Split::Train),
            ("above", Split::Train),
            ("up", Split::Validation),
        ] {
            labels.meet(&label.into(), split);
        }
        let classes = labels.finish(Some(&known));
        assert!(classes.problems.is_empty(), "{}", classes.problems);
        let labels = classes.labels.expect("labels");
        assert_eq!(labels.as_slice(), ["up", "gone", "down", "above", "left"]);
        assert_eq!(classes.by_number, [4, 2, 3, 0]);
    }

    #[test]
    fn every_label_needs_a_training_example_and_two_are_needed() {
        let told = |list: &[(&str, Split)]| classes(list).problems.to_string();
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
    }

    #[test]
    fn sets_of_labels_have_numbers_and_one_label_is_enough() {
        let mut labels = Labels::of(LabelKind::Multi);
        let of = |own: &[&str]| ExampleLabels::of(own.iter().copied()).unwrap();
        let met = [&["run", "jump"][..], &[], &["jump", "run"], &["jump"]];
        let met = met.map(|own| labels.meet(&of(own), Split::Train));
        assert_eq!(met, [0, 1, 0, 2]);
        let classes = labels.finish(None);
        assert!(classes.problems.is_empty(), "{}", classes.problems);
        assert_eq!(classes.by_number, [0, 1, 2]);
        let rows = |class: u32| classes.truths.rows(&class).to_vec();
        assert_eq!([rows(0), rows(1), rows(2)], [vec![0, 1], vec![], vec![0]]);
        let set = classes.labels.expect("labels");
        assert_eq!(set.as_slice(), ["jump", "run"]);
        assert_eq!(set.kind(), LabelKind::Multi);
        let mut one = Labels::of(LabelKind::Multi);
        one.meet(&of(&["run"]), Split::Train);
        assert!(one.finish(None).problems.is_empty());
        let mut none = Labels::of(LabelKind::Multi);
        none.meet(&of(&[]), Split::Train);
        let told = none.finish(None).problems.to_string();
        assert_eq!(told, "1 problem: there is no training example with a label");
    }

    #[test]
    fn a_hundred_problems_are_spelled_out_and_the_rest_is_counted() {
        let mut problems = Problems::default();
        for i in 0..123 {
            problems.push(format!("p{i}"));
        }
        let mut first = Problems::default();
        first.append(problems);
        let mut last = Problems::default();
        last.push_unavailable("the last".into());
        first.append(last);
        assert!(!first.are_of_the_store());
        let told = first.to_string();
        assert!(told.starts_with("124 problems: p0; p1") && told.ends_with("; p99; and 24 more"));
    }
}
