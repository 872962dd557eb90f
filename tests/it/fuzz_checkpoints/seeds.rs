//! The checkpoints that are mutated: the small golden ones of every layout, including invalid ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use frameshift::model::load::Error;
use serde_json::Value;

use super::{Dice, json, pickles, zips};
use crate::shared;

/// Largest checkpoint that is used; a larger one costs more time without testing more.
const MOST_BYTES: u64 = 400 << 10;

/// A checkpoint's folder, with its files in memory.
pub(super) struct Seed {
    pub(super) name: String,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) overrides: String,
}

/// Returns all small checkpoints.
pub(super) fn all() -> Vec<Seed> {
    let root = shared::root().join("golden/backbones");
    let mut folders = folders(&root);
    folders.extend(self::folders(&root.join("bad")));
    folders.iter().filter_map(|folder| seed(folder)).collect()
}

fn folders(root: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(root).expect("the golden backbones are readable");
    let mut folders: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir() && !path.ends_with("bad"))
        .collect();
    folders.sort();
    folders
}

fn seed(folder: &Path) -> Option<Seed> {
    let mut files = BTreeMap::new();
    let mut said = String::new();
    for entry in fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        let content = fs::read(&path).ok()?;
        if name == "case.json" {
            let case: Value = serde_json::from_slice(&content).ok()?;
            let from = case["activation_from"].as_str().unwrap_or_default();
            if from.contains("must say") {
                said = format!("activation={}", case["activation"].as_str()?);
            }
        } else if name != "expected.safetensors" && !name.starts_with("adapter_") {
            files.insert(name, content);
        }
    }
    let total: usize = files.values().map(Vec::len).sum();
    let name = folder.file_name()?.to_str()?.to_owned();
    (total as u64 <= MOST_BYTES && !files.is_empty()).then_some(Seed {
        name,
        files,
        overrides: said,
    })
}

impl Seed {
    /// Returns a copy of one file, mutated.
    pub(super) fn change(&self, dice: &mut Dice) -> (String, Vec<u8>) {
        let names: Vec<&String> = self.files.keys().collect();
        let name = (*dice.pick(&names)).clone();
        let mut content = self.files[&name].clone();
        for _ in 0..=dice.below(3) {
            content = match () {
                () if name.ends_with(".json") => json::change(&content, dice),
                () if content.starts_with(b"PK") => match dice.below(3) {
                    0 => zips::change(content, dice),
                    _ => zips::change_pickle(&content, dice),
                },
                () if name.ends_with(".safetensors") => header(content, dice),
                () => pickles::change(&content, dice),
            };
        }
        if dice.below(8) == 0 {
            content.truncate(dice.below(content.len()));
        }
        (name, content)
    }
}

/// Replaces the JSON of a safetensors header, with its correct length or a wrong one.
fn header(content: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    let Some((length, rest)) = content.split_first_chunk::<8>() else {
        return content;
    };
    let length = u64::from_le_bytes(*length) as usize;
    if dice.below(12) == 0 || length > rest.len() {
        let mut content = content;
        content[..8].copy_from_slice(&dice.number().to_le_bytes());
        return content;
    }
    let changed = json::change(&rest[..length], dice);
    let mut out = (changed.len() as u64).to_le_bytes().to_vec();
    out.extend(changed);
    out.extend(&rest[length..]);
    // Sometimes a number of the data becomes NaN or infinite.
    if dice.below(4) == 0 && out.len() > 8 {
        let at = dice.below(out.len() - 4);
        out[at..at + 4].copy_from_slice(&0x7fc0_0000_u32.to_le_bytes());
    }
    out
}

/// Returns the category of a refusal.
pub(super) fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } | Error::NotAFile { .. } | Error::TooLarge { .. } => "file",
        Error::Json { .. } => "json",
        Error::Config { .. } | Error::Override { .. } => "configuration",
        Error::Header { .. } => "header",
        Error::Torch { .. } => "torch",
        Error::Index { .. } => "index",
        Error::NoWeights { .. } | Error::Ambiguous { .. } | Error::NoConfig { .. } => "incomplete",
        Error::Undecided { .. } => "undecided",
        Error::Unsupported { .. } => "unsupported",
        Error::Missing { .. } | Error::Extra { .. } | Error::Shape { .. } => "tensors",
        Error::Dtype { .. } | Error::NonFinite { .. } => "values",
        Error::Model(_) => "model",
    }
}
