//! The header of a safetensors file: read from untrusted bytes, and checked as a whole before any tensor is touched.
//!
//! Invariant: in a [`Header`] every tensor's range lies inside the file and is exactly as long as its shape and number format say; ranges neither
//! overlap nor leave gaps. Memory is bounded by a small multiple of the header's own bytes, whatever they claim.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Longest header that is read, in bytes. A full CLIP ViT-bigG needs about 0.2 MiB.
pub(super) const MAX_HEADER: u64 = 16 << 20;
/// Longest tensor name, in bytes.
pub(super) const MAX_NAME: usize = 512;
/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

const LENGTH: usize = 8;
const METADATA: &str = "__metadata__";

/// What is wrong with a header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// A file too short for the header's length.
    #[error("{bytes} bytes are too few for a safetensors header")]
    TooShort {
        /// Size of the file, in bytes.
        bytes: usize,
    },
    /// A header longer than the rest of the file.
    #[error("the header claims {claimed} bytes, but only {available} follow its length")]
    Truncated {
        /// Length of the header by the file's first eight bytes.
        claimed: u64,
        /// Bytes that the file has.
        available: u64,
    },
    /// A header longer than any sensible one.
    #[error("the header claims {claimed} bytes, at most {MAX_HEADER} are allowed")]
    TooLong {
        /// Length of the header by the file's first eight bytes.
        claimed: u64,
    },
    /// A header that is not the JSON that the format requires.
    #[error("the header is not safetensors JSON: {source}")]
    Json {
        /// Position and cause.
        #[source]
        source: serde_json::Error,
    },
    /// A tensor name that appears twice.
    #[error("tensor {name:?} is there twice")]
    Duplicate {
        /// The duplicate name.
        name: String,
    },
    /// A tensor name that is too long.
    #[error("a tensor name of {bytes} bytes, at most {MAX_NAME} are allowed")]
    LongName {
        /// Length of the name, in bytes.
        bytes: usize,
    },
    /// A number format that safetensors does not have.
    #[error("tensor {name:?} has the unknown dtype {dtype:?}")]
    Dtype {
        /// Name of the tensor.
        name: String,
        /// Number format as written.
        dtype: String,
    },
    /// A tensor with too many dimensions.
    #[error("tensor {name:?} has {rank} dimensions, at most {MAX_RANK} are allowed")]
    Rank {
        /// Name of the tensor.
        name: String,
        /// Number of dimensions.
        rank: usize,
    },
    /// A product of dimensions beyond 64 bits.
    #[error("tensor {name:?}: the size of shape {shape:?} overflows")]
    Overflow {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<u64>,
    },
    /// A tensor whose bytes lie outside the file.
    #[error(
        "tensor {name:?} lies at bytes {begin} to {end} of the data, which ends at {available}"
    )]
    Range {
        /// Name of the tensor.
        name: String,
        /// First byte of the tensor.
        begin: u64,
        /// One past the last byte of the tensor.
        end: u64,
        /// Size of the data, in bytes.
        available: u64,
    },
    /// A byte range that does not match the shape.
    #[error(
        "tensor {name:?} of shape {shape:?} needs {expected} bytes, its data_offsets span {got}"
    )]
    Length {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<u64>,
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes by offsets.
        got: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// Name of the tensor that begins first.
        first: String,
        /// Name of the other tensor.
        second: String,
    },
    /// Bytes that belong to no tensor.
    #[error("{bytes} bytes of the data at {at} belong to no tensor")]
    Gap {
        /// Offset where they begin.
        at: u64,
        /// Number of bytes.
        bytes: u64,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the tensor.
    pub name: String,
    /// Number format of the tensor.
    pub dtype: Dtype,
    /// Shape of the tensor; the product fits a `usize`.
    pub shape: Vec<usize>,
    /// Byte range of the tensor, counted from the beginning of the file.
    pub range: Range<usize>,
    /// Elements from one index to the next along each axis, where the tensor is not row-major; only PyTorch's files have such tensors.
    pub strides: Option<Vec<usize>>,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// All tensors, sorted by name.
    pub entries: Vec<Entry>,
    /// Free text that the file carries, by key.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads the header of a whole file's bytes.
    ///
    /// # Errors
    /// When anything breaks the format or exceeds the limits of this module; the tensor is named.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let (json, data) = split(file)?;
        let raw: RawHeader =
            serde_json::from_slice(&file[json]).map_err(|source| HeaderError::Json { source })?;
        let available = (file.len() - data) as u64;
        let mut entries = raw
            .tensors
            .into_iter()
            .map(|(name, raw)| check(name, raw, data, available))
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(HeaderError::Duplicate {
                name: pair[0].name.clone(),
            });
        }
        tile(&entries, data, file.len())?;
        Ok(Self {
            entries,
            metadata: raw.metadata,
        })
    }

    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
            .ok()
            .map(|at| &self.entries[at])
    }
}

