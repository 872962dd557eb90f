//! Tests of the loss against candle, and of goals between two labels.

use candle_core::{D, DType, Device, Tensor};

use super::super::loss::{self, Goal, cross_entropy};
use super::{assert_near, random, twin};

#[test]
fn cross_entropy_matches_candle() {
    let logits = (random("logits", &[9, 13]) * 4.0).expect("logits");
    let labels: Vec<u32> = (0..9).map(|i| i * 5 % 13).collect();
    let targets = Tensor::new(labels.as_slice(), &Device::Cpu).expect("labels");
    let one = Tensor::ones((), DType::F32, &Device::Cpu).expect("one");
    let twins = twin(&[&logits], &one, |v| {
        candle_nn::loss::cross_entropy(&v[0], &targets)
    });
    let got = cross_entropy(&logits, &labels, 9, 0.0).expect("a loss");
    assert_near("gradient", &got.gradient, &twins[0], 1e-6);
    let want: f32 = candle_nn::loss::cross_entropy(&logits, &targets)
        .and_then(|loss| loss.to_scalar())
        .expect("a loss");
    assert!((loss::mean(&got.rows) - f64::from(want)).abs() < 1e-5);
    let best = logits
        .argmax(D::Minus1)
        .and_then(|best| best.to_vec1::<u32>())
        .expect("a row each");
    let hits = best.iter().zip(&labels).filter(|(a, b)| a == b).count();
    assert_eq!(got.correct, hits);
    // Spread over 13 labels: the mean of the cross entropies of all of them, by their share.
    let smooth = cross_entropy(&logits, &labels, 9, 0.1).expect("a loss");
    let of = |label: u32| {
        let all = cross_entropy(&logits, &[label; 9], 9, 0.0).expect("a loss");
        (loss::mean(&all.rows), all.gradient)
    };
    let all: Vec<(f64, Tensor)> = (0..13).map(of).collect();
    let mean = all.iter().map(|own| own.0).sum::<f64>() / 13.0;
    let want = 0.9 * loss::mean(&got.rows) + 0.1 * mean;
    assert!((loss::mean(&smooth.rows) - want).abs() < 1e-12);
    let spread = all
        .iter()
        .try_fold(got.gradient.zeros_like().unwrap(), |sum, own| sum + &own.1);
    let want = (got.gradient * 0.9).unwrap() + (spread.unwrap() * (0.1 / 13.0)).unwrap();
    assert_near("smooth gradient", &smooth.gradient, &want.unwrap(), 1e-6);
}

#[test]
fn a_goal_blends_two_labels_and_counts_by_its_weight() {
    let logits = (random("logits", &[4, 5]) * 3.0).expect("logits");
    let labels = [0, 1, 2, 3];
    let goals: Vec<Goal> = (0..4)
        .map(|i| Goal {
            other: (i + 2) % 5,
            share: 0.25 * f64::from(i),
            weight: 0.5 + f64::from(i),
        })
        .collect();
    let got = loss::towards(&logits, (&labels, &goals), 4, 0.1).expect("a loss");
    let others: Vec<u32> = goals.iter().map(|goal| goal.other).collect();
    let own = cross_entropy(&logits, &labels, 4, 0.1).expect("a loss");
    let other = cross_entropy(&logits, &others, 4, 0.1).expect("a loss");
    let gradients = |loss: &loss::Loss| loss.gradient.to_vec2::<f32>().expect("rows");
    let (got_rows, own_rows, other_rows) = (gradients(&got), gradients(&own), gradients(&other));
    for (i, goal) in goals.iter().enumerate() {
        let blend = |a: f64, b: f64| goal.weight * ((1.0 - goal.share) * a + goal.share * b);
        assert!((got.rows[i] - blend(own.rows[i], other.rows[i])).abs() < 1e-12);
        for class in 0..5 {
            let (a, b) = (own_rows[i][class], other_rows[i][class]);
            let want = blend(f64::from(a), f64::from(b)) as f32;
            assert!((got_rows[i][class] - want).abs() < 1e-6);
        }
    }
    let plain: Vec<Goal> = labels.map(Goal::plain).to_vec();
    let plain = loss::towards(&logits, (&labels, &plain), 4, 0.0).expect("a loss");
    let without = cross_entropy(&logits, &labels, 4, 0.0).expect("a loss");
    assert_eq!(
        (plain.rows.clone(), gradients(&plain)),
        (without.rows.clone(), gradients(&without))
    );
    let unknown = [Goal {
        other: 5,
        ..Goal::plain(0)
    }; 4];
    assert!(loss::towards(&logits, (&labels, &unknown), 4, 0.0).is_err());
}
