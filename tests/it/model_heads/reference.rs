//! Heads in double precision, written from their definitions: final norm, features, logits, loss; slopes by differences; AdamW.

use std::collections::BTreeMap;

use frameshift::model::Tensors;
use frameshift::model::adamw::Config;
use frameshift::spec::Head;

use crate::model::{random_tensors, small};

/// Labels of the reference's clips.
pub(crate) const LABELS: [u32; 3] = [2, 0, 1];

/// Values of weights by name.
pub(crate) type Values = BTreeMap<String, Vec<f64>>;

/// A head alone over frozen features.
pub(crate) struct Reference {
    head: Head,
    /// Tokens of each clip after the final norm.
    clips: Vec<Vec<Vec<f64>>>,
    pub(crate) weights: Values,
    moments: BTreeMap<String, Vec<[f64; 2]>>,
}

impl Reference {
    pub(crate) fn new(head: Head, features: &[Vec<f32>], weights: &Tensors) -> Self {
        let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let backbone = random_tensors(&small(), 1);
        let (scale, shift) = (&backbone["ln_post.weight"].1, &backbone["ln_post.bias"].1);
        let norm = |token: &[f32]| {
            let token = wide(token);
            let n = token.len() as f64;
            let mean = token.iter().sum::<f64>() / n;
            let variance = token.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let root = (variance + small().eps).sqrt();
            let normed = token.iter().zip(scale).zip(shift);
            normed
                .map(|((x, scale), shift)| {
                    (x - mean) / root * f64::from(*scale) + f64::from(*shift)
                })
                .collect()
        };
        let tokens = |clip: &Vec<f32>| clip.chunks_exact(small().width).map(norm).collect();
        Self {
            head,
            clips: features.iter().map(tokens).collect(),
            weights: (weights.iter())
                .map(|(name, (_, values))| (name.clone(), wide(values)))
                .collect(),
            moments: BTreeMap::new(),
        }
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.weights[&format!("{name}.weight")];
        let bias = &self.weights[&format!("{name}.bias")];
        let rows = weight.chunks_exact(x.len()).zip(bias);
        rows.map(|(row, bias)| dot(row, x) + bias).collect()
    }

    fn clip(&self, tokens: &[Vec<f64>]) -> Vec<f64> {
        match self.head {
            Head::Mean => self.linear("fc", &mean(tokens)),
            Head::Frames(_) => self.linear("head.frames.fc", &tokens.concat()),
            Head::Conv => {
                let taps = &self.weights["head.conv.depthwise.weight"];
                let bias = &self.weights["head.conv.depthwise.bias"];
                let frame = |t: usize| -> Vec<f64> {
                    let tap = |c: usize, tap: usize| {
                        let at = (t + tap).checked_sub(1).and_then(|at| tokens.get(at));
                        at.map_or(0.0, |token| taps[3 * c + tap] * token[c])
                    };
                    (0..bias.len())
                        .map(|c| bias[c] + tap(c, 0) + tap(c, 1) + tap(c, 2))
                        .collect()
                };
                let active = |t| -> Vec<f64> {
                    let mixed = self.linear("head.conv.mix", &frame(t));
                    mixed.into_iter().map(gelu).collect()
                };
                let active: Vec<Vec<f64>> = (0..tokens.len()).map(active).collect();
                self.linear("head.conv.fc", &[mean(tokens), mean(&active)].concat())
            }
            Head::Attention(frames) => {
                let frames = usize::from(frames.get());
                let of_frame = tokens.len() / frames;
                let class: Vec<Vec<f64>> = tokens.iter().step_by(of_frame).cloned().collect();
                let mean = mean(&class);
                let q = self.linear("head.attention.query", &mean);
                let positions = &self.weights["head.attention.positions"];
                let c = mean.len();
                let kv = |(i, token): (usize, &Vec<f64>)| {
                    let position = &positions[i / of_frame * c..][..c];
                    let placed: Vec<f64> = token.iter().zip(position).map(|(x, p)| x + p).collect();
                    self.linear("head.attention.key_value", &placed)
                };
                let kv: Vec<Vec<f64>> = tokens.iter().enumerate().map(kv).collect();
                let width = c / small().heads;
                let mut mixed = Vec::new();
                for head in (0..c).step_by(width) {
                    let q = &q[head..][..width];
                    let score =
                        |kv: &Vec<f64>| dot(q, &kv[head..][..width]) / (width as f64).sqrt();
                    let shares: Vec<f64> = kv.iter().map(|kv| score(kv).exp()).collect();
                    let total: f64 = shares.iter().sum();
                    mixed.extend((0..width).map(|i| {
                        let value = |kv: &Vec<f64>| kv[c + head + i];
                        let parts = shares.iter().zip(&kv).map(|(share, kv)| share * value(kv));
                        parts.sum::<f64>() / total
                    }));
                }
                let out = self.linear("head.attention.out", &mixed);
                let features: Vec<f64> = mean.iter().zip(out).map(|(m, o)| m + o).collect();
                self.linear("head.attention.fc", &features)
            }
        }
    }

