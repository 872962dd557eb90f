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
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A pipe, a device, a folder where a file should be.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A configuration or index that no checkpoint needs.
    #[error("{}: {bytes} bytes, at most {limit} are allowed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A JSON file that is none, or lacks its structure.
    #[error("{}: not the expected JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value of the configuration that the model cannot have.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and its problem.
        #[source]
        source: Invalid,
    },
    /// A safetensors file that is not what the format asks for.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: HeaderError,
    },
    /// A PyTorch file that holds more than tensors, or is malformed.
    #[error("{}: {source}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the opcode or global and its offset.
        #[source]
        source: Box<TorchError>,
    },
    /// What neither the file nor its family's rule says.
    #[error("{}: the file does not say {}: {why}; say it with --backbone-override {}", path.display(), fields.join(" or "), fields.iter().map(|field| format!("{field}=…")).collect::<Vec<_>>().join(","))]
    Undecided {
        /// The file.
        path: PathBuf,
        /// `heads` or `activation`.
        fields: Vec<&'static str>,
        /// Why no rule decides it.
        why: &'static str,
    },
    /// An override that is not one.
    #[error("--backbone-override: {source}")]
    Override {
        /// Which, and what is wrong.
        #[source]
        source: Invalid,
    },
    /// An index that does not fit its shards.
    #[error("{}: {source}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: IndexError,
    },
    /// Nothing to load.
    #[error("{}: no weights: no safetensors or PyTorch file that the configuration goes with is there", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// Several candidates, and nothing that says which.
    #[error("{}: {files} files of weights and no configuration; name one file", path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// How many.
        files: usize,
    },
    /// A safetensors file without a configuration.
    #[error("{}: {found}, and no configuration: neither config.json beside the file nor {} in its metadata", path.display(), super::CONFIG_KEY)]
    NoConfig {
        /// The file.
        path: PathBuf,
        /// What its tensors are.
        found: &'static str,
    },
    /// A family or format that is not read.
    #[error("{}: unsupported: {format}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        format: Format,
    },
    /// A tensor of the vision tower that is not there.
    #[error("{}: tensor {name:?} of the vision tower is missing", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// As the file's family names it.
        name: String,
    },
    /// A tensor that the vision tower does not have.
    #[error("{}: tensor {name:?} is not part of the architecture", path.display())]
    Extra {
        /// The file or folder.
        path: PathBuf,
        /// As stored.
        name: String,
    },
    /// A tensor of another size.
    #[error("{}: tensor {name:?}: expected shape {expected:?}, got {got:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// As stored.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// As stored.
        got: Vec<usize>,
    },
    /// Weights that are not floats of 16, 32 or 64 bits.
    #[error("{}: tensor {name:?} is stored as {dtype:?}, expected F32, F16, BF16 or F64", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// As stored.
        name: String,
        /// Its format.
        dtype: Dtype,
    },
    /// Weights with NaN or infinity.
    #[error("{}: tensor {name:?}: element {at} is {value}, not a finite number", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// As stored.
        name: String,
        /// Row-major.
        at: usize,
        /// What it is.
        value: f32,
    },
    /// The model itself refuses the tensors.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}

/// What an unsupported checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A file of another kind.
    File {
        /// The file.
        file: String,
    },
    /// A vision tower that is no ViT.
    Convolutional {
        /// What tells so.
        sign: String,
    },
    /// A ViT whose blocks or tokens are not ours.
    Feature {
        /// Its name.
        feature: &'static str,
        /// The tensor or field that tells so.
        sign: String,
    },
    /// timm's, of an architecture that is no ViT.
    Timm {
        /// As its configuration says.
        architecture: String,
    },
    /// A CLIP text tower alone.
    TextTower,
    /// An adapter set, without its backbone.
    AdaptersOnly,
    /// Another family of Hugging Face's transformers.
    Transformers {
        /// As its configuration says.
        model_type: String,
    },
    /// Tensors that no family has.
    Unknown {
        /// Some of their names.
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
