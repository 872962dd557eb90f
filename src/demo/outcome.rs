//! The figures of a run, and whether they are what the demo promises.
//!
//! Invariant: nothing here asks a server or a clock; figures in, verdict out.

use super::classify::{AT_ONCE, Rate, Served};
use super::clips::{TRAINING, UNSEEN};
use super::machine::Machine;
use super::swap::Swap;
use super::train::{Run, Trained};
use super::{Error, Party};
use crate::proto::v1;
use crate::report::Table;
use crate::synth::motion::Motion;

/// A probe that tells a reversed pair apart better than this is not blind to time: then the clips give the answer away.
const PROBE_LIMIT: f64 = 0.60;
/// Largest distance of the share of right answers from the job's own evaluation, on the same clips and version.
const SERVED_TOLERANCE: f64 = 0.01;

/// Definition of the reversed pairs.
pub(super) const PAIR_DEFINITION: &str = "Reversed pairs: of the unseen clips with one of the two labels and predicted as one of the two, the share \
    predicted right. Each clip's time reversal is among them under the other label, so a model that is blind to the order of frames gets 0.50.";

/// Outcome of one way of training.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) accuracy: f64,
    /// Row = true label, column = predicted.
    pub(super) confusion: Vec<i64>,
    pub(super) labels: Vec<String>,
    /// Names of a reversed pair, and the share of its clips that are classified right.
    pub(super) pairs: Vec<(String, f64)>,
    pub(super) parameters: i64,
    /// Updated parameters over the backbone's.
    pub(super) share: f64,
    pub(super) seconds: f64,
    /// Size of the stored adapter version.
    pub(super) bytes: i64,
    /// Mean training loss of each epoch.
    pub(super) loss_curve: Vec<f64>,
    /// Loss on the unseen clips after the last epoch.
    pub(super) unseen_loss: f64,
    /// Epoch and loss on the unseen clips, of each evaluation while the job trained.
    pub(super) unseen_curve: Vec<(f64, f64)>,
}

impl Way {
    /// Share of the clips of reversed pairs that are classified right: the mean over the task's pairs of labels.
    pub(super) fn reversed(&self) -> f64 {
        let shares = self.pairs.iter().map(|(_, share)| share);
        shares.sum::<f64>() / self.pairs.len().max(1) as f64
    }
}

/// Outcome of a tenant's task.
pub(super) struct TaskOutcome {
    pub(super) tenant: &'static str,
    pub(super) motion: Motion,
    pub(super) promise: f64,
    pub(super) adapters: Way,
    pub(super) probe: Way,
    /// Share of right answers of `Classify` over all unseen clips.
    pub(super) served_accuracy: f64,
    /// The version that training published.
    pub(super) version: String,
    /// The versions that answered before the swap.
    pub(super) versions_seen: Vec<String>,
    pub(super) upload_bytes: usize,
}

/// Outcome of the whole run.
pub(super) struct Summary {
    pub(super) info: v1::ServerInfo,
    pub(super) tasks: Vec<TaskOutcome>,
    pub(super) served: Served,
    pub(super) swap: Swap,
    pub(super) machine: Machine,
    pub(super) seed: u64,
}

