//! The ratios that serving is held to: their names, their goals, and what pairs of measurements say of them.
//!
//! Invariant: a ratio is the median of the ratios of pairs that were measured one after the other; without a pair no goal is met.

use serde::{Deserialize, Deserializer, Serialize};

/// What is measured against a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Gate {
    /// Throughput when each request is for another of 64 tasks, over that of one task.
    #[value(name = "tasks_64")]
    Tasks64,
    /// Throughput when each request is for another of 1,000 tasks, over that of one task.
    #[value(name = "tasks_1000")]
    Tasks1000,
    /// Throughput of two tenants at once, over that of one with the same callers.
    #[value(name = "two_tenants")]
    TwoTenants,
    /// Throughput over gRPC, decoding on the other CPU, over that of a loop that only runs the model.
    #[value(name = "over_grpc")]
    OverGrpc,
    /// p95 at half load with a working set of twice the memory for adapters, over that with all sets resident.
    #[value(name = "working_set")]
    WorkingSet,
    /// p99 at half load while versions of another task are published and swapped in all the time, over that of a quiet server.
    #[value(name = "swaps")]
    Swaps,
    /// p99 of a quiet tenant while another floods at ten times its rate, over that alone.
    #[value(name = "flood")]
    Flood,
    /// p99 of a quiet tenant while another floods at ten times its rate with videos whose decoding decides, over that alone.
    #[value(name = "flood_decoding")]
    FloodDecoding,
    /// Answers a second at three times the load that the server can take, over the most that it can.
    #[value(name = "overload_goodput")]
    OverloadGoodput,
    /// p99 of the time until a request is refused, at three times the load that the server can take.
    #[value(name = "overload_refusals")]
    OverloadRefusals,
    /// p99 at half load beside a fine-tuning job, over that without.
    #[value(name = "beside_training")]
    BesideTraining,
    /// Training speed beside half load, over half of that alone: what the idle share allows.
    #[value(name = "training_kept")]
    TrainingKept,
    /// Share of the windows of 16 live streams that are answered within one and a half strides, at 80 % of the load that the server can take.
    #[value(name = "live")]
    Live,
    /// Memory of the process over that with the backbone alone, 1,000 tasks registered and 200 resident, over the bytes of the resident sets.
    #[value(name = "resident_memory")]
    ResidentMemory,
    /// Peak of the memory of a server and its workers under a flood of the largest requests, over the sum of the budgets that it printed.
    #[value(name = "flood_memory")]
    FloodMemory,
    /// Time from the request for another version of a set of 14 MB, whose file is in host memory, until that version serves.
    #[value(name = "swap_14_mb")]
    Swap14Mb,
    /// Throughput of windows of 8 frames, one frame apart, in one stream over a video of 5 minutes, over that of requests for one window each: decoding
    /// decides.
    #[value(name = "windows_decoding")]
    WindowsDecoding,
    /// Throughput of such a stream with adapters in the last half of the blocks, over that of requests for short clips: the model decides.
    #[value(name = "windows_computing")]
    WindowsComputing,
    /// Difference of the medians of calls that name another tenant's things and of calls that name nobody's, over 5 % or 20 µs; of the methods that take
    /// names, the largest.
    #[value(name = "foreign_names")]
    ForeignNames,
    /// p99 of a caller with a good key at half load while 1,000 bad credentials a second come from its address, over that of a quiet server.
    #[value(name = "credential_flood")]
    CredentialFlood,
    /// Throughput of tasks, eight on one clip in one request, over that of eight requests: adapters in the last half of the blocks.
    #[value(name = "many_tasks_half")]
    ManyTasksHalf,
    /// Throughput of tasks, eight on one clip in one request, over that of eight requests: adapters in all blocks.
    #[value(name = "many_tasks_all")]
    ManyTasksAll,
    /// Throughput of a full-size ViT-B/16 with adapters of width 384 in every block, over that with a head alone.
    #[value(name = "set_over_bare")]
    SetOverBare,
}

/// Which side of a goal is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    AtLeast,
    AtMost,
}

/// What the number of a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Ratio,
    Ms,
}

/// A goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Goal {
    pub(super) bound: Bound,
    pub(super) value: f64,
    pub(super) unit: Unit,
}

impl Gate {
    /// Whether the gate leaves tasks of the tenant that all gates share.
    pub(super) fn leaves_tasks(self) -> bool {
        matches!(
            self,
            Self::ResidentMemory | Self::Tasks64 | Self::Tasks1000 | Self::WorkingSet
        )
    }

    /// The gate's goal.
    pub(super) fn goal(self) -> Goal {
        let ratio = |bound, value| Goal {
            bound,
            value,
            unit: Unit::Ratio,
        };
        let at_most_ms = |value| Goal {
            bound: Bound::AtMost,
            value,
            unit: Unit::Ms,
        };
        match self {
            Self::Tasks64 | Self::TwoTenants | Self::OverGrpc => ratio(Bound::AtLeast, 0.98),
            Self::Tasks1000 | Self::OverloadGoodput => ratio(Bound::AtLeast, 0.95),
            Self::TrainingKept => ratio(Bound::AtLeast, 0.85),
            Self::Live => ratio(Bound::AtLeast, 0.99),
            Self::WorkingSet => ratio(Bound::AtMost, 1.3),
            Self::Swaps | Self::ResidentMemory | Self::CredentialFlood => ratio(Bound::AtMost, 1.1),
            Self::FloodMemory | Self::ForeignNames => ratio(Bound::AtMost, 1.0),
            Self::Flood | Self::FloodDecoding | Self::BesideTraining => ratio(Bound::AtMost, 1.5),
            Self::OverloadRefusals => at_most_ms(5.0),
            Self::Swap14Mb => at_most_ms(20.0),
            Self::WindowsDecoding => ratio(Bound::AtLeast, 5.0),
            Self::WindowsComputing => ratio(Bound::AtLeast, 1.3),
            Self::ManyTasksHalf => ratio(Bound::AtLeast, 1.6),
            Self::ManyTasksAll => ratio(Bound::AtLeast, 1.2),
            Self::SetOverBare => ratio(Bound::AtLeast, 0.9),
        }
    }
}

