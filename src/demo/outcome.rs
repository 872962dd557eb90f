//! The figures of a run, and whether they are what the demo promises.
//!
//! Invariant: nothing here asks a server or a clock; figures in, verdict out.

use super::classify::Served;
use super::clips::{TRAINING, UNSEEN};
use super::train::{Run, Trained};
use super::{Error, Party};
use crate::proto::v1;
use crate::report::Table;
use crate::synth::motion::Motion;

/// A probe that tells a reversed pair apart better than this is not blind to time: then the clips give the answer away.
const PROBE_LIMIT: f64 = 0.60;
/// How far the share of right answers may be from the job's own evaluation, on the same clips and version.
const SERVED_TOLERANCE: f64 = 0.01;

/// What "reversed pairs" means, in words.
pub(super) const PAIR_DEFINITION: &str = "Reversed pairs: of the unseen clips with one of the two labels and predicted as one of the two, the share \
    predicted right. Each clip's time reversal is among them under the other label, so a model that is blind to the order of frames gets 0.50.";

/// How one way of training did.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) accuracy: f64,
    /// Row = true label, column = predicted.
    pub(super) confusion: Vec<i64>,
    pub(super) labels: Vec<String>,
    /// Names of a reversed pair, and the share of it that is told apart.
    pub(super) pairs: Vec<(String, f64)>,
    pub(super) parameters: i64,
    /// Of the backbone's.
    pub(super) share: f64,
    pub(super) seconds: f64,
    /// Of the stored adapter version.
    pub(super) bytes: i64,
    pub(super) loss_curve: Vec<f64>,
}

/// How a tenant's task went.
pub(super) struct TaskOutcome {
    pub(super) tenant: &'static str,
    pub(super) motion: Motion,
    pub(super) promise: f64,
    pub(super) adapters: Way,
    pub(super) probe: Way,
    /// Share of right answers of `Classify` over all unseen clips.
    pub(super) served_accuracy: f64,
    /// Version that training published, and those that answered.
    pub(super) version: String,
    pub(super) versions_seen: Vec<String>,
    pub(super) upload_bytes: usize,
}

/// How the whole run went.
pub(super) struct Summary {
    pub(super) info: v1::ServerInfo,
    pub(super) tasks: Vec<TaskOutcome>,
    pub(super) served: Served,
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
        })
    }

    /// One row for each task and way of training.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&[
            "task",
            "method",
            "unseen accuracy",
            "reversed pairs",
            "updated parameters",
            "of the backbone",
            "seconds",
            "version bytes",
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

    /// What the table does not say.
    pub(super) fn notes(&self) -> String {
        let mut notes = format!(
            "Unseen: {UNSEEN} clips a task from other random streams, slower and faster, smaller and larger, on coarser and finer textures than \
             the {TRAINING} that were learnt from.\n{PAIR_DEFINITION}\n"
        );
        for (task, rate) in self.tasks.iter().zip(&self.served.alone) {
            notes += &format!(
                "{}: {:.3} of all unseen clips right over Classify; alone {:.1} clips/s; uploads {}\n",
                task.tenant,
                task.served_accuracy,
                rate.per_second(),
                bytes(task.upload_bytes as u64),
            );
        }
        notes
            + &format!(
                "both tasks interleaved on the one backbone: {:.1} clips/s",
                self.served.mixed.per_second()
            )
    }

    /// What is not as it should be, in words; empty when all is well.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        self.tasks
            .iter()
            .flat_map(TaskOutcome::broken_promises)
            .collect()
    }
}

impl TaskOutcome {
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
    })
}

/// Of the examples of two labels that were predicted as one of the two, the share that was predicted right; half when there is none. `None`
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