impl Summary {
    /// Gathers what was measured.
    pub(super) fn new(
        parties: &[Party],
        info: v1::ServerInfo,
        trained: Vec<Trained>,
        served: Served,
    ) -> Result<Self, Error> {
        let backbone = info.backbone.as_ref().map_or(0, |b| b.parameters).max(1) as f64;
        let tasks = parties
            .iter()
            .zip(trained)
            .zip(&served.answers)
            .map(|((party, trained), answers)| {
                let motion = party.role.motion;
                let unseen = party.material.unseen();
                let right = answers
                    .iter()
                    .zip(unseen)
                    .filter(|(answer, video)| answer.label == motion.labels()[video.clip.label]);
                let served_accuracy = right.count() as f64 / answers.len().max(1) as f64;
                let mut versions_seen: Vec<String> = answers
                    .iter()
                    .map(|answer| answer.version.clone())
                    .collect();
                versions_seen.sort();
                versions_seen.dedup();
                Ok(TaskOutcome {
                    tenant: party.role.tenant,
                    motion,
                    promise: party.role.promise,
                    version: trained.adapters.result.version.clone(),
                    adapters: way("ST-Adapter", motion, trained.adapters, backbone)?,
                    probe: way("linear probe", motion, trained.probe, backbone)?,
                    served_accuracy,
                    versions_seen,
                    upload_bytes: party.material.bytes(),
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            info,
            tasks,
            served,
            swap: Swap::default(),
            machine: Machine::default(),
            seed: 0,
        })
    }

    /// Accuracy and cost: a row for each task and way of training.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&[
            "task",
            "method",
            "unseen accuracy",
            "reversed pairs",
            "updated parameters",
            "of the backbone",
            "training seconds",
            "size of the version",
        ]);
        for task in &self.tasks {
            for way in [&task.adapters, &task.probe] {
                let pairs = way
                    .pairs
                    .iter()
                    .map(|(name, share)| format!("{name} {share:.2}"));
                table.row(vec![
                    format!("{}: {}", task.tenant, task.motion.labels().join("/")),
                    way.name.to_owned(),
                    format!("{:.3}", way.accuracy),
                    pairs.collect::<Vec<_>>().join(", "),
                    thousands(way.parameters),
                    format!("{:.2} %", 100.0 * way.share),
                    format!("{:.0}", way.seconds),
                    bytes(way.bytes.unsigned_abs()),
                ]);
            }
        }
        table
    }

    /// Text below the table.
    pub(super) fn notes(&self) -> String {
        let mut notes = format!(
            "Unseen: {UNSEEN} clips a task from other random streams, slower and faster, smaller and larger, on coarser and finer textures than \
             the {TRAINING} training clips.\n{PAIR_DEFINITION}\n"
        );
        for task in &self.tasks {
            notes += &format!(
                "{}: {:.3} of all unseen clips right over Classify, chance {:.2}; uploads {}\n",
                task.tenant,
                task.served_accuracy,
                task.chance(),
                bytes(task.upload_bytes as u64),
            );
        }
        notes += &format!("\n{}\n", self.rates().to_text());
        notes += &format!("{}\nhot swap: {}\n", self.sharing(), self.swap.sentence());
        let facts = self.machine.facts().into_iter();
        let facts = facts.chain([("seed".to_owned(), self.seed.to_string())]);
        notes
            + &facts
                .map(|(name, value)| format!("{name}: {value}"))
                .collect::<Vec<_>>()
                .join(" · ")
    }

    /// Throughput of each phase of serving, and passes of the backbone.
    pub(super) fn rates(&self) -> Table {
        let mut table = Table::new(&[
            "requests",
            "in flight",
            "clips",
            "clips a second",
            "backbone passes",
            "clips in a batch",
            "tasks in a batch",
            "passes a clip",
            "machine's load",
        ]);
        let row = |name: String, in_flight: usize, rate: &Rate| {
            vec![
                name,
                in_flight.to_string(),
                rate.clips.to_string(),
                format!("{:.1}", rate.per_second()),
                format!("{:.0}", rate.passes.batches),
                format!("{:.1}", rate.passes.clips_a_batch()),
                format!("{:.1}", rate.passes.sets_a_batch()),
                format!("{:.2}", rate.passes.a_clip()),
                rate.load
                    .map_or_else(|| "–".to_owned(), |load| format!("{load:.1}")),
            ]
        };
        for (task, rate) in self.tasks.iter().zip(&self.served.alone) {
            table.row(row(format!("{} alone", task.tenant), AT_ONCE, rate));
        }
        let at_once = AT_ONCE * self.tasks.len();
        table.row(row("both together".to_owned(), at_once, &self.served.mixed));
        table
    }

    /// Passes that sharing saved, beside those of two servers.
    pub(super) fn sharing(&self) -> String {
        let (shared, separate) = (self.served.mixed.passes, self.served.separate());
        format!(
            "One server for both tasks ran the backbone {:.0} times for {:.0} clips ({:.2} passes a clip); two servers with a backbone each would run it {:.0} \
             times for as many ({:.2} passes a clip), as the phases of each task alone show, with half of the requests in flight each. The load is the \
             system's average of the last minute on {} cores, this demo's own work included.",
            shared.batches,
            shared.clips,
            shared.a_clip(),
            separate.batches,
            separate.a_clip(),
            self.machine.cores,
        )
    }

    /// Promises that were not kept; empty when all is well.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let tasks = self.tasks.iter().flat_map(TaskOutcome::broken_promises);
        let swap = &self.swap;
        let is_smooth = swap.failed == 0 && swap.wrong == 0 && swap.by_old > 0 && swap.by_new > 0;
        tasks
            .chain(
                (!is_smooth).then(|| format!("the hot swap was not smooth: {}", swap.sentence())),
            )
            .collect()
    }
}

