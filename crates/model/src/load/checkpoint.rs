//! All tensors of a checkpoint by name, whether they lie in one file or in several with an index.
//!
//! Invariant: every name belongs to exactly one file, and with an index that file is the one that the index names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::Error;
use super::file::{Archive, read_json};
use super::header::Entry;

/// Longest index that is read; a full CLIP ViT-bigG needs about 0.1 MiB.
const MAX_INDEX: u64 = 16 << 20;
/// Most shards of one checkpoint; each costs a mapping and a file descriptor while it is read.
const MAX_SHARDS: usize = 256;

/// What is wrong with the index of a sharded checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Nothing in it.
    #[error("the index names no tensor")]
    Empty,
    /// Too many files.
    #[error("the index names {shards} shards, at most {MAX_SHARDS} are allowed")]
    TooMany {
        /// Number of files.
        shards: usize,
    },
    /// A name that is more than a file's name.
    #[error(
        "the shard {shard:?} is not a plain .safetensors or .bin file name: shards may not leave the folder"
    )]
    Leaves {
        /// Name of the shard, as the index gives it.
        shard: String,
    },
    /// A file that is not there.
    #[error("the index names the shard {shard:?}, which is not there")]
    MissingShard {
        /// Name of the shard, as the index gives it.
        shard: String,
    },
    /// A tensor that is not where it should be.
    #[error("the index looks for tensor {name:?} in the shard {shard:?}, which lacks it")]
    NotInShard {
        /// Name of the tensor.
        name: String,
        /// Name of the shard.
        shard: String,
    },
    /// A tensor that the index does not know, or knows elsewhere.
    #[error("the shard {shard:?} has tensor {name:?}, which the index does not place there")]
    Unlisted {
        /// Name of the tensor.
        name: String,
        /// Name of the shard.
        shard: String,
    },
}

/// The mapped files of a checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<Archive>,
    /// File and entry of each name.
    places: BTreeMap<String, (usize, usize)>,
    /// Names of tensors beside the model: in a module of Lightning, and counters of averages.
    passed: Vec<String>,
}

/// What training loops put before all names: DistributedDataParallel and DeepSpeed, torch.compile, FSDP, Lightning's strategies, and the attribute that
/// most projects keep their model in.
const PREFIXES: [&str; 8] = [
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "model.",
    "net.",
    "network.",
    "backbone.",
];
/// What torch.compile, FSDP and checkpointed activations put into the middle of names, when they wrap a part of a model.
const INFIXES: [&str; 3] = [
    "._orig_mod.",
    "._fsdp_wrapped_module.",
    "._checkpoint_wrapped_module.",
];
/// Counters that averages of weights keep beside the model (`torch.optim.swa_utils`, timm).
const COUNTERS: [&str; 2] = ["n_averaged", "num_updates"];

/// A tensor's name without the wrappers of parts of a model.
fn without_infixes(name: &str) -> String {
    let mut name = name.to_owned();
    for infix in INFIXES {
        while name.contains(infix) {
            name = name.replace(infix, ".");
        }
    }
    name
}

/// A tensor's name without what training loops put before all names of a file, and into the middle of some.
pub fn without_wrappers(name: &str) -> String {
    let mut rest = name;
    while let Some(inner) = PREFIXES.into_iter().find_map(|own| rest.strip_prefix(own)) {
        rest = inner;
    }
    without_infixes(rest)
}

/// The key that Lightning writes into every checkpoint.
const LIGHTNING: &str = "pytorch-lightning_version";

