//! Binary cross entropy of labels that do not exclude one another.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::super::buffers::{read, tensor};
use super::Loss;

/// What the clips of a step are to be, label by label, when labels do not exclude one another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// How far each label of each clip is to be there, 0 to 1: `[clips][classes]` in one piece.
    pub values: Vec<f32>,
    /// Factor of each label's loss where the label is there; empty when all are 1.
    pub positive: Arc<[f64]>,
}

/// Computes the loss of logits `[B, classes]`, which are rows of a batch of `batch` rows, towards marks of these rows: the mean over the labels of the binary
/// cross entropies, whose part of what is to be there is multiplied by the label's factor (PyTorch's `BCEWithLogitsLoss` with `pos_weight`). Half of the
/// share `smoothing` is taken from marks of 1 and added to marks of 0.
pub(crate) fn binary(
    logits: &Tensor,
    (marks, positive): (&[f32], &[f64]),
    batch: usize,
    smoothing: f64,
) -> Result<Loss> {
    let (rows, classes) = logits.dims2()?;
    let is_mark = |mark: &f32| (0.0..=1.0).contains(mark);
    let is_factor = |factor: &f64| factor.is_finite() && *factor >= 0.0;
    let fits = marks.len() == rows * classes
        && marks.iter().all(is_mark)
        && (positive.is_empty() || positive.len() == classes)
        && positive.iter().all(is_factor);
    if !fits {
        candle_core::bail!("marks do not fit logits {:?}", logits.shape());
    }
    let (mut losses, mut correct) = (Vec::with_capacity(rows), 0);
    let mut gradient = Vec::with_capacity(rows * classes);
    let share = 1.0 / (classes * batch) as f64;
    read(logits, |logits| {
        let rows = logits
            .chunks_exact(classes)
            .zip(marks.chunks_exact(classes));
        for (row, marks) in rows {
            let mut sum = 0.0;
            for (label, (&logit, &mark)) in row.iter().zip(marks).enumerate() {
                let x = f64::from(logit);
                let wanted = f64::from(mark) * (1.0 - smoothing) + 0.5 * smoothing;
                let factor = positive.get(label).copied().unwrap_or(1.0);
                let (of, against) = (factor * wanted, 1.0 - wanted);
                // ln(1 + exp(x)) without overflow: minus the logarithm of how sure the label is not there.
                let not = x.max(0.0) + (-x.abs()).exp().ln_1p();
                sum += of * (not - x) + against * not;
                let score = 1.0 / (1.0 + (-x).exp());
                gradient.push((share * (against * score - of * (1.0 - score))) as f32);
            }
            losses.push(sum / classes as f64);
            correct += usize::from(is_right(row, marks));
        }
    })?;
    Ok(Loss {
        rows: losses,
        correct,
        gradient: tensor(gradient, (rows, classes))?,
    })
}

/// Whether the best label is one that is to be there; without one, whether every score is below 0.5.
fn is_right(row: &[f32], marks: &[f32]) -> bool {
    let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    match marks.iter().any(|mark| *mark >= 0.5) {
        true => marks[best] >= 0.5,
        false => row[best] < 0.0,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::mean;
    use super::*;

    fn of(logits: &[f32], marks: &[f32], positive: &[f64], smoothing: f64) -> Loss {
        let rows = logits.len() / 3;
        let logits = Tensor::from_slice(logits, (rows, 3), &Device::Cpu).expect("logits");
        binary(&logits, (marks, positive), rows, smoothing).expect("a loss")
    }

    const LOGITS: [f32; 6] = [1.5, -0.5, 0.25, -2.0, -0.1, -3.0];
    const MARKS: [f32; 6] = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0];

    #[test]
    fn the_loss_is_the_mean_of_binary_cross_entropies() {
        let got = of(&LOGITS, &MARKS, &[], 0.0);
        let one = |(logit, mark): (&f32, &f32)| {
            let score = 1.0 / (1.0 + (-f64::from(*logit)).exp());
            -if *mark > 0.0 { score } else { 1.0 - score }.ln()
        };
        let pairs = LOGITS.iter().zip(&MARKS);
        let want = pairs.map(one).sum::<f64>() / 6.0;
        assert!((mean(&got.rows) - want).abs() < 1e-12);
        assert_eq!(
            got.correct, 2,
            "the second has no label and no score of 0.5"
        );
        let quiet = of(&[0.5, -1.0, -1.0], &[0.0; 3], &[], 0.0);
        assert_eq!(quiet.correct, 0);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let positive = [3.0, 0.5, 1.0];
        let marks = [1.0, 0.25, 0.0, 0.0, 1.0, 0.5];
        let loss = |logits: &[f32]| mean(&of(logits, &marks, &positive, 0.1).rows);
        let gradient = of(&LOGITS, &marks, &positive, 0.1).gradient;
        let gradient: Vec<f32> = gradient
            .flatten_all()
            .and_then(|own| own.to_vec1())
            .expect("values");
        for (place, got) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut logits = LOGITS;
                logits[place] += by;
                loss(&logits)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (f64::from(*got) - slope).abs() < 1e-5,
                "{place}: {got} {slope}"
            );
        }
    }

    #[test]
    fn large_logits_and_marks_that_do_not_fit_are_no_numbers_out_of_nothing() {
        let got = of(&[300.0, -300.0, 0.0], &[0.0, 1.0, 0.0], &[], 0.0);
        assert!((got.rows[0] - (600.0 + 2.0_f64.ln()) / 3.0).abs() < 1e-9);
        let logits = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).expect("logits");
        for marks in [&[0.0, 1.0][..], &[0.0, 1.5, 0.0]] {
            assert!(binary(&logits, (marks, &[]), 1, 0.0).is_err());
        }
        assert!(binary(&logits, (&[0.0; 3], &[1.0]), 1, 0.0).is_err());
    }
}
