//! Mean cross entropy of logits, in double precision, with its gradient.

use candle_core::{Result, Tensor};

use super::buffers::{read, tensor};

/// Loss of a batch of logits.
#[derive(Debug)]
pub(in crate::model) struct Loss {
    /// Cross entropy of each row, in nats.
    pub(in crate::model) rows: Vec<f64>,
    /// Number of rows whose largest logit (the first of equal ones) is that of their label.
    pub(in crate::model) correct: usize,
    /// Gradient of the mean over the whole batch, `[B, classes]`.
    pub(in crate::model) gradient: Tensor,
}

/// Returns the mean over the rows, summed in their order.
pub(in crate::model) fn mean(rows: &[f64]) -> f64 {
    rows.iter().sum::<f64>() / rows.len() as f64
}

/// Computes the loss of logits `[B, classes]`, which are rows of a batch of `batch` rows; labels are below `classes`. A row's target is its label, but for
/// the share `smoothing`, which is spread evenly over all classes.
pub(in crate::model) fn cross_entropy(
    logits: &Tensor,
    labels: &[u32],
    batch: usize,
    smoothing: f64,
) -> Result<Loss> {
    let (rows, classes) = logits.dims2()?;
    if labels.len() != rows || labels.iter().any(|&label| label as usize >= classes) {
        candle_core::bail!("labels do not fit logits {:?}", logits.shape());
    }
    let (mut losses, mut correct) = (Vec::with_capacity(rows), 0);
    let mut gradient = Vec::with_capacity(rows * classes);
    read(logits, |logits| {
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            let (mut best, mut top) = (0, f32::NEG_INFINITY);
            for (i, &x) in row.iter().enumerate() {
                if x > top {
                    (best, top) = (i, x);
                }
            }
            let exps = row.iter().map(|&x| (f64::from(x) - f64::from(top)).exp());
            let total: f64 = exps.clone().sum();
            let log_total = total.ln() + f64::from(top);
            let of_label = log_total - f64::from(row[label as usize]);
            losses.push(match smoothing > 0.0 {
                false => of_label,
                true => {
                    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / classes as f64;
                    (1.0 - smoothing) * of_label + smoothing * (log_total - mean)
                }
            });
            correct += usize::from(best == label as usize);
            gradient.extend(exps.enumerate().map(|(i, e)| {
                let own = f64::from(u8::from(i == label as usize));
                let target = (1.0 - smoothing) * own + smoothing / classes as f64;
                ((e / total - target) / batch as f64) as f32
            }));
        }
    })?;
    Ok(Loss {
        rows: losses,
        correct,
        gradient: tensor(gradient, (rows, classes))?,
    })
}
