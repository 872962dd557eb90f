//! torch.save's format before torch 1.6: a magic number, a protocol, the machine's sizes, the pickle, the keys of its storages, then their bytes.
//!
//! Invariant: as in an archive, a storage is mapped and exactly as long as the pickle says.

use std::collections::HashMap;

use super::machine::{self, Parsed};
use super::nodes::Node;
use super::{Places, TorchError, check_size};

/// 0x1950a86a20f9469cfc6c as a pickle: protocol 2, a long of ten bytes, stop.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;
/// Before each storage: its number of elements.
const COUNT: usize = 8;

/// The pickle, and where its storages lie.
pub(super) struct File<'a> {
    pub(super) parsed: Parsed<'a>,
    pub(super) places: Places,
}

pub(super) fn read(file: &[u8]) -> Result<File<'_>, TorchError> {
    if !file.starts_with(MAGIC) {
        // A bare pickle. It is read all the same, so that what it asks for is named.
        machine::run(file, 0, false)?;
        return Err(TorchError::NotTorch {
            problem: "torch's magic number is missing",
        });
    }
    let protocol = machine::run(file, MAGIC.len(), false)?;
    if !matches!(protocol.nodes.get(protocol.root), Node::Int(PROTOCOL)) {
        return Err(TorchError::NotTorch {
            problem: "its protocol is not 1001",
        });
    }
    // The sizes of C's types do not matter; a big-endian writer is not told by them, but has not been seen either.
    let sizes = machine::run(file, protocol.end, false)?;
    let parsed = machine::run(file, sizes.end, false)?;
    let keys = machine::run(file, parsed.end, false)?;
    let places = places(file, &parsed, &keys)?;
    Ok(File { parsed, places })
}

fn places(file: &[u8], parsed: &Parsed<'_>, keys: &Parsed<'_>) -> Result<Places, TorchError> {
    let Node::List(ids) = keys.nodes.get(keys.root) else {
        return Err(TorchError::NotTorch {
            problem: "the list of its storages is missing",
        });
    };
    let claims: HashMap<&str, _> = parsed
        .storages
        .iter()
        .map(|claim| (claim.key.as_str(), claim))
        .collect();
    let mut places = Places::new();
    let mut at = keys.end;
    for &id in ids {
        let &Node::Text(key) = keys.nodes.get(id) else {
            return Err(TorchError::NotTorch {
                problem: "a storage's key is no text",
            });
        };
        let missing = || TorchError::NoStorage {
            key: key.chars().take(64).collect(),
        };
        let claim = claims.get(key).ok_or_else(missing)?;
        let rest = file.get(at..).unwrap_or_default();
        let (count, data) = rest.split_first_chunk::<COUNT>().ok_or_else(missing)?;
        let bytes = claim.bytes().and_then(|bytes| usize::try_from(bytes).ok());
        let same = u64::from_le_bytes(*count) == claim.elements;
        match bytes {
            Some(bytes) if same && bytes <= data.len() => {
                places.insert(key.to_owned(), at + COUNT..at + COUNT + bytes);
                at += COUNT + bytes;
            }
            _ => check_size(claim, data.len()).and(Err(missing()))?,
        }
    }
    // Other claims of one key have to be of the same size.
    for claim in &parsed.storages {
        let held = places.get(&claim.key).map_or(0, |range| range.len());
        check_size(claim, held)?;
    }
    Ok(places)
}
