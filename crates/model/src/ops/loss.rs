//! Mean cross entropy of logits, in double precision, with its gradient: of labels that exclude one another, and of labels that do not.

mod binary;

use candle_core::{Result, Tensor};

use super::buffers::{read, tensor};

pub use binary::Marks;
pub(crate) use binary::binary;

/// Loss of a batch of logits.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Cross entropy of each row, in nats.
    pub(crate) rows: Vec<f64>,
    /// Number of rows whose largest logit (the first of equal ones) is that of a label of theirs.
    pub(crate) correct: usize,
    /// Gradient of the mean over the whole batch, `[B, classes]`.
    pub(crate) gradient: Tensor,
}

/// Returns the mean over the rows, summed in their order.
pub(crate) fn mean(rows: &[f64]) -> f64 {
    rows.iter().sum::<f64>() / rows.len() as f64
}

/// What a row is to be besides its label, and how much it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// A second label, which is below the number of classes.
    pub other: u32,
    /// Share of the second label, 0 to 1.
    pub share: f64,
    /// Factor of the row's loss.
    pub weight: f64,
}

impl Goal {
    /// The goal of a row that is its label alone and counts once.
    pub fn plain(label: u32) -> Self {
        Self {
            other: label,
            share: 0.0,
            weight: 1.0,
        }
    }
}

/// Computes the loss of logits `[B, classes]`, which are rows of a batch of `batch` rows; labels are below `classes`. A row's target is its label, but for
/// the share `smoothing`, which is spread evenly over all classes.
pub(crate) fn cross_entropy(
    logits: &Tensor,
    labels: &[u32],
    batch: usize,
    smoothing: f64,
) -> Result<Loss> {
    towards(logits, (labels, &[]), batch, smoothing)
}

/// Computes the loss of logits as [`cross_entropy`] does, of rows with a goal each; without goals, of labels alone.
pub(crate) fn towards(
    logits: &Tensor,
    (labels, goals): (&[u32], &[Goal]),
    batch: usize,
    smoothing: f64,
) -> Result<Loss> {
    let (rows, classes) = logits.dims2()?;
    let is_known = |label: u32| (label as usize) < classes;
    let fits = labels.len() == rows
        && labels.iter().all(|label| is_known(*label))
        && (goals.is_empty() || goals.len() == rows)
        && goals.iter().all(|goal| is_known(goal.other));
    if !fits {
        candle_core::bail!("labels do not fit logits {:?}", logits.shape());
    }
    let (mut losses, mut correct) = (Vec::with_capacity(rows), 0);
    let mut gradient = Vec::with_capacity(rows * classes);
    read(logits, |logits| {
        for (place, (row, &label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
            let (mut best, mut top) = (0, f32::NEG_INFINITY);
            for (i, &x) in row.iter().enumerate() {
                if x > top {
                    (best, top) = (i, x);
                }
            }
            let exps = row.iter().map(|&x| (f64::from(x) - f64::from(top)).exp());
            let total: f64 = exps.clone().sum();
            let log_total = total.ln() + f64::from(top);
            let of = |label: u32| log_total - f64::from(row[label as usize]);
            let goal = goals.get(place).copied();
            let of_label = match goal {
                None => of(label),
                Some(goal) => (1.0 - goal.share) * of(label) + goal.share * of(goal.other),
            };
            let weight = goal.map_or(1.0, |goal| goal.weight);
            let loss = match smoothing > 0.0 {
                false => of_label,
                true => {
                    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / classes as f64;
                    (1.0 - smoothing) * of_label + smoothing * (log_total - mean)
                }
            };
            losses.push(weight * loss);
            correct += usize::from(best == label as usize);
            gradient.extend(exps.enumerate().map(|(i, e)| {
                let is = |label: u32| f64::from(u8::from(i == label as usize));
                let own = match goal {
                    None => is(label),
                    Some(goal) => (1.0 - goal.share) * is(label) + goal.share * is(goal.other),
                };
                let target = (1.0 - smoothing) * own + smoothing / classes as f64;
                (weight * (e / total - target) / batch as f64) as f32
            }));
        }
    })?;
    Ok(Loss {
        rows: losses,
        correct,
        gradient: tensor(gradient, (rows, classes))?,
    })
}
