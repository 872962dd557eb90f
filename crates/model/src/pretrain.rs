//! Trains a whole backbone with several heads on single images: the same blocks, with trainable weights.
//!
//! Invariant: equal seeds and batches give equal weights, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::adamw::{self, AdamW};
use super::block::{Hidden, Reach, Saved, Sites, Tokens};
use super::flat::Flat;
use super::ops::placed::linear::Rows;
use super::ops::{Array, Numbers, Place, loss, read};
use super::vit::{self, SavedEmbedding, Vit};
use super::weights::{Found, Linear, Mode};
use super::{BackboneConfig, Error, Gradients, Tensors, load};
use crate::rng::Stream;
use crate::spec::{Invalid, Precision};

/// Results of a step, before its update.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean cross entropy of each head, in nats.
    pub losses: Vec<f64>,
    /// Share of images whose largest logit was that of their label, for each head.
    pub accuracies: Vec<f64>,
    /// Global gradient norm before clipping; 0 when there was no update.
    pub gradient_norm: f64,
}

/// Backbone in training, with its heads and optimiser.
pub struct Trainer {
    config: BackboneConfig,
    /// Number of classes of each head.
    heads: Vec<usize>,
    parameters: Flat,
    optimizer: AdamW,
}

/// Layers of one step, with the current weights.
struct Layers {
    vit: Vit,
    heads: Vec<Linear>,
}

/// Activations that the forward pass saves for the backward pass.
struct Trace {
    embedding: SavedEmbedding,
    blocks: Vec<Saved>,
    /// Class tokens `[N, C]`, before and after the final norm.
    class: Array,
    normed: Array,
}

