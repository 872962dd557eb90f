//! PyTorch's files: zip archives, TorchScript archives and the format before torch 1.6, read as named tensors and as nothing else.
//!
//! Invariant: nothing in the file is ever run. A pickle builds plain values by an allow-list of opcodes and globals, and objects of other classes are
//! parsed over without being built; every count is bounded before anything is allocated for it; storages stay where they lie in the file, and every tensor's view lies inside its storage.

mod error;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod globals;
mod legacy;
mod machine;
mod nodes;
mod tensors;
#[cfg(test)]
mod tests;
mod write;
mod zip;

use std::collections::HashMap;
use std::ops::Range;

use safetensors::Dtype;

pub use error::{TorchError, ZipError};
pub use write::{Part, write as write_torch};

use super::header::Entry;
use machine::{Parsed, StorageClaim};

/// Which of PyTorch's formats a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `torch.save` since 1.6.
    Zip,
    /// `torch.jit.save`.
    Script,
    /// `torch.save` before 1.6.
    Legacy,
}

/// The tensors of a file, and what was beside them.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) kind: Kind,
    /// Sorted by name.
    pub(super) entries: Vec<Entry>,
    /// The key of the root that holds the tensors, when they are not the root's own.
    pub(super) wrapped: Option<String>,
    /// Other keys of the root: an optimiser's state, an epoch.
    pub(super) besides: Vec<String>,
    /// The root's texts beside the tensors, by key.
    pub(super) texts: Vec<(String, String)>,
    /// The TorchScript class of the root.
    pub(super) class: Option<String>,
    /// Objects of unknown classes that were passed over.
    pub(super) passed: Vec<Passed>,
}

/// An object of a class that the reader does not know, which was parsed over without being built.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Passed {
    /// The key under which it lies: of the root, or a name among the tensors.
    pub key: String,
    /// Module and name of its class, as the pickle has them.
    pub class: String,
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = self.class.escape_debug();
        write!(f, "{:?}, an object of {class}", self.key)
    }
}

/// Where a storage's bytes lie.
type Places = HashMap<String, Range<usize>>;

const ZIP: &[u8] = b"PK\x03\x04";
/// A pickle of protocol 2 or later begins so.
const PICKLE: u8 = 0x80;

/// Whether a file begins as one of PyTorch's.
pub(super) fn is_torch(file: &[u8]) -> bool {
    file.starts_with(ZIP) || file.first() == Some(&PICKLE)
}

/// Reads the tensors' names, shapes and places.
pub(super) fn read(file: &[u8]) -> Result<Contents, TorchError> {
    if file.starts_with(ZIP) {
        return of_zip(file);
    }
    let legacy::File { parsed, places } = legacy::read(file)?;
    contents(Kind::Legacy, &parsed, &places, file.len())
}

fn of_zip(file: &[u8]) -> Result<Contents, TorchError> {
    let zip = zip::Zip::parse(file)?;
    let root = zip.root()?;
    let of_root = |name: &str| format!("{root}/{name}");
    if let Some(order) = zip.find(&of_root("byteorder"))
        && zip.stored(order)? != *b"little"
    {
        return Err(TorchError::BigEndian);
    }
    let script = zip.find(&of_root("constants.pkl")).is_some();
    let pickle = zip.find(&of_root("data.pkl")).ok_or(ZipError::NoPickle)?;
    let parsed = machine::run(zip.stored(pickle)?, 0, script)?;
    let mut places = Places::new();
    for claim in &parsed.storages {
        let key = &claim.key;
        let Some(entry) = zip.find(&of_root(&format!("data/{key}"))) else {
            return Err(TorchError::NoStorage { key: key.clone() });
        };
        let range = zip.range(entry)?;
        check_size(claim, range.len())?;
        places.insert(key.clone(), range);
    }
    let kind = if script { Kind::Script } else { Kind::Zip };
    contents(kind, &parsed, &places, file.len())
}

/// A storage is exactly as long as it says.
fn check_size(claim: &StorageClaim, held: usize) -> Result<(), TorchError> {
    if claim.bytes() == Some(held as u64) {
        return Ok(());
    }
    Err(TorchError::StorageSize {
        key: claim.key.clone(),
        elements: claim.elements,
        dtype: claim.dtype.unwrap_or(Dtype::U8),
        held,
    })
}

fn contents(
    kind: Kind,
    parsed: &Parsed<'_>,
    places: &Places,
    length: usize,
) -> Result<Contents, TorchError> {
    disjoint(places)?;
    let found = tensors::flatten(parsed)?;
    let mut entries = Vec::with_capacity(found.tensors.len());
    for (name, view) in found.tensors {
        let entry = tensors::place(name, &parsed.views[view as usize], parsed, places)?;
        entries.push(entry);
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(TorchError::Duplicate {
            name: pair[0].name.clone(),
        });
    }
    // Many views of one storage would otherwise make a small file a large model.
    let total: u128 = entries.iter().map(|entry| bytes_of(entry) as u128).sum();
    if total > length as u128 {
        return Err(TorchError::Total { total, length });
    }
    Ok(Contents {
        kind,
        entries,
        wrapped: found.wrapped,
        besides: found.besides,
        texts: found.texts,
        class: found.class,
        passed: found.passed,
    })
}

fn bytes_of(entry: &Entry) -> u64 {
    (entry.elements() as u64).saturating_mul(entry.dtype.bitsize() as u64) / 8
}

/// No byte belongs to two storages.
fn disjoint(places: &Places) -> Result<(), TorchError> {
    let mut sorted: Vec<(&String, &Range<usize>)> = places.iter().collect();
    sorted.sort_by_key(|(key, range)| (range.start, range.end, key.as_str()));
    let overlap = sorted
        .windows(2)
        .find(|pair| pair[0].1.end > pair[1].1.start);
    match overlap {
        None => Ok(()),
        Some(pair) => Err(TorchError::Overlap {
            first: pair[0].0.clone(),
            second: pair[1].0.clone(),
        }),
    }
}