impl TaskOutcome {
    /// Accuracy of a guess.
    pub(super) fn chance(&self) -> f64 {
        1.0 / self.motion.labels().len().max(1) as f64
    }

    fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let tenant = self.tenant;
        if self.adapters.accuracy < self.promise {
            broken.push(format!(
                "{tenant}: ST-Adapter is right on {:.3} of the unseen clips, below {:.2}",
                self.adapters.accuracy, self.promise
            ));
        }
        for (name, share) in &self.probe.pairs {
            if *share > PROBE_LIMIT {
                broken.push(format!(
                    "{tenant}: the probe tells {name} apart on {share:.2}, above {PROBE_LIMIT:.2}"
                ));
            }
        }
        if (self.served_accuracy - self.adapters.accuracy).abs() > SERVED_TOLERANCE {
            broken.push(format!(
                "{tenant}: Classify is right on {:.3}, but the job's evaluation said {:.3}",
                self.served_accuracy, self.adapters.accuracy
            ));
        }
        if self.versions_seen != [self.version.clone()] {
            broken.push(format!(
                "{tenant}: {} answered instead of {}",
                self.versions_seen.join(", "),
                self.version
            ));
        }
        broken
    }
}

fn way(name: &'static str, motion: Motion, run: Run, backbone: f64) -> Result<Way, Error> {
    let evaluation = run.result.evaluation.ok_or(Error::Incomplete {
        what: "the job's evaluation",
    })?;
    if evaluation.examples != UNSEEN as i64 {
        return Err(Error::Incomplete {
            what: "unseen clips in the job's evaluation",
        });
    }
    let labels = run.version.labels;
    let pairs = motion
        .reversed_pairs()
        .map(|pair| {
            let names = [pair.0, pair.1].map(|label| motion.labels()[label]);
            let rows = names.map(|name| labels.iter().position(|label| label == name));
            let [Some(one), Some(other)] = rows else {
                return Err(Error::Incomplete {
                    what: "a label of the version",
                });
            };
            let share = told_apart(&evaluation.confusion, labels.len(), [one, other]);
            let share = share.ok_or(Error::Incomplete {
                what: "the confusion matrix",
            })?;
            Ok((names.join("/"), share))
        })
        .collect::<Result<_, Error>>()?;
    Ok(Way {
        name,
        accuracy: evaluation.top1,
        confusion: evaluation.confusion,
        labels,
        pairs,
        parameters: run.result.parameters,
        share: run.result.parameters as f64 / backbone,
        seconds: run.seconds,
        bytes: run.version.size_bytes,
        loss_curve: run.result.loss_curve,
        unseen_loss: evaluation.loss,
        unseen_curve: (run.result.validation_curve.iter())
            .map(|point| (f64::from(point.epoch), point.loss))
            .collect(),
    })
}

