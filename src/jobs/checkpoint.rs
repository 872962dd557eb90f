//! A job's weights, optimiser and position as one safetensors file, and back.
//!
//! Invariant: what is read is what was written, by the bit, floats included; a file of another data set, backbone or shape is refused.

mod tried;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use super::dataset::Order;
use super::plan::Plan;
use super::selection::{Look, Looks};
use super::trainer::{Position, Trainer};
use crate::metadata::JobTimes;
use crate::model::{self, AdapterSet, Backbone, Tensors};
use crate::spec::{AdapterConfig, Digest, Publish};

/// Number of the format; another one is refused.
const FORMAT: u32 = 1;
/// Where the header is in the file's metadata.
const HEADER: &str = "frameshift.checkpoint";
/// The release that writes checkpoints.
const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// Prefix of the weights' names.
const WEIGHT: &str = "weight/";
/// Prefix of the optimiser's tensors.
const MOMENT: &str = "moment/";
/// Prefix of the names of the best evaluation's weights, when they are not the weights of the checkpoint's step.
const BEST: &str = "best/";
/// Prefix of the names of the weights of the best head that was tried.
const TRIED: &str = "tried/";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("not a safetensors file: {0}")]
    Safetensors(#[from] SafeTensorError),
    #[error("its header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    #[error("it has no header")]
    NoHeader,
    #[error("{field} is {got}, expected {expected}")]
    Other {
        field: &'static str,
        expected: String,
        got: String,
    },
    #[error("tensor {name} is not f32")]
    Type { name: String },
    #[error("{0}")]
    Model(#[from] model::Error),
}

/// What a checkpoint is of, besides the job's plan.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) dataset: Digest,
    pub(super) backbone: Arc<Backbone>,
    pub(super) adapter: AdapterConfig,
    pub(super) classes: usize,
    pub(super) plan: Plan,
    /// The set that training starts from, in place of new weights.
    pub(super) parent: Option<Arc<AdapterSet>>,
}

/// An evaluation as it is kept: step, loss, top-1 and, of labels that do not exclude one another, the mean average precision.
type LookBits = Vec<u64>;

fn bits_of(look: &Look) -> LookBits {
    let mut bits = vec![look.step, look.loss.to_bits(), look.top1.to_bits()];
    bits.extend(look.map.map(f64::to_bits));
    bits
}

fn look_of(bits: &LookBits) -> Look {
    let number = |place: usize| bits.get(place).copied().map(f64::from_bits);
    Look {
        step: bits.first().copied().unwrap_or_default(),
        // A file that lacks one has no number there.
        loss: number(1).unwrap_or(f64::NAN),
        top1: number(2).unwrap_or(f64::NAN),
        map: number(3),
    }
}

/// Header of a checkpoint. Floats are kept as their bits, since JSON has no numbers that are not finite.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    dataset: Digest,
    backbone: Digest,
    step: u64,
    optimizer_steps: u64,
    losses: Vec<u64>,
    loss_sum: u64,
    loss_clips: u64,
    training_micros: u64,
    /// Whether epochs are keyed permutations; release 0.1, which shuffled them, did not say.
    #[serde(default)]
    permuted: bool,
    /// Whether the batches of an epoch are of equal size; the release before, which took whole ones and what was left, did not say.
    #[serde(default)]
    equal: bool,
    #[serde(default)]
    accuracies: Vec<u64>,
    #[serde(default)]
    right: u64,
    /// Step, loss and top-1 of each evaluation.
    #[serde(default)]
    looks: Vec<LookBits>,
    #[serde(default)]
    best_look: Option<usize>,
    #[serde(default)]
    is_blind: bool,
    #[serde(default)]
    is_halved: bool,
    /// Time that the job took besides its steps; zero where an earlier release did not measure it.
    #[serde(default)]
    times: JobTimes,
    /// Training videos that could no longer be decoded; none where an earlier release did not say.
    #[serde(default)]
    skipped: Vec<String>,
    /// What came of heads without adapters, once they were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<tried::Record>,
    /// What computed the steps: accelerator and library, or the host's instruction set; nothing where an earlier release did not say.
    #[serde(default)]
    accelerator: Option<String>,
    /// The release that computed the steps; nothing where an earlier one did not say.
    #[serde(default)]
    release: Option<String>,
}