impl Serialize for Gate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        clap::ValueEnum::from_str(&name, false).map_err(serde::de::Error::custom)
    }
}

impl Gate {
    /// The gate's name on the command line and in the figures.
    pub(super) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Two figures that were measured one after the other: `a` under the condition that the gate names, `b` without it (1 for a time).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Pair {
    pub(super) a: f64,
    pub(super) b: f64,
    /// Requests that failed in both, refusals for want of room aside where the gate is about those.
    pub(super) errors: u64,
}

/// Why pairs have no ratio.
const TOO_SHORT: &str = "half of a pair saw no answer; give more --seconds";

/// A gate's figures beside its goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) name: Gate,
    /// The median of the pairs' ratios; absent when nothing was measured.
    pub(super) ratio: Option<f64>,
    pub(super) unit: Unit,
    pub(super) bound: Bound,
    pub(super) goal: f64,
    pub(super) met: bool,
    pub(super) pairs: Vec<Pair>,
    /// Why there is no ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

impl Line {
    /// The line of a gate whose pairs were measured, or why they were not.
    pub(super) fn new(gate: Gate, measured: Result<Vec<Pair>, String>) -> Self {
        let goal = gate.goal();
        let (pairs, problem) = match measured {
            Ok(pairs) => (pairs, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let ratios: Vec<f64> = pairs.iter().map(|pair| pair.a / pair.b).collect();
        let ratio = median(&ratios);
        let is_short = ratio.is_none() && !pairs.is_empty();
        let problem = problem.or_else(|| is_short.then(|| TOO_SHORT.to_owned()));
        let met = ratio.is_some_and(|ratio| match goal.bound {
            Bound::AtLeast => ratio >= goal.value,
            Bound::AtMost => ratio <= goal.value,
        });
        Self {
            name: gate,
            ratio: ratio.map(|ratio| (ratio * 1e4).round() / 1e4),
            unit: goal.unit,
            bound: goal.bound,
            goal: goal.value,
            met,
            pairs,
            problem,
        }
    }

    /// The ratio, or why there is none.
    pub(super) fn found(&self) -> String {
        match (&self.ratio, &self.problem) {
            (Some(ratio), _) => self.number(*ratio),
            (None, Some(problem)) => problem.clone(),
            (None, None) => "nothing measured".to_owned(),
        }
    }

    /// The number with its unit.
    pub(super) fn number(&self, value: f64) -> String {
        match self.unit {
            Unit::Ratio => format!("{value:.3}"),
            Unit::Ms => format!("{value:.1} ms"),
        }
    }
}

/// The median of finite values: the mean of the two in the middle when there are as many on both sides. None when there is no value, or one is not
/// finite.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted[middle];
    Some(match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], upper),
        _ => upper,
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_many_values_are_below_the_median_as_above(
            values in prop::collection::vec(-1e6_f64..1e6, 1..40),
        ) {
            let found = median(&values).unwrap();
            let below = values.iter().filter(|&&value| value < found).count();
            let above = values.iter().filter(|&&value| value > found).count();
            prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
        }

        #[test]
        fn a_goal_is_met_on_its_good_side_alone(ratio in 0.0_f64..4.0) {
            for &gate in Gate::value_variants() {
                let pair = Pair { a: ratio * 100.0, b: 100.0, errors: 0 };
                let line = Line::new(gate, Ok(vec![pair]));
                let Goal { bound, value, .. } = gate.goal();
                let distance = match bound {
                    Bound::AtLeast => ratio - value,
                    Bound::AtMost => value - ratio,
                };
                // At the goal itself the division's rounding decides.
                prop_assert!(distance.abs() < 1e-9 || line.met == (distance > 0.0), "{line:?}");
            }
        }
    }

    #[test]
    fn one_bad_pair_of_three_does_not_decide_and_no_pair_meets_no_goal() {
        let pair = |a| Pair {
            a,
            b: 100.0,
            errors: 0,
        };
        let line = Line::new(Gate::Tasks64, Ok(vec![pair(99.0), pair(12.0), pair(99.5)]));
        assert_eq!((line.ratio, line.met), (Some(0.99), true));
        let without_answers = Pair {
            b: 0.0,
            ..pair(1.0)
        };
        for (measured, problem) in [
            (Ok(Vec::new()), None),
            (Err("no server".to_owned()), Some("no server")),
            (Ok(vec![without_answers]), Some(TOO_SHORT)),
        ] {
            let line = Line::new(Gate::Flood, measured);
            assert_eq!((line.ratio, line.met), (None, false));
            assert_eq!(line.problem.as_deref(), problem);
        }
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn every_gate_has_a_name_of_its_own_that_selects_it() {
        let mut names: Vec<String> = Gate::value_variants()
            .iter()
            .map(|gate| gate.name())
            .collect();
        for (gate, name) in Gate::value_variants().iter().zip(&names) {
            assert_eq!(Gate::from_str(name, false).as_ref(), Ok(gate));
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
