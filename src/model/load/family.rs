//! Which family and format a checkpoint is, from the names of its files and its configuration alone.
//!
//! Invariant: a family is told by what the checkpoint says, never guessed from tensors; what is not read is refused by its name.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::MAX_CONFIG;
use super::error::{Error, Format};
use super::fields::Fields;
use super::file::read_json;

/// Endings of PyTorch's files, all of them pickles inside.
const PICKLES: [&str; 7] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle", "jit"];
/// A folder with more entries is no checkpoint; the rest is not looked at.
const MAX_ENTRIES: usize = 4096;
/// Longest part of a foreign name that is repeated in a message.
const MAX_QUOTE: usize = 64;

/// A checkpoint that can be read.
pub(super) enum Found {
    /// Hugging Face's CLIP.
    HfClip {
        folder: PathBuf,
        config: Map<String, Value>,
    },
    /// The reference's tensors.
    Reference { file: PathBuf },
}

/// Looks at a file or folder.
pub(super) fn find(path: &Path) -> Result<Found, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_dir() {
        return of_file(path);
    }
    let config = path.join("config.json");
    if config.exists() {
        return of_config(path, &config);
    }
    let open_clip = path.join("open_clip_config.json");
    if open_clip.exists() {
        return Err(of_open_clip(path, &open_clip));
    }
    let files = list(path)?;
    if let Some(pickle) = files.iter().find(|file| is_pickle(file)) {
        return Err(unsupported(pickle, pickle_format(pickle)));
    }
    let safetensors: Vec<&PathBuf> = files.iter().filter(|file| is_safetensors(file)).collect();
    match safetensors.as_slice() {
        [] => Err(Error::NoWeights {
            path: path.to_owned(),
        }),
        [only] => Ok(Found::Reference {
            file: (*only).clone(),
        }),
        several => Err(Error::Ambiguous {
            path: path.to_owned(),
            files: several.len(),
        }),
    }
}

/// The error for a folder with a configuration but without safetensors.
pub(super) fn without_safetensors(folder: &Path) -> Error {
    let files = match list(folder) {
        Ok(files) => files,
        Err(error) => return error,
    };
    match files.iter().find(|file| is_pickle(file)) {
        Some(pickle) => unsupported(pickle, pickle_format(pickle)),
        None => Error::NoWeights {
            path: folder.to_owned(),
        },
    }
}

fn of_file(path: &Path) -> Result<Found, Error> {
    if is_safetensors(path) {
        return Ok(Found::Reference {
            file: path.to_owned(),
        });
    }
    let format = if is_pickle(path) {
        pickle_format(path)
    } else {
        Format::File { file: label(path) }
    };
    Err(unsupported(path, format))
}

fn of_config(folder: &Path, path: &Path) -> Result<Found, Error> {
    let config: Map<String, Value> = read_json(path, MAX_CONFIG)?;
    let fields = Fields(&config);
    let read = || Ok((fields.text("model_type")?, fields.text("architecture")?));
    let (model_type, architecture) = read().map_err(|source| Error::Config {
        path: path.to_owned(),
        source,
    })?;
    let format = match (model_type, architecture) {
        (Some("clip" | "clip_vision_model"), _) => {
            let folder = folder.to_owned();
            return Ok(Found::HfClip { folder, config });
        }
        (Some("clip_text_model"), _) => Format::TextTower,
        (Some(other), _) => Format::Transformers {
            model_type: quote(other),
        },
        (None, Some(architecture)) => Format::Timm {
            architecture: quote(architecture),
        },
        (None, None) => {
            return Err(Error::Config {
                path: path.to_owned(),
                source: crate::spec::Invalid::new(
                    "model_type",
                    "missing, so the family is unknown",
                ),
            });
        }
    };
    Err(unsupported(folder, format))
}

fn of_open_clip(folder: &Path, path: &Path) -> Error {
    let config: Value = match read_json(path, MAX_CONFIG) {
        Ok(config) => config,
        Err(error) => return error,
    };
    // open_clip gives a ResNet's blocks per stage as a list, a ViT's as one number.
    let resnet = config
        .pointer("/model_cfg/vision_cfg/layers")
        .is_some_and(Value::is_array);
    unsupported(folder, Format::OpenClip { resnet })
}

/// Files of a folder, sorted by name.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = fs::read_dir(folder)
        .map_err(io)?
        .take(MAX_ENTRIES)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io)?;
    files.sort();
    Ok(files)
}

fn is_pickle(path: &Path) -> bool {
    let end = path.extension().and_then(OsStr::to_str);
    end.is_some_and(|end| PICKLES.contains(&end))
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "safetensors")
}

fn pickle_format(path: &Path) -> Format {
    Format::Pickle { file: label(path) }
}

fn label(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    quote(&name.to_string_lossy())
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

fn unsupported(path: &Path, format: Format) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        format,
    }
}
