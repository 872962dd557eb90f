//! What tasks, jobs and the model all name: adapter configurations, clip sampling, labels, digests, job states, metrics and scopes.
//!
//! Invariant: plain values without behaviour beyond their own validity; every type here is serialisable, and its field names are the stored ones.

mod access;
mod calibration;
mod direction;
mod evaluation;
mod geometry;
mod head;
mod hyper;
mod independent;
mod label;
mod rand_augment;
mod rate;
mod sampling;
mod selection;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use access::{Scope, Scopes, UnknownScope};
pub use calibration::{Calibration, ReliabilityBin, Sureness, confidence, reliability};
pub use direction::sided;
pub use evaluation::{Cell, Confusion, Evaluation, LabelCounts, LabelMeans};
pub use geometry::{Geometry, MAX_CLIP_VALUES};
pub use head::Head;
pub use hyper::{ClassWeights, HyperParameters, Mirror};
pub use independent::{Independent, LabelScore};
pub use label::{
    ExampleLabels, LabelKind, LabelRows, LabelSet, MAX_EXAMPLE_LABELS, MAX_LABELS, check_label,
    check_label_count, composed, label_outline, normal_label,
};
pub use rand_augment::RandAugment;
pub use rate::{Rate, RateExceeded};
pub use sampling::{
    ClipSampling, FrameOrder, MAX_SAMPLING_RATE, RotationPolicy, Sampling, SpatialViews,
};
pub use selection::{BestBy, Publish, Selection, wilson};

/// A value that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field, as the API spells it.
    pub field: &'static str,
    /// What is wrong, with what was expected.
    pub problem: String,
}

impl Invalid {
    /// A problem with a field.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

/// Where adapters sit, their shape, and the head above them; the names are the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Width of the bottleneck.
    pub adapter_width: u32,
    /// Number of blocks with adapters, counted from the last; `None` means all.
    pub adapter_layers: Option<NonZeroU32>,
    /// Kernel over (T, H, W), each odd.
    pub adapter_kernel_size: [u32; 3],
    /// One before attention.
    pub adapter_pre_attn: bool,
    /// One before the MLP.
    pub adapter_pre_mlp: bool,
    /// What the head reads of a clip. The paper's is not written, so that records and files of it are those of the releases without a choice.
    #[serde(default, skip_serializing_if = "Head::is_mean")]
    pub head: Head,
}

impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites = match (self.adapter_pre_attn, self.adapter_pre_mlp) {
            (false, false) if self.head.is_mean() => {
                return f.write_str("no adapters (a linear probe)");
            }
            (false, false) => return write!(f, "no adapters and {}", self.head),
            (true, true) => "attention and the MLP",
            (true, false) => "attention",
            (false, true) => "the MLP",
        };
        let [t, h, w] = self.adapter_kernel_size;
        let width = self.adapter_width;
        write!(
            f,
            "adapters of width {width} and kernel {t}x{h}x{w} before {sites} of "
        )?;
        match self.adapter_layers {
            Some(layers) => write!(f, "the last {layers} blocks")?,
            None => f.write_str("every block")?,
        }
        if self.head.is_mean() {
            return Ok(());
        }
        write!(f, " and {}", self.head)
    }
}

impl AdapterConfig {
    /// No sites: the paper's head on the frozen backbone.
    pub const LINEAR_PROBE: Self = Self {
        adapter_width: 0,
        adapter_layers: None,
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn: false,
        adapter_pre_mlp: false,
        head: Head::Mean,
    };

    /// Whether there is any adapter.
    pub fn has_sites(&self) -> bool {
        self.adapter_pre_attn || self.adapter_pre_mlp
    }

    /// Checks widths and kernels.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.head.validate()?;
        if !self.has_sites() {
            return Ok(());
        }
        if !(1..=4096).contains(&self.adapter_width) {
            return Err(Invalid::new(
                "adapter_width",
                format!("expected 1 to 4096, got {}", self.adapter_width),
            ));
        }
        const AXES: [&str; 3] = ["adapter_kernel_t", "adapter_kernel_h", "adapter_kernel_w"];
        for (field, size) in AXES.into_iter().zip(self.adapter_kernel_size) {
            if size % 2 == 0 || size > 15 {
                return Err(Invalid::new(
                    field,
                    format!("expected an odd number from 1 to 15, got {size}"),
                ));
            }
        }
        Ok(())
    }
}