/// Share of right predictions among the examples of two labels that were predicted as one of the two; half when there is none. `None`
/// when the matrix is not square.
fn told_apart(confusion: &[i64], labels: usize, pair: [usize; 2]) -> Option<f64> {
    if confusion.len() != labels * labels {
        return None;
    }
    let count = |truth: usize, predicted: usize| confusion[truth * labels + predicted];
    let right: i64 = pair.iter().map(|&label| count(label, label)).sum();
    let wrong = count(pair[0], pair[1]) + count(pair[1], pair[0]);
    match right + wrong {
        0 => Some(0.5),
        all => Some(right as f64 / all as f64),
    }
}

/// A count with separators: `2 705 856`.
pub(super) fn thousands(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    if count < 0 { format!("-{text}") } else { text }
}

/// A size with a unit.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000.. => format!("{:.1} MB", count as f64 / 1e6),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_pair_counts_only_predictions_within_it() {
        // Of 10 clips of each of the first two labels, 4 are lost to the third.
        let confusion = [6, 2, 2, 3, 5, 2, 0, 0, 10];
        assert_eq!(told_apart(&confusion, 3, [0, 1]), Some(11.0 / 16.0));
        assert_eq!(told_apart(&[0; 9], 3, [0, 1]), Some(0.5));
        assert_eq!(told_apart(&[0; 8], 3, [0, 1]), None);
    }

    #[test]
    fn a_model_that_is_blind_to_order_is_at_half() {
        // Both of a pair get the same answer: one is right and one is wrong.
        let confusion = [30, 50, 30, 50];
        assert_eq!(told_apart(&confusion, 2, [0, 1]), Some(0.5));
    }

    fn way(accuracy: f64, pair: f64) -> Way {
        Way {
            name: "way",
            accuracy,
            confusion: vec![1, 0, 0, 1],
            labels: vec!["growing".to_owned(), "shrinking".to_owned()],
            pairs: vec![("growing/shrinking".to_owned(), pair)],
            parameters: 1000,
            share: 0.05,
            seconds: 1.0,
            bytes: 4000,
            loss_curve: vec![1.0],
            unseen_loss: 0.5,
            unseen_curve: vec![(1.0, 0.5)],
        }
    }

    pub(in crate::demo) fn task(
        accuracy: f64,
        probe_pair: f64,
        served_accuracy: f64,
    ) -> TaskOutcome {
        TaskOutcome {
            tenant: "t",
            motion: Motion::Growth,
            promise: 0.85,
            adapters: way(accuracy, accuracy),
            probe: way(0.5, probe_pair),
            served_accuracy,
            version: "tasks/motion/versions/1".to_owned(),
            versions_seen: vec!["tasks/motion/versions/1".to_owned()],
            upload_bytes: 0,
        }
    }

    #[test]
    fn promises_are_checked_one_by_one() {
        assert!(task(0.85, 0.60, 0.85).broken_promises().is_empty());
        assert_eq!(task(0.84, 0.60, 0.84).broken_promises().len(), 1);
        assert_eq!(task(0.90, 0.61, 0.90).broken_promises().len(), 1);
        assert_eq!(task(0.90, 0.50, 0.88).broken_promises().len(), 1);
        let mut other = task(0.90, 0.50, 0.90);
        other
            .versions_seen
            .push("tasks/motion/versions/2".to_owned());
        assert_eq!(other.broken_promises().len(), 1);
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        assert_eq!(thousands(2_705_856), "2 705 856");
        assert_eq!(thousands(-12), "-12");
        assert_eq!(
            [bytes(12), bytes(4_200), bytes(5_430_000)],
            ["12 B", "4.2 kB", "5.4 MB"]
        );
    }
}
