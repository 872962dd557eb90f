//! Mean cross entropy of logits, in double precision, with its gradient.

use candle_core::{Result, Tensor};

use super::buffers::{read, tensor};

/// What a batch of logits scored.
#[derive(Debug)]
pub(in crate::model) struct Loss {
    /// Mean over the rows, in nats.
    pub(in crate::model) mean: f64,
    /// Rows whose largest logit (the first of equals) is their label's.
    pub(in crate::model) correct: usize,
    /// Of the mean, `[B, classes]`.
    pub(in crate::model) gradient: Tensor,
}

/// Of logits `[B, classes]`; labels are below `classes`.
pub(in crate::model) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Loss> {
    let (rows, classes) = logits.dims2()?;
    if labels.len() != rows || labels.iter().any(|&label| label as usize >= classes) {
        candle_core::bail!("labels do not fit logits {:?}", logits.shape());
    }
    let (mut sum, mut correct) = (0.0, 0);
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
            sum += total.ln() + f64::from(top) - f64::from(row[label as usize]);
            correct += usize::from(best == label as usize);
            gradient.extend(exps.enumerate().map(|(i, e)| {
                let target = f64::from(u8::from(i == label as usize));
                ((e / total - target) / rows as f64) as f32
            }));
        }
    })?;
    Ok(Loss {
        mean: sum / rows as f64,
        correct,
        gradient: tensor(gradient, (rows, classes))?,
    })
}