    pub(crate) fn logits(&self) -> Vec<Vec<f64>> {
        self.clips.iter().map(|clip| self.clip(clip)).collect()
    }

    /// Mean cross entropy.
    pub(crate) fn loss(&self) -> f64 {
        let logits = self.logits();
        let of_clip = |(logits, label): (&Vec<f64>, &u32)| {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            total.ln() - logits[*label as usize]
        };
        let sum: f64 = logits.iter().zip(&LABELS).map(of_clip).sum();
        sum / logits.len() as f64
    }

    /// One step of AdamW, the `number`-th, with gradients of which some elements were compared with slopes.
    pub(crate) fn update(&mut self, gradients: &Values, number: i32, rate: f64, config: &Config) {
        for (name, weights) in &mut self.weights {
            let moments = self.moments.entry(name.clone());
            let moments = moments.or_insert_with(|| vec![[0.0; 2]; weights.len()]);
            let decay = match name.ends_with(".bias") {
                true => 0.0,
                false => config.weight_decay,
            };
            for ((weight, moment), slope) in weights.iter_mut().zip(moments).zip(&gradients[name]) {
                let [first, second] = moment;
                *first = config.beta1 * *first + (1.0 - config.beta1) * slope;
                *second = config.beta2 * *second + (1.0 - config.beta2) * slope * slope;
                let mean = *first / (1.0 - config.beta1.powi(number));
                let square = *second / (1.0 - config.beta2.powi(number));
                *weight -= rate * decay * *weight;
                *weight -= rate * mean / (square.sqrt() + config.eps);
            }
        }
    }
}

/// The slope of the loss along some elements of each weight, by central differences.
pub(crate) fn slopes(reference: &mut Reference) -> BTreeMap<String, Vec<(usize, f64)>> {
    const STEP: f64 = 1e-5;
    const ELEMENTS: usize = 40;
    let names: Vec<String> = reference.weights.keys().cloned().collect();
    let mut slopes = BTreeMap::new();
    for name in names {
        let count = reference.weights[&name].len();
        // An odd distance meets every row and column of a matrix.
        let apart = (count / ELEMENTS) | 1;
        let mut of_weight = Vec::new();
        for at in (0..count).step_by(apart) {
            let mut moved = |delta: f64| {
                let weight = reference.weights.get_mut(&name).expect("a weight");
                let own = weight[at];
                weight[at] = own + delta;
                let loss = reference.loss();
                reference.weights.get_mut(&name).expect("a weight")[at] = own;
                loss
            };
            of_weight.push((at, (moved(STEP) - moved(-STEP)) / (2.0 * STEP)));
        }
        slopes.insert(name, of_weight);
    }
    slopes
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let count = rows.len() as f64;
    (0..rows[0].len())
        .map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / count)
        .collect()
}

/// GELU with the error function.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function by its series of terms of one sign, which loses no digit.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}