/// Whether Lightning wrote a file; its module may hold tensors beside the model: a loss's weights, a metric's counts.
fn is_lightning(archive: &Archive) -> bool {
    let torch = archive.torch();
    torch.is_some_and(|torch| torch.besides.iter().any(|key| key == LIGHTNING))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// A checkpoint of one file.
    pub fn single(archive: Archive) -> Self {
        Self::new(vec![archive])
    }

    /// The checkpoint of an index; its shards lie beside it.
    ///
    /// # Errors
    /// When the index or a shard cannot be read, or they disagree.
    pub fn sharded(index: &Path) -> Result<Self, Error> {
        let Index { weight_map } = read_json(index, MAX_INDEX)?;
        let wrong = |source| Error::Index {
            path: index.to_owned(),
            source,
        };
        let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        if shards.is_empty() {
            return Err(wrong(IndexError::Empty));
        }
        if shards.len() > MAX_SHARDS {
            let shards = shards.len();
            return Err(wrong(IndexError::TooMany { shards }));
        }
        // All names are looked at before any file is opened.
        if let Some(shard) = shards.iter().find(|shard| !is_plain(shard)) {
            let shard = (*shard).to_owned();
            return Err(wrong(IndexError::Leaves { shard }));
        }
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut files = Vec::new();
        for shard in shards {
            let archive = open_shard(folder, shard).map_err(|problem| match problem {
                Shard::Missing(source) => wrong(source),
                Shard::Bad(error) => error,
            })?;
            files.push((shard, archive));
        }
        agree(&files, &weight_map).map_err(wrong)?;
        let files = files.into_iter().map(|(_, archive)| archive).collect();
        Ok(Self::new(files))
    }

    fn new(files: Vec<Archive>) -> Self {
        let entries = || {
            files.iter().enumerate().flat_map(|(file, archive)| {
                let own = archive.header().entries.iter().enumerate();
                own.map(move |(entry, tensor)| (file, entry, tensor.name.as_str()))
            })
        };
        let is_lightning = files.iter().any(is_lightning);
        let mut begin = String::new();
        // What the prefixes of training loops leave, the outermost first.
        while let Some(prefix) = PREFIXES.into_iter().find(|prefix| {
            let names = entries().filter(|(_, _, name)| !COUNTERS.contains(name));
            let mut rest = names.filter_map(|(_, _, name)| name.strip_prefix(&begin));
            match is_lightning && begin.is_empty() {
                true => rest.any(|name| name.starts_with(prefix)),
                false => rest.all(|name| name.starts_with(prefix)),
            }
        }) {
            if entries().all(|(_, _, name)| COUNTERS.contains(&name)) {
                break;
            }
            begin.push_str(prefix);
        }
        let mut places = BTreeMap::new();
        let mut passed = Vec::new();
        for (file, entry, name) in entries() {
            match name.strip_prefix(&begin) {
                Some(name) => drop(places.insert(name.to_owned(), (file, entry))),
                None => passed.push(name.to_owned()),
            }
        }
        let unwrapped: BTreeMap<_, _> = places
            .iter()
            .map(|(name, place)| (without_infixes(name), *place))
            .collect();
        // Two names that become one are no wrappers.
        if unwrapped.len() == places.len() {
            places = unwrapped;
        }
        Self {
            files,
            places,
            passed,
        }
    }

    /// Names of the tensors that are left aside: what a module of Lightning has beside its model, and counters of averages.
    pub fn passed(&self) -> &[String] {
        &self.passed
    }

    /// Its files.
    pub fn files(&self) -> &[Archive] {
        &self.files
    }

    /// Every tensor's name, sorted, without what training loops put before all names (`module.`, `_orig_mod.`, `model.` …) and into the middle of some.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// A tensor's values, row-major.
    ///
    /// # Errors
    /// When it is not there, is not of floats, or a value is not finite.
    pub(crate) fn values(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let (_, entry, _) = super::plan::find(self, name)?;
        let mut values = Vec::with_capacity(entry.elements());
        super::plan::append(self, name, &mut values)?;
        Ok((entry.shape.clone(), values))
    }

    /// A tensor and the file that has it.
    pub fn find(&self, name: &str) -> Option<(&Archive, &Entry)> {
        let &(file, entry) = self.places.get(name)?;
        let archive = &self.files[file];
        Some((archive, &archive.header().entries[entry]))
    }

    /// What stands for the whole checkpoint in messages: its only file, or the folder of its shards.
    pub fn path(&self) -> PathBuf {
        match self.files.as_slice() {
            [only] => only.path().to_owned(),
            several => several
                .first()
                .and_then(|archive| archive.path().parent())
                .map(Path::to_owned)
                .unwrap_or_default(),
        }
    }
}

/// One normal path component that ends in `.safetensors` or `.bin`.
fn is_plain(shard: &str) -> bool {
    let mut parts = Path::new(shard).components();
    let first = parts.next();
    matches!(first, Some(Component::Normal(name)) if name == shard)
        && parts.next().is_none()
        && [".safetensors", ".bin"]
            .iter()
            .any(|end| shard.ends_with(end))
        && !shard.contains(['\\', '\0'])
}

enum Shard {
    Missing(IndexError),
    Bad(Error),
}

fn open_shard(folder: &Path, shard: &str) -> Result<Archive, Shard> {
    match Archive::open(&folder.join(shard)) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let shard = shard.to_owned();
            Err(Shard::Missing(IndexError::MissingShard { shard }))
        }
        Err(error) => Err(Shard::Bad(error)),
        Ok(archive) => Ok(archive),
    }
}

/// Checks that every tensor is in the shard that the index names, and in no other.
fn agree(
    files: &[(&str, Archive)],
    weight_map: &BTreeMap<String, String>,
) -> Result<(), IndexError> {
    for (shard, archive) in files {
        let placed = weight_map.iter().filter(|(_, place)| place == shard);
        for (name, _) in placed {
            if archive.header().find(name).is_none() {
                return Err(IndexError::NotInShard {
                    name: name.clone(),
                    shard: (*shard).to_owned(),
                });
            }
        }
    }
    for (shard, archive) in files {
        for entry in &archive.header().entries {
            if weight_map.get(&entry.name).map(String::as_str) != Some(shard) {
                return Err(IndexError::Unlisted {
                    name: entry.name.clone(),
                    shard: (*shard).to_owned(),
                });
            }
        }
    }
    Ok(())
}
