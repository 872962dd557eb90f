//! Why a checkpoint is refused.

use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use super::checkpoint::IndexError;
use super::header::HeaderError;
use super::torch::TorchError;
use crate::spec::Invalid;

/// A checkpoint that is not loaded. Every message begins with the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the file system.
        #[source]
        source: std::io::Error,
    },
    /// A pipe, a device, or a folder where a file should be.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// Path of what is not a file.
        path: PathBuf,
    },
    /// A configuration or index longer than any checkpoint needs.
    #[error("{}: {bytes} bytes, at most {limit} are allowed", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Size of the file, in bytes.
        bytes: u64,
        /// Largest size that is read, in bytes.
        limit: u64,
    },
    /// A JSON file that is malformed or lacks the expected structure.
    #[error("{}: not the expected JSON: {source}", path.display())]
    Json {
        /// Path of the file.
        path: PathBuf,
        /// Position and cause.
        #[source]
        source: serde_json::Error,
    },
    /// A value of the configuration that the model cannot have.
    #[error("{}: {source}", path.display())]
    Config {
        /// Path of the file.
        path: PathBuf,
        /// Field and its problem.
        #[source]
        source: Invalid,
    },
    /// A safetensors file that breaks the format.
    #[error("{}: {source}", path.display())]
    Header {
        /// Path of the file.
        path: PathBuf,
        /// Fault in the header.
        #[source]
        source: HeaderError,
    },
    /// A PyTorch file that holds more than tensors, or is malformed.
    #[error("{}: {source}", path.display())]
    Torch {
        /// Path of the file.
        path: PathBuf,
        /// Fault in the file, with the opcode or global and its offset.
        #[source]
        source: Box<TorchError>,
    },
    /// A value that neither the file nor its family's rule says.
    #[error("{}: the file does not say {}: {why}; say it with --backbone-override {}", path.display(), fields.join(" or "), fields.iter().map(|field| format!("{field}=…")).collect::<Vec<_>>().join(","))]
    Undecided {
        /// Path of the file.
        path: PathBuf,
        /// Undecided fields: `heads` or `activation`.
        fields: Vec<&'static str>,
        /// Why no rule decides them.
        why: &'static str,
    },
    /// An invalid override.
    #[error("--backbone-override: {source}")]
    Override {
        /// Field and its problem.
        #[source]
        source: Invalid,
    },
    /// An index that does not match its shards.
    #[error("{}: {source}", path.display())]
    Index {
        /// Path of the index.
        path: PathBuf,
        /// Fault in the index.
        #[source]
        source: IndexError,
    },
    /// A folder without weights to load.
    #[error("{}: no weights: no safetensors or PyTorch file that the configuration goes with is there", path.display())]
    NoWeights {
        /// Path of the folder.
        path: PathBuf,
    },
    /// Several candidates, and nothing that says which to load.
    #[error("{}: {files} files of weights and no configuration; name one file", path.display())]
    Ambiguous {
        /// Path of the folder.
        path: PathBuf,
        /// Number of candidates.
        files: usize,
    },
    /// A safetensors file without a configuration.
    #[error("{}: {found}, and no configuration: neither config.json beside the file nor {} in its metadata", path.display(), super::CONFIG_KEY)]
    NoConfig {
        /// Path of the file.
        path: PathBuf,
        /// What the file's tensors are.
        found: &'static str,
    },
    /// A family or format that is not read.
    #[error("{}: unsupported: {format}", path.display())]
    Unsupported {
        /// Path of the file or folder.
        path: PathBuf,
        /// Kind of the checkpoint.
        format: Format,
    },
    /// A tensor of the vision tower is missing.
    #[error("{}: tensor {name:?} of the vision tower is missing", path.display())]
    Missing {
        /// Path of the file or folder.
        path: PathBuf,
        /// Name of the tensor in the file's family.
        name: String,
    },
    /// A tensor that is not part of the vision tower.
    #[error("{}: tensor {name:?} is not part of the architecture", path.display())]
    Extra {
        /// Path of the file or folder.
        path: PathBuf,
        /// Name of the tensor as stored.
        name: String,
    },
    /// A tensor with another shape than expected.
    #[error("{}: tensor {name:?}: expected shape {expected:?}, got {got:?}", path.display())]
    Shape {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor as stored.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape as stored.
        got: Vec<usize>,
    },
    /// Weights that are not floats of 16, 32 or 64 bits.
    #[error("{}: tensor {name:?} is stored as {dtype:?}, expected F32, F16, BF16 or F64", path.display())]
    Dtype {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor as stored.
        name: String,
        /// Number format of the tensor.
        dtype: Dtype,
    },
    /// Weights with NaN or infinity.
    #[error("{}: tensor {name:?}: element {at} is {value}, not a finite number", path.display())]
    NonFinite {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor as stored.
        name: String,
        /// Row-major index of the first bad element.
        at: usize,
        /// Value of that element.
        value: f32,
    },
    /// The tensors are refused by the model itself.
    #[error(transparent)]
    Model(#[from] crate::Error),
}

/// The kind of an unsupported checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A file of another kind.
    File {
        /// Description of the file.
        file: String,
    },
    /// A vision tower that is not a ViT.
    Convolutional {
        /// Name of the tensor or field that shows it.
        sign: String,
    },
    /// A ViT with unsupported blocks or tokens.
    Feature {
        /// Name of the unsupported feature.
        feature: &'static str,
        /// Name of the tensor or field that shows it.
        sign: String,
    },
    /// A timm model whose architecture is not a ViT.
    Timm {
        /// Architecture as the configuration says.
        architecture: String,
    },
    /// A CLIP text tower alone.
    TextTower,
    /// An adapter set, without its backbone.
    AdaptersOnly,
    /// An unsupported family of Hugging Face's transformers.
    Transformers {
        /// Model type as the configuration says.
        model_type: String,
    },
    /// Tensors that belong to no known family.
    Unknown {
        /// Some of the tensors' names.
        names: Vec<String>,
    },
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(f, "{file} is neither a safetensors nor a PyTorch file"),
            Self::Convolutional { sign } => write!(
                f,
                "a vision tower that is a ResNet or has a convolutional stem, not a plain ViT ({sign})"
            ),
            Self::Feature { feature, sign } => write!(f, "a ViT with {feature} ({sign})"),
            Self::Timm { architecture } => write!(
                f,
                "a timm checkpoint of architecture {architecture:?}, only plain ViTs (vit_…, deit_…) are read"
            ),
            Self::TextTower => f.write_str("a CLIP text tower, which has no vision tower"),
            Self::AdaptersOnly => f.write_str(
                "adapters and a head without their backbone; import them into a task instead",
            ),
            Self::Transformers { model_type } => write!(
                f,
                "a Hugging Face checkpoint of model_type {model_type:?}, only CLIP and ViT are read"
            ),
            Self::Unknown { names } => {
                write!(f, "tensors of no known family ({} …)", names.join(", "))
            }
        }
    }
}
