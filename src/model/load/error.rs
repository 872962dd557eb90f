//! Why a checkpoint is refused.

use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use super::checkpoint::IndexError;
use super::header::HeaderError;
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
    #[error("{}: no weights: neither model.safetensors nor its index is there", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// Several candidates, and nothing that says which.
    #[error("{}: {files} safetensors files and no config.json; name one file", path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// How many.
        files: usize,
    },
    /// A safetensors file without a configuration.
    #[error("{}: no config.json, and no backbone configuration in the file's metadata", path.display())]
    NoConfig {
        /// The file.
        path: PathBuf,
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
    /// Weights that are not floats of 16 or 32 bits.
    #[error("{}: tensor {name:?} is stored as {dtype:?}, expected F32, F16 or BF16", path.display())]
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
    /// PyTorch's: a pickle, zip archive or TorchScript, which may hold code.
    Pickle {
        /// The file.
        file: String,
    },
    /// A file of another kind.
    File {
        /// The file.
        file: String,
    },
    /// open_clip's names and configuration.
    OpenClip {
        /// Whether its vision tower is a ResNet.
        resnet: bool,
    },
    /// timm's.
    Timm {
        /// As its configuration says.
        architecture: String,
    },
    /// A CLIP text tower alone.
    TextTower,
    /// Another family of Hugging Face's transformers.
    Transformers {
        /// As its configuration says.
        model_type: String,
    },
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pickle { file } => write!(
                f,
                "{file} is a PyTorch pickle or archive, which is never unpickled; only safetensors weights are read"
            ),
            Self::File { file } => write!(f, "{file} is not a safetensors file"),
            Self::OpenClip { resnet: false } => f.write_str("an open_clip checkpoint"),
            Self::OpenClip { resnet: true } => {
                f.write_str("an open_clip checkpoint whose vision tower is a ResNet, not a ViT")
            }
            Self::Timm { architecture } => {
                write!(f, "a timm checkpoint (architecture {architecture:?})")
            }
            Self::TextTower => f.write_str("a CLIP text tower, which has no vision tower"),
            Self::Transformers { model_type } => {
                write!(
                    f,
                    "a Hugging Face checkpoint of model_type {model_type:?}, only CLIP is read"
                )
            }
        }
    }
}