/// The range of the JSON, and the offset where the data begins.
fn split(file: &[u8]) -> Result<(Range<usize>, usize), HeaderError> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(HeaderError::TooShort { bytes: file.len() });
    };
    let claimed = u64::from_le_bytes(*length);
    let available = rest.len() as u64;
    if claimed > available {
        return Err(HeaderError::Truncated { claimed, available });
    }
    if claimed > MAX_HEADER {
        return Err(HeaderError::TooLong { claimed });
    }
    // `claimed` is at most 16 MiB here.
    let data = LENGTH + claimed as usize;
    Ok((LENGTH..data, data))
}

fn check(name: String, raw: RawEntry, data: usize, available: u64) -> Result<Entry, HeaderError> {
    if name.len() > MAX_NAME {
        return Err(HeaderError::LongName { bytes: name.len() });
    }
    let dtype = Dtype::deserialize(StrDeserializer::<ValueError>::new(&raw.dtype));
    let Ok(dtype) = dtype else {
        let dtype = raw.dtype.chars().take(32).collect();
        return Err(HeaderError::Dtype { name, dtype });
    };
    if raw.shape.len() > MAX_RANK {
        let rank = raw.shape.len();
        return Err(HeaderError::Rank { name, rank });
    }
    let Some((shape, expected)) = size(&raw.shape, dtype) else {
        let shape = raw.shape;
        return Err(HeaderError::Overflow { name, shape });
    };
    let [begin, end] = raw.data_offsets;
    if begin > end || end > available {
        return Err(HeaderError::Range {
            name,
            begin,
            end,
            available,
        });
    }
    if end - begin != expected {
        return Err(HeaderError::Length {
            name,
            shape: raw.shape,
            expected,
            got: end - begin,
        });
    }
    // Both are at most `available`, which is the length of a slice.
    let range = data + begin as usize..data + end as usize;
    Ok(Entry {
        name,
        dtype,
        shape,
        range,
        strides: None,
    })
}

/// The shape as `usize`s, and its size in bytes; `None` when either does not fit.
fn size(shape: &[u64], dtype: Dtype) -> Option<(Vec<usize>, u64)> {
    // A zero must not hide an overflow of the other dimensions: their product is formed as well, so that `elements` can multiply in any order.
    let nonzero = shape.iter().filter(|&&side| side != 0);
    nonzero
        .copied()
        .try_fold(1_u64, |product, side| product.checked_mul(side))?;
    let elements = shape.iter().product::<u64>();
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    let shape = shape
        .iter()
        .map(|&side| usize::try_from(side).ok())
        .collect::<Option<Vec<_>>>()?;
    Some((shape, bits.div_ceil(8)))
}

/// Checks that the ranges cover the data from its beginning to the end of the file, each byte once.
fn tile(entries: &[Entry], data: usize, end: usize) -> Result<(), HeaderError> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let gap = |from: usize, to: usize| HeaderError::Gap {
        at: (from - data) as u64,
        bytes: (to - from) as u64,
    };
    let mut covered = data;
    for (i, entry) in entries.iter().enumerate() {
        if entry.range.start < covered {
            return Err(HeaderError::Overlap {
                first: entries[i.saturating_sub(1)].name.clone(),
                second: entry.name.clone(),
            });
        }
        if entry.range.start > covered {
            return Err(gap(covered, entry.range.start));
        }
        covered = entry.range.end;
    }
    if covered < end {
        return Err(gap(covered, end));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A list, not a map, so that a duplicate name is seen.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                header.metadata = map.next_value()?;
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}