/// What a checkpoint holds.
pub(super) struct Decoded {
    pub(super) trainer: Trainer,
    /// What computed the steps, if results of this process differ in their last bits.
    pub(super) computed_by: Option<String>,
}

impl Header {
    /// The order of the batches, as the release that began the job had it.
    fn order(&self) -> Order {
        match (self.permuted, self.equal) {
            (_, true) => Order::Equal,
            (true, false) => Order::Permuted,
            (false, false) => Order::Shuffled,
        }
    }

    fn of(trainer: &Trainer, origin: &Origin, optimizer_steps: u64) -> Self {
        let position = trainer.position();
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect();
        let looks = position.looks.list.iter();
        Self {
            format: FORMAT,
            dataset: origin.dataset,
            backbone: origin.backbone.digest(),
            step: position.step,
            optimizer_steps,
            losses: bits(&position.losses),
            loss_sum: position.loss_sum.to_bits(),
            loss_clips: position.loss_clips,
            training_micros: u64::try_from(position.training.as_micros()).unwrap_or(u64::MAX),
            permuted: position.order != Order::Shuffled,
            equal: position.order == Order::Equal,
            accuracies: bits(&position.accuracies),
            right: position.right,
            looks: looks.map(bits_of).collect(),
            best_look: position.looks.best,
            is_blind: position.looks.is_blind,
            is_halved: position.is_halved,
            times: position.times,
            skipped: (position.skipped.iter().map(ToString::to_string)).collect(),
            tried: trainer.tried().map(|tried| tried::Record::of(tried)),
            accelerator: Some(arithmetic(&origin.backbone)),
            release: Some(RELEASE.into()),
        }
    }

    /// Returns what computed the steps, if it is known to be something else than this: another arithmetic, or this one of another release.
    fn computed_otherwise(&self, own: &str) -> Option<String> {
        let arithmetic = self.accelerator.as_deref().filter(|before| *before != own);
        let release = self.release.as_deref().filter(|before| *before != RELEASE);
        match (arithmetic, release) {
            (None, None) => None,
            (Some(arithmetic), None) => Some(arithmetic.to_owned()),
            (None, Some(release)) => Some(format!("release {release}")),
            (Some(arithmetic), Some(release)) => Some(format!("release {release}, {arithmetic}")),
        }
    }

    fn position(self) -> Position {
        let floats = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
        let order = self.order();
        Position {
            step: self.step,
            losses: floats(self.losses),
            accuracies: floats(self.accuracies),
            loss_sum: f64::from_bits(self.loss_sum),
            loss_clips: self.loss_clips,
            right: self.right,
            training: Duration::from_micros(self.training_micros),
            is_halved: self.is_halved,
            times: self.times,
            skipped: (self.skipped.iter().filter_map(|video| video.parse().ok())).collect(),
            order,
            looks: Looks {
                list: self.looks.iter().map(look_of).collect(),
                best: self.best_look,
                is_blind: self.is_blind,
            },
        }
    }
}

/// What a backbone computes with, which results depend on in their last bits.
fn arithmetic(backbone: &Backbone) -> String {
    let host = || format!("cpu {}", model::instructions(backbone.precision()));
    backbone.place().kind().unwrap_or_else(host)
}