/// Mean and standard deviation of each channel, for pixels in 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

impl Normalization {
    /// Pixels from -1 to 1: what most ViTs of timm and Hugging Face were trained with.
    pub const HALF: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    /// What CLIP was trained with.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };
}

/// Number format of matrix products; sums, norms, softmax, the residual stream and the loss are 32-bit floats in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit integers in the frozen layers of the blocks, bfloat16 elsewhere.
    Int8,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL
            .into_iter()
            .find(|known| known.to_string() == text);
        known.ok_or_else(|| {
            let problem = format!("expected f32, bf16 or int8, got {text:?}");
            Invalid::new("precision", problem)
        })
    }
}

/// Whether a work that runs slice by slice has slices left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There are: call `advance` again.
    More,
    /// There is one, which only takes the result: everything else is enqueued on an accelerator. It waits when it is called before the result is there.
    Pending,
    /// There are none: the result is ready.
    Done,
}

/// A sha256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new("sha256", format!("{text:?} is not 64 hexadecimal digits"));
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Which part of a data set an example belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Weights are updated on it.
    Train,
    /// A job reports its metrics on it, and may choose its weights by it.
    Validation,
    /// Kept apart until the weights are published.
    Test,
}

/// Where a job is; the transitions are in `jobs::state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a worker.
    Queued,
    /// Being checked.
    Validating,
    /// Training.
    Running,
    /// Measuring on the validation split.
    Evaluating,
    /// Storing the version.
    Publishing,
    /// Ended with a version.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended by its owner.
    Cancelled,
}

impl JobState {
    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn a_digest_reads_back_as_it_is_shown() {
        let digest = Digest(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!("ä".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn a_sampling_without_an_order_was_stored_before_there_was_a_choice() {
        let stored = r#"{"num_frames":2,"sampling":{"strided":4},"temporal_views":1,"spatial_views":"center","rotation":"display"}"#;
        let read: ClipSampling = serde_json::from_str(stored).unwrap();
        assert_eq!(read.order, FrameOrder::Reference);
        let display = ClipSampling {
            order: FrameOrder::Display,
            ..read
        };
        let text = serde_json::to_string(&display).unwrap();
        assert_eq!(
            serde_json::from_str::<ClipSampling>(&text).unwrap(),
            display
        );
    }

    #[test]
    fn a_stride_that_no_video_has_is_refused() {
        let strided = |rate| ClipSampling {
            sampling: Sampling::Strided(NonZeroU32::new(rate).unwrap()),
            ..ClipSampling::uniform(NonZeroU16::MIN)
        };
        assert!(strided(MAX_SAMPLING_RATE).validate().is_ok());
        let refused = strided(u32::MAX).validate().unwrap_err();
        assert_eq!(refused.field, "sampling_rate");
    }

    #[test]
    fn labels_are_distinct_and_clean() {
        assert!(LabelSet::new(vec!["left".into(), "right".into()]).is_ok());
        for bad in [vec!["a", "a"], vec![""], vec!["a\nb"]] {
            assert!(LabelSet::new(bad.into_iter().map(String::from).collect()).is_err());
        }
    }

    #[test]
    fn labels_have_a_limit_that_stored_ones_may_exceed() {
        let labels = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
        assert!(LabelSet::new(labels(MAX_LABELS)).is_ok());
        assert!(LabelSet::new(labels(MAX_LABELS + 1)).is_err());
        assert!(LabelSet::try_from(labels(MAX_LABELS + 1)).is_ok());
    }

    #[test]
    fn kernels_are_odd() {
        let mut config = AdapterConfig {
            adapter_width: 48,
            adapter_pre_mlp: true,
            ..AdapterConfig::LINEAR_PROBE
        };
        assert_eq!(config.validate(), Ok(()));
        for bad in [0, 2, 17] {
            config.adapter_kernel_size = [3, bad, 1];
            assert_eq!(
                config.validate().map_err(|e| e.field),
                Err("adapter_kernel_h")
            );
        }
    }
}