impl Trainer {
    /// Creates a backbone with random weights from a seed; `heads` holds the number of classes of each head.
    ///
    /// # Errors
    /// When the configuration is not one of a backbone, or a head has no classes.
    pub fn new(
        config: BackboneConfig,
        heads: &[usize],
        seed: u64,
        optimizer: adamw::Config,
    ) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        if heads.is_empty() || heads.contains(&0) {
            let problem = format!("expected at least one, each with classes, got {heads:?}");
            return Err(Error::Config(Invalid::new("heads", problem)));
        }
        let mut shapes = config.tensors();
        for (i, &classes) in heads.iter().enumerate() {
            shapes.insert(head_name(i, "weight"), vec![classes, config.width]);
            shapes.insert(head_name(i, "bias"), vec![classes]);
        }
        let rng = Stream::new(seed, "pretrain/weights");
        let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (i, (name, shape)) in shapes.iter().enumerate() {
            let own = initial(name, shape, &mut rng.fork(i as u64));
            values.insert(name.clone(), own);
        }
        let parameters = Flat::new(shapes, &Place::Host, |name| {
            let missing = || Error::MissingTensor { name: name.into() };
            values.remove(name).ok_or_else(missing)
        })?;
        Ok(Self {
            optimizer: AdamW::new(&parameters, optimizer)?,
            config,
            heads: heads.to_vec(),
            parameters,
        })
    }

    /// Updates the weights once with AdamW, on the sum of the heads' losses. `images` are normalised, `[N, 3, S, S]`; labels are `[head][image]`.
    ///
    /// # Errors
    /// When shapes or labels do not fit.
    pub fn step(
        &mut self,
        images: &Tensor,
        labels: &[Vec<u32>],
        learning_rate: f64,
    ) -> Result<StepReport, Error> {
        let (mut report, gradients) = self.gradients(images, labels)?;
        report.gradient_norm = self
            .optimizer
            .step(&self.parameters, &gradients, learning_rate)?;
        Ok(report)
    }

    /// Returns the results of a batch, and the gradient of every weight.
    fn gradients(
        &self,
        images: &Tensor,
        labels: &[Vec<u32>],
    ) -> Result<(StepReport, Gradients), Error> {
        self.check(images, labels)?;
        let layers = self.layers()?;
        let trace = self.forward(&layers, images)?;
        let mut found = Found::new();
        let (d_normed, report) = self.score(&layers, &trace.normed, labels, &mut found)?;
        backward(&layers, trace, &d_normed, &mut found)?;
        let gradients = self.parameters.zeros(&Place::Host)?;
        for (name, gradient) in found {
            gradients.set(&name, &gradient)?;
        }
        Ok((report, gradients))
    }

    /// Computes losses and accuracies without an update.
    ///
    /// # Errors
    /// When shapes or labels do not fit.
    pub fn evaluate(&self, images: &Tensor, labels: &[Vec<u32>]) -> Result<StepReport, Error> {
        self.check(images, labels)?;
        let layers = self.layers()?;
        let trace = self.forward(&layers, images)?;
        let found = &mut Found::new();
        Ok(self.score(&layers, &trace.normed, labels, found)?.1)
    }

    /// Returns the backbone's weights, without the heads, by the reference's names.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn tensors(&self) -> Result<Tensors, Error> {
        let own = self.config.tensors();
        let mut tensors = self.parameters.named("")?;
        tensors.retain(|name, _| own.contains_key(name));
        Ok(tensors)
    }

    /// Writes the backbone, without the heads, as f16 safetensors with the reference's tensor names, its configuration and this metadata: a file that
    /// [`crate::Backbone::load`] reads.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
        let bytes =
            load::write_reference(&self.config, &self.tensors()?, load::Float::F16, metadata);
        std::fs::write(path, bytes).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
    }

    fn check(&self, images: &Tensor, labels: &[Vec<u32>]) -> Result<(), Error> {
        let side = self.config.image_size;
        let (n, ..) = images.dims4()?;
        if n == 0 || images.dims() != [n, 3, side, side] {
            return Err(Error::WrongShape {
                name: "images".to_owned(),
                expected: vec![n, 3, side, side],
                got: images.dims().to_vec(),
            });
        }
        if labels.len() != self.heads.len() {
            let problem = format!("{} heads, labels for {}", self.heads.len(), labels.len());
            return Err(Error::Value(Invalid::new("labels", problem)));
        }
        for (labels, &classes) in labels.iter().zip(&self.heads) {
            if labels.len() != n {
                return Err(Error::LabelCount {
                    clips: n,
                    labels: labels.len(),
                });
            }
            if let Some(clip) = labels.iter().position(|&label| label as usize >= classes) {
                return Err(Error::Label {
                    clip,
                    label: labels[clip],
                    classes,
                });
            }
        }
        Ok(())
    }

    fn layers(&self) -> Result<Layers, Error> {
        let fetch = |name: &str| self.parameters.get(name);
        let mode = Mode::trainable(Precision::F32);
        let mut heads = Vec::with_capacity(self.heads.len());
        for i in 0..self.heads.len() {
            let (weight, bias) = (
                fetch(&head_name(i, "weight"))?,
                fetch(&head_name(i, "bias"))?,
            );
            heads.push(Linear::of(&weight, self.config.width, &bias, &mode)?);
        }
        Ok(Layers {
            vit: Vit::new(&self.config, &mode, &|name, take| {
                fetch(name)?.read(|values| take(values.into()))?;
                Ok(())
            })?,
            heads,
        })
    }

    fn forward(&self, layers: &Layers, images: &Tensor) -> Result<Trace, Error> {
        let patches = read(images, |values| {
            let pictures = vit::pictures(values, &self.config);
            vit::patches(&pictures, &self.config, layers.vit.input())
        })??;
        let (mut x, embedding) = layers.vit.embed(&patches)?;
        let mut blocks = Vec::with_capacity(layers.vit.blocks.len());
        for (i, block) in layers.vit.blocks.iter().enumerate() {
            let (y, saved) = block.forward(
                &x,
                &Sites::default(),
                tokens(layers, i),
                Reach::Input,
                Hidden::Kept,
            )?;
            blocks.extend(saved);
            x = y;
        }
        let normed = layers.vit.ln_post.forward(&x, Numbers::F32)?;
        Ok(Trace {
            embedding,
            blocks,
            class: x,
            normed,
        })
    }

    /// Computes the losses, and the gradient of the normed class tokens.
    fn score(
        &self,
        layers: &Layers,
        normed: &Array,
        labels: &[Vec<u32>],
        found: &mut Found,
    ) -> Result<(Array, StepReport), Error> {
        let mut d_normed = normed.zeros_like()?;
        let mut report = StepReport {
            losses: Vec::new(),
            accuracies: Vec::new(),
            gradient_norm: 0.0,
        };
        for (i, (head, labels)) in layers.heads.iter().zip(labels).enumerate() {
            let logits = head.forward(normed, Rows::All, Numbers::F32)?;
            let scored = loss::cross_entropy(&logits.host()?, labels, labels.len(), 0.0)?;
            report.losses.push(loss::mean(&scored.rows));
            let share = scored.correct as f64 / labels.len() as f64;
            report.accuracies.push(share);
            let names = [head_name(i, "weight"), head_name(i, "bias")];
            let names = [names[0].as_str(), names[1].as_str()];
            let dy = &Array::Host(scored.gradient);
            head.gradients((normed, Rows::All), (dy, Rows::All), names, found)?;
            d_normed = head.backward_add(dy, &d_normed, Rows::All)?;
        }
        Ok((d_normed, report))
    }
}