/// The file of a trainer's state of now.
pub(super) fn encode(trainer: &Trainer, origin: &Origin) -> Result<Vec<u8>, Error> {
    let (optimizer_steps, moments) = trainer.moments()?;
    let header = Header::of(trainer, origin, optimizer_steps);
    let weights = trainer.snapshot()?.to_safetensors(Default::default())?;
    let weights = SafeTensors::deserialize(&weights)?;
    let moments: Vec<(String, Vec<usize>, Vec<u8>)> = moments
        .into_iter()
        .map(|(name, (shape, values))| {
            let bytes = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (format!("{MOMENT}{name}"), shape, bytes)
        })
        .collect();
    let mut tensors: Vec<(String, TensorView<'_>)> = weights
        .iter()
        .map(|(name, view)| (format!("{WEIGHT}{name}"), view))
        .collect();
    for (name, shape, bytes) in &moments {
        tensors.push((
            name.clone(),
            TensorView::new(Dtype::F32, shape.clone(), bytes)?,
        ));
    }
    let best = match trainer.best().filter(|_| !is_best_of_now(&header)) {
        Some(best) => best.to_safetensors(Default::default())?,
        None => safetensors::serialize(std::iter::empty::<(&str, TensorView<'_>)>(), None)?,
    };
    let best = SafeTensors::deserialize(&best)?;
    tensors.extend(
        best.iter()
            .map(|(name, view)| (format!("{BEST}{name}"), view)),
    );
    let tried = match trainer.tried().and_then(|tried| tried.best.as_ref()) {
        Some(best) => best.set.to_safetensors(Default::default())?,
        None => safetensors::serialize(std::iter::empty::<(&str, TensorView<'_>)>(), None)?,
    };
    let tried = SafeTensors::deserialize(&tried)?;
    tensors.extend(
        tried
            .iter()
            .map(|(name, view)| (format!("{TRIED}{name}"), view)),
    );
    let metadata = HashMap::from([(HEADER.to_owned(), serde_json::to_string(&header)?)]);
    Ok(safetensors::serialize(tensors, Some(metadata))?)
}

/// Whether the weights of the checkpoint's step are those of the best evaluation.
fn is_best_of_now(header: &Header) -> bool {
    let best = header.best_look.and_then(|best| header.looks.get(best));
    best.is_some_and(|best| best.first() == Some(&header.step))
}

/// The trainer that a file was made of.
pub(super) fn decode(bytes: &[u8], origin: &Origin) -> Result<Decoded, Error> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let header = metadata.metadata().as_ref().and_then(|all| all.get(HEADER));
    let header: Header = serde_json::from_str(header.ok_or(Error::NoHeader)?)?;
    expect("format", FORMAT, header.format)?;
    expect("dataset", origin.dataset, header.dataset)?;
    expect("backbone", origin.backbone.digest(), header.backbone)?;
    let computed_by = header.computed_otherwise(&arithmetic(&origin.backbone));
    let file = SafeTensors::deserialize(bytes)?;
    let mut weights = Vec::new();
    let (mut best, mut tried) = (Vec::new(), Vec::new());
    let mut moments = Tensors::new();
    for (name, view) in file.iter() {
        if let Some(own) = name.strip_prefix(WEIGHT) {
            weights.push((own.to_owned(), view));
        } else if let Some(own) = name.strip_prefix(BEST) {
            best.push((own.to_owned(), view));
        } else if let Some(own) = name.strip_prefix(TRIED) {
            tried.push((own.to_owned(), view));
        } else {
            let own = name.strip_prefix(MOMENT).unwrap_or(name);
            moments.insert(
                own.to_owned(),
                (view.shape().to_vec(), floats(name, &view)?),
            );
        }
    }
    let keeps_best = origin.plan.selection.publish == Publish::Best;
    if best.is_empty() && keeps_best && !header.is_blind && is_best_of_now(&header) {
        best = weights.clone();
    }
    let set = set_of(weights, origin, origin.adapter)?;
    let best = match best.is_empty() {
        true => None,
        false => Some(Arc::new(set_of(best, origin, origin.adapter)?)),
    };
    let tried = match &header.tried {
        Some(record) => {
            let set = record
                .adapter()
                .map(|adapter| set_of(tried, origin, adapter));
            Some(Arc::new(record.tried(set.transpose()?)))
        }
        None => None,
    };
    let moments = (header.optimizer_steps, moments);
    let position = header.position();
    let backbone = Arc::clone(&origin.backbone);
    let trainer = Trainer::resumed(
        backbone,
        &set,
        origin.plan.clone(),
        moments,
        (position, best, tried),
    )?;
    Ok(Decoded {
        trainer,
        computed_by,
    })
}

/// A set of this shape for the origin's backbone and classes.
fn set_of(
    tensors: Vec<(String, TensorView<'_>)>,
    origin: &Origin,
    adapter: AdapterConfig,
) -> Result<AdapterSet, Error> {
    let file = safetensors::serialize(tensors, None)?;
    let backbone = origin.backbone.config();
    Ok(AdapterSet::from_safetensors(
        &file,
        backbone,
        adapter,
        origin.classes,
    )?)
}

fn expect<T: PartialEq + ToString>(field: &'static str, expected: T, got: T) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Other {
        field,
        expected: expected.to_string(),
        got: got.to_string(),
    })
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, Error> {
    if view.dtype() != Dtype::F32 {
        return Err(Error::Type { name: name.into() });
    }
    let (quads, _) = view.data().as_chunks();
    Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::VideoId;

    #[test]
    fn evaluations_of_either_kind_are_kept_by_the_bit() {
        for map in [None, Some(0.1 + 0.2)] {
            let look = Look {
                step: 7,
                loss: f64::INFINITY,
                top1: 1.0 / 3.0,
                map,
            };
            let text = serde_json::to_string(&bits_of(&look)).unwrap();
            assert_eq!(look_of(&serde_json::from_str(&text).unwrap()), look);
        }
        assert!(look_of(&Vec::new()).loss.is_nan());
    }

    /// The header of a release that wrote the least.
    fn header_of_before() -> serde_json::Value {
        let digest = Digest([1; 32]);
        serde_json::json!({
            "format": FORMAT, "dataset": digest, "backbone": digest, "step": 3, "optimizer_steps": 3,
            "losses": [], "loss_sum": 0, "loss_clips": 0, "training_micros": 5,
        })
    }

    fn position(header: &serde_json::Value) -> Position {
        let header: Header = serde_json::from_value(header.clone()).unwrap();
        header.position()
    }

    #[test]
    fn a_header_of_a_release_before_keeps_its_order_and_its_batches() {
        let mut header = header_of_before();
        let read = |header: &serde_json::Value| position(header).order;
        assert_eq!(read(&header), Order::Shuffled);
        header["permuted"] = true.into();
        assert_eq!(read(&header), Order::Permuted);
        header["equal"] = true.into();
        assert_eq!(read(&header), Order::Equal);
    }

    #[test]
    fn videos_that_were_left_out_are_kept() {
        let mut header = header_of_before();
        let read = |header: &serde_json::Value| position(header).skipped;
        assert_eq!(read(&header), BTreeSet::new());
        let videos: BTreeSet<VideoId> = (0..3).map(|_| VideoId::generate()).collect();
        let written: Vec<String> = videos.iter().map(ToString::to_string).collect();
        header["skipped"] = written.into();
        assert_eq!(read(&header), videos);
    }

    #[test]
    fn a_header_that_does_not_say_what_computed_it_is_not_said_to_differ() {
        let mut header = header_of_before();
        let differs = |header: &serde_json::Value| {
            let header: Header = serde_json::from_value(header.clone()).unwrap();
            header.computed_otherwise("cpu avx512")
        };
        assert_eq!(differs(&header), None);
        header["accelerator"] = "cpu avx512".into();
        assert_eq!(differs(&header), None);
        header["accelerator"] = "cpu avx2".into();
        assert_eq!(differs(&header).as_deref(), Some("cpu avx2"));
    }
}
