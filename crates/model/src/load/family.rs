//! Which family a checkpoint belongs to: from its configuration, or from its tensors' names.
//!
//! Invariant: what is not supported is refused by name; file name endings decide nothing about a file's content.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::checkpoint::Checkpoint;
use super::decide::Overrides;
use super::error::{Error, Format};
use super::fields::Fields;
use super::file::{Archive, read_json};
use super::plan::Plan;
use super::{MAX_CONFIG, hf_clip, hf_vit, measure, naming, open_clip, openai, reference, timm};

/// File name endings of files that may hold weights.
const WEIGHTS: [&str; 8] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "pkl",
    "pickle",
    "jit",
];
/// Most entries of a folder that are looked at; a folder with more is not a checkpoint.
const MAX_ENTRIES: usize = 4096;
/// Most files of weights in a folder; with more, the operator has to name one.
const MAX_CANDIDATES: usize = 16;
/// Longest part of a foreign name that is repeated in a message.
const MAX_QUOTE: usize = 64;

/// Examines a file or folder.
pub(super) fn plan(path: &Path, overrides: &Overrides) -> Result<Plan, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_dir() {
        return of_file(path, path, overrides);
    }
    if let Some(plan) = of_folder(path, path, overrides)? {
        return Ok(plan);
    }
    let files = list(path)?;
    match files.as_slice() {
        [] => Err(Error::NoWeights {
            path: path.to_owned(),
        }),
        [only] => of_file(path, only, overrides),
        several => among(path, several, overrides),
    }
}

/// The only backbone among the files of a folder without a configuration; files that are clearly not a backbone may lie beside it.
fn among(path: &Path, files: &[PathBuf], overrides: &Overrides) -> Result<Plan, Error> {
    let ambiguous = |files| {
        Err(Error::Ambiguous {
            path: path.to_owned(),
            files,
        })
    };
    if files.len() > MAX_CANDIDATES {
        return ambiguous(files.len());
    }
    let mut candidates = files
        .iter()
        .map(|file| of_file(path, file, overrides))
        .filter(|result| {
            let Err(Error::Unsupported { format, .. }) = result else {
                return true;
            };
            !matches!(format, Format::Unknown { .. } | Format::AdaptersOnly)
        })
        .collect::<Vec<_>>();
    match (candidates.pop(), candidates.len()) {
        (Some(only), 0) => only,
        (Some(_), others) => ambiguous(others + 1),
        (None, _) => ambiguous(files.len()),
    }
}

/// The plan by the folder's configuration, when it has one.
fn of_folder(path: &Path, folder: &Path, overrides: &Overrides) -> Result<Option<Plan>, Error> {
    let config = folder.join("config.json");
    let open_clip = folder.join("open_clip_config.json");
    // LAION's repositories hold the same model twice; where transformers' weights are missing, open_clip's are used.
    if open_clip.exists() && (!config.exists() || super::hf_weights(folder).is_err()) {
        let config: Map<String, Value> = read_json(&open_clip, MAX_CONFIG)?;
        return open_clip::plan(path, folder, Fields(&config), overrides).map(Some);
    }
    if config.exists() {
        return of_config(path, folder, &config, overrides).map(Some);
    }
    Ok(None)
}

fn of_config(
    path: &Path,
    folder: &Path,
    config: &Path,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let object: Map<String, Value> = read_json(config, MAX_CONFIG)?;
    let fields = Fields(&object);
    let wrong = |source| Error::Config {
        path: config.to_owned(),
        source,
    };
    let model_type = fields.text("model_type").map_err(wrong)?;
    let architecture = fields.text("architecture").map_err(wrong)?;
    let format = match (model_type, architecture) {
        (Some("clip" | "clip_vision_model"), _) => {
            return hf_clip::plan(path, folder, fields, overrides);
        }
        (Some("vit"), _) => return hf_vit::plan(path, folder, fields, overrides),
        (Some("clip_text_model"), _) => Format::TextTower,
        (Some(other), _) => Format::Transformers {
            model_type: quote(other),
        },
        (None, Some(_)) => return timm::plan(path, folder, fields, overrides),
        (None, None) => {
            let problem = "missing, so the family is unknown";
            return Err(wrong(crate::spec::Invalid::new("model_type", problem)));
        }
    };
    Err(unsupported(folder, format))
}

/// The plan of a file: with the configuration beside it when the two belong together, else by its tensors' names. `path` is what was requested.
fn of_file(path: &Path, file: &Path, overrides: &Overrides) -> Result<Plan, Error> {
    let archive = Archive::open(file)?;
    if reference::is_own(&archive) {
        return reference::plan(path, archive, overrides);
    }
    let checkpoint = Checkpoint::single(archive);
    let has = |name: &str| checkpoint.find(name).is_some();
    let begins = |begin: &str| checkpoint.names().any(|name| name.starts_with(begin));
    if path == file
        && configured(file)
        && let Some(folder) = file.parent()
    {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        if let Some(plan) = of_folder(path, folder, overrides)? {
            return Ok(plan);
        }
    }
    let no_config = |found| Error::NoConfig {
        path: file.to_owned(),
        found,
    };
    if begins("vision_model.") || begins("embeddings.patch_embedding.") {
        return Err(no_config("the tensors of a Hugging Face CLIP"));
    }
    if begins("vit.embeddings.") || begins("embeddings.patch_embeddings.") {
        return Err(no_config("the tensors of a Hugging Face ViT"));
    }
    if begins("visual.") {
        measure::refuse_foreign(&checkpoint, "visual.")?;
        if openai::is_own(&checkpoint) {
            return openai::plan(path, checkpoint, overrides);
        }
        return open_clip::bare(path, checkpoint, "visual.", overrides);
    }
    if begins("patch_embed.") || begins("blocks.0.") {
        return timm::bare(path, checkpoint, overrides);
    }
    if begins("text_model.") || has("token_embedding.weight") {
        return Err(unsupported(file, Format::TextTower));
    }
    measure::refuse_foreign(&checkpoint, "")?;
    let own = |name: &str| naming::is_adapter(name) || naming::is_head(name);
    let adapters = has("fc.weight") || checkpoint.names().any(own);
    if has("conv1.weight") && has("class_embedding") {
        return match adapters {
            true => reference::whole(path, checkpoint, overrides),
            false => open_clip::bare(path, checkpoint, "", overrides),
        };
    }
    if adapters
        && checkpoint
            .names()
            .all(|name| own(name) || name.starts_with("fc."))
    {
        return Err(unsupported(file, Format::AdaptersOnly));
    }
    let names = checkpoint.names().take(3).map(quote).collect();
    Err(unsupported(file, Format::Unknown { names }))
}

/// Whether the configuration beside a file is for that file.
fn configured(file: &Path) -> bool {
    const NAMES: [&str; 4] = [
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ];
    file.file_name()
        .is_some_and(|name| NAMES.iter().any(|own| name == *own))
}

/// Files of a folder that may hold weights, sorted by name.
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
    files.retain(|file| {
        let end = file.extension().and_then(std::ffi::OsStr::to_str);
        end.is_some_and(|end| WEIGHTS.contains(&end))
    });
    files.sort();
    Ok(files)
}

/// A file's name, for messages.
pub(super) fn label(path: &Path) -> String {
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