fn tokens(layers: &Layers, block: usize) -> Tokens {
    if block + 1 == layers.vit.blocks.len() {
        Tokens::Class
    } else {
        Tokens::All
    }
}

fn backward(
    layers: &Layers,
    mut trace: Trace,
    d_normed: &Array,
    found: &mut Found,
) -> Result<(), Error> {
    let norm = &layers.vit.ln_post;
    norm.gradients(&trace.class, d_normed, "ln_post", found)?;
    let mut dy = norm.backward(&trace.class, d_normed, &d_normed.zeros_like()?)?;
    for (i, block) in layers.vit.blocks.iter().enumerate().rev() {
        let saved = trace
            .blocks
            .pop()
            .ok_or(Error::Order { what: "backward" })?;
        let gradients = block.backward(&dy, saved, &Sites::default(), Reach::Input)?;
        let own = gradients.own.into_iter();
        found.extend(own.map(|(name, g)| (format!("transformer.resblocks.{i}.{name}"), g)));
        dy = gradients.dx.ok_or(Error::Order { what: "backward" })?;
    }
    layers.vit.embed_back(&dy, &trace.embedding, found)?;
    Ok(())
}

fn head_name(head: usize, part: &str) -> String {
    format!("heads.{head}.{part}")
}

/// Returns initial values of a weight: matrices uniform within 1 / √inputs, embeddings normal with standard deviation 1 / √width, norms the identity,
/// biases 0.
fn initial(name: &str, shape: &[usize], rng: &mut Stream) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let last = shape.last().copied().unwrap_or(1).max(1);
    if name.ends_with("_embedding") {
        let deviation = 1.0 / (last as f32).sqrt();
        return (0..count).map(|_| deviation * rng.normal()).collect();
    }
    if shape.len() == 1 {
        let value = if name.ends_with(".weight") { 1.0 } else { 0.0 };
        return vec![value; count];
    }
    let bound = 1.0 / ((count / shape[0].max(1)) as f32).sqrt();
    (0..count).map(|_| rng.range(-bound, bound)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::ops::tensor;
    use crate::spec::Normalization;

    fn tiny(activation: Activation, pre_norm: bool) -> BackboneConfig {
        BackboneConfig {
            image_size: 12,
            patch_size: 4,
            width: 20,
            layers: 2,
            heads: 2,
            mlp_width: 28,
            activation,
            eps: 1e-5,
            pre_norm,
            patch_bias: !pre_norm,
            normalization: Normalization::CLIP,
        }
    }

    fn nudge(parameters: &Flat, name: &str, at: usize, delta: f32) {
        let own = parameters.get(name).expect("a weight");
        let mut values = own.read(<[f32]>::to_vec).expect("values");
        values[at] += delta;
        let moved = Array::of(values, own.dims()).expect("an array");
        parameters.set(name, &moved).expect("the same shape");
    }

    #[test]
    fn every_weights_gradient_is_the_slope_of_the_loss() {
        const STEP: f32 = 5e-3;
        for config in [
            tiny(Activation::QuickGelu, true),
            tiny(Activation::Gelu, false),
        ] {
            let mut rng = Stream::new(5, "images");
            let images = (0..3 * config.frame_len()).map(|_| rng.normal()).collect();
            let images = tensor(images, (3, 3, 12, 12)).expect("images");
            let labels = [vec![0, 3, 1], vec![1, 0, 1]];
            let trainer = Trainer::new(config, &[4, 2], 8, adamw::Config::default());
            let trainer = trainer.expect("a trainer");
            let loss = || -> f64 {
                let report = trainer.evaluate(&images, &labels).expect("a report");
                report.losses.iter().sum()
            };
            let (_, gradients) = trainer.gradients(&images, &labels).expect("gradients");
            assert_eq!(gradients.len(), trainer.parameters.len());
            for (name, (_, gradient)) in gradients.named("").expect("values") {
                let steepest = (0..gradient.len())
                    .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
                let at = steepest.expect("an element");
                nudge(&trainer.parameters, &name, at, STEP);
                let above = loss();
                nudge(&trainer.parameters, &name, at, -2.0 * STEP);
                let slope = (above - loss()) / f64::from(2.0 * STEP);
                nudge(&trainer.parameters, &name, at, STEP);
                let want = f64::from(gradient[at]);
                assert!(
                    (slope - want).abs() <= 1e-3 + 0.02 * want.abs(),
                    "{name}: slope {slope}, gradient {want}"
                );
            }
        }
    }
}
