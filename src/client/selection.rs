//! What a job measures beside training: its flags, and how its evaluations are shown.

use super::json;
use crate::proto::v1;

/// What is measured beside training; the server chooses what is absent.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// Epochs from one evaluation of the validation split to the next; 0 evaluates once, at the end
    #[arg(long)]
    pub eval_every: Option<u32>,
    /// What makes one evaluation better than another: a lower loss, a higher top-1 accuracy, or a higher mean average precision [default: top1, and map for a
    /// data set made with --multi-label]
    #[arg(long, value_enum)]
    pub best_by: Option<BestBy>,
    /// Which weights become the version: those of the best evaluation, or the last [default: best; last with adapters and fewer than 200 validation clips]
    #[arg(long, value_enum)]
    pub publish: Option<Publish>,
    /// Evaluations in a row without a better one after which training stops; 0 means never [default: 10; 0 where the last weights are the default]
    #[arg(long)]
    pub patience: Option<u32>,
    /// Share of each label's training clips that are held out when there is no validation split, 0 to 0.5
    #[arg(long, allow_negative_numbers = true)]
    pub validation_share: Option<f64>,
    /// Skips the evaluation of the test split that follows the publication of the version
    #[arg(long)]
    pub skip_test: bool,
    /// Skips the search for videos with almost the same pictures, which reads each video once more
    #[arg(long)]
    pub skip_near_duplicates: bool,
}

/// What makes one evaluation better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BestBy {
    /// A lower loss
    Loss,
    /// A higher top-1 accuracy; at equal accuracy a lower loss
    Top1,
    /// A higher mean average precision, of data sets whose labels do not exclude one another
    Map,
}

/// Which weights become the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Publish {
    /// The weights of the best evaluation
    Best,
    /// The weights after the last step
    Last,
}

impl Selection {
    /// Hyper-parameters with nothing but these.
    pub(super) fn fields(&self) -> v1::HyperParameters {
        let best_by = self.best_by.map(|by| match by {
            BestBy::Loss => v1::BestBy::Loss,
            BestBy::Top1 => v1::BestBy::Top1,
            BestBy::Map => v1::BestBy::Map,
        });
        let publish = self.publish.map(|publish| match publish {
            Publish::Best => v1::Publish::Best,
            Publish::Last => v1::Publish::Last,
        });
        v1::HyperParameters {
            eval_every: self.eval_every,
            best_by: best_by.map(Into::into),
            publish: publish.map(Into::into),
            patience: self.patience,
            validation_share: self.validation_share,
            evaluate_test: self.skip_test.then_some(false),
            near_duplicates: self.skip_near_duplicates.then_some(false),
            ..Default::default()
        }
    }
}

/// An evaluation in a line.
pub(super) fn line(evaluation: &v1::job_event::EvaluationMetrics) -> String {
    let split = match evaluation.split() {
        v1::Split::Test => "test",
        v1::Split::Train => "training",
        v1::Split::Validation | v1::Split::Unspecified => "validation",
    };
    let map = map(evaluation.mean_average_precision);
    let mut text = format!(
        "epoch {} {split}: loss {:.3}, {map}top-1 {:.3} ({:.2} to {:.2}) of {} clips",
        evaluation.epoch,
        evaluation.loss,
        evaluation.top1,
        evaluation.top1_low,
        evaluation.top1_high,
        evaluation.examples
    );
    if let (Some(loss), Some(accuracy)) = (evaluation.training_loss, evaluation.training_accuracy) {
        text += &format!("; training: loss {loss:.3}, {accuracy:.3} right");
    }
    if evaluation.best {
        text += ", best so far";
    }
    text
}

/// The mean average precision of labels that do not exclude one another, before other metrics.
fn map(precision: Option<f64>) -> String {
    precision.map_or_else(String::new, |own| format!("mAP {own:.3}, "))
}

/// A set that a job compared with others, in a line.
pub(super) fn compared(own: &v1::job_event::ComparedHead) -> String {
    let below = match own.has_adapters {
        true => "adapters",
        false => "no adapters",
    };
    let mark = match own.published {
        true => "  published",
        false => "",
    };
    format!(
        "head {:<9} {below:<11} {:>10} parameters: loss {:.3}, {}top-1 {:.3}{mark}",
        json::head_name(own.head()),
        own.parameters,
        own.loss,
        map(own.mean_average_precision),
        own.top1
    )
}

/// The evaluations of a job that succeeded, one a line, the published one marked; empty when there was none while it trained.
pub(super) fn curve(result: &v1::JobResult) -> String {
    let point = |point: &v1::EvaluationPoint| {
        let mark = match point.step == result.step {
            true => "  published",
            false => "",
        };
        format!(
            "\n  epoch {:<5} step {:<7} loss {:.3}  {}top-1 {:.3}{mark}",
            point.epoch,
            point.step,
            point.loss,
            map(point.mean_average_precision),
            point.top1
        )
    };
    result.validation_curve.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_says_what_training_says_beside_it() {
        let evaluation = v1::job_event::EvaluationMetrics {
            split: v1::Split::Validation.into(),
            epoch: 3,
            examples: 12,
            loss: 0.5,
            top1: 0.75,
            top1_low: 0.47,
            top1_high: 0.91,
            best: true,
            training_loss: Some(0.25),
            training_accuracy: Some(0.9),
            ..Default::default()
        };
        assert_eq!(
            line(&evaluation),
            "epoch 3 validation: loss 0.500, top-1 0.750 (0.47 to 0.91) of 12 clips; training: loss 0.250, 0.900 right, best so far"
        );
    }

    #[test]
    fn the_published_evaluation_is_marked() {
        let point = |step| v1::EvaluationPoint {
            step,
            epoch: step as u32 / 10,
            loss: 0.5,
            top1: 0.75,
            mean_average_precision: None,
        };
        let result = v1::JobResult {
            validation_curve: vec![point(10), point(20)],
            step: 10,
            ..Default::default()
        };
        let text = curve(&result);
        let marked: Vec<bool> = text
            .trim()
            .lines()
            .map(|line| line.ends_with("published"))
            .collect();
        assert_eq!(marked, [true, false]);
        assert_eq!(curve(&v1::JobResult::default()), "");
    }
}
