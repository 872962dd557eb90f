//! The header of a safetensors file: read from untrusted bytes, and checked wholly before any tensor is touched.
//!
//! Invariant: in a [`Header`] every tensor's range lies inside the file and is exactly as long as its shape and number format say; ranges neither
//! overlap nor leave gaps. Memory is bounded by a small multiple of the header's own bytes, whatever they claim.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Longest header that is read. A full CLIP ViT-bigG needs about 0.2 MiB.
pub(super) const MAX_HEADER: u64 = 16 << 20;
/// Longest tensor name.
pub(super) const MAX_NAME: usize = 512;
/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

const LENGTH: usize = 8;
const METADATA: &str = "__metadata__";

/// What is wrong with a header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not even the length is there.
    #[error("{bytes} bytes are too few for a safetensors header")]
    TooShort {
        /// Size of the file.
        bytes: usize,
    },
    /// Longer than the rest of the file.
    #[error("the header claims {claimed} bytes, but only {available} follow its length")]
    Truncated {
        /// As the first eight bytes say.
        claimed: u64,
        /// What the file has.
        available: u64,
    },
    /// Longer than any sensible one.
    #[error("the header claims {claimed} bytes, at most {MAX_HEADER} are allowed")]
    TooLong {
        /// As the first eight bytes say.
        claimed: u64,
    },
    /// Not the JSON that the format asks for.
    #[error("the header is not safetensors JSON: {source}")]
    Json {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A name twice.
    #[error("tensor {name:?} is there twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name that nobody could print.
    #[error("a tensor name of {bytes} bytes, at most {MAX_NAME} are allowed")]
    LongName {
        /// Its length.
        bytes: usize,
    },
    /// A number format that the format does not have.
    #[error("tensor {name:?} has the unknown dtype {dtype:?}")]
    Dtype {
        /// The tensor.
        name: String,
        /// As written.
        dtype: String,
    },
    /// Too many dimensions.
    #[error("tensor {name:?} has {rank} dimensions, at most {MAX_RANK} are allowed")]
    Rank {
        /// The tensor.
        name: String,
        /// How many.
        rank: usize,
    },
    /// A product of dimensions beyond 64 bits.
    #[error("tensor {name:?}: the size of shape {shape:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Outside of the file.
    #[error(
        "tensor {name:?} lies at bytes {begin} to {end} of the data, which ends at {available}"
    )]
    Range {
        /// The tensor.
        name: String,
        /// First byte.
        begin: u64,
        /// One past the last.
        end: u64,
        /// Size of the data.
        available: u64,
    },
    /// A range that the shape does not fill.
    #[error(
        "tensor {name:?} of shape {shape:?} needs {expected} bytes, its data_offsets span {got}"
    )]
    Length {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// By shape and dtype.
        expected: u64,
        /// By offsets.
        got: u64,
    },
    /// Two tensors on the same bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// Bytes that belong to nobody.
    #[error("{bytes} bytes of the data at {at} belong to no tensor")]
    Gap {
        /// Where they begin.
        at: u64,
        /// How many.
        bytes: u64,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its number format.
    pub dtype: Dtype,
    /// Its shape; the product fits a `usize`.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<usize>,
    /// Elements from one index to the next along each axis, where it is not row-major; only PyTorch's files have such.
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
    /// The free text that the file carries.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads the header of a whole file's bytes.
    ///
    /// # Errors
    /// When anything is not as the format asks, or exceeds the limits of this module; the tensor is named.
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

    /// The tensor of a name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
            .ok()
            .map(|at| &self.entries[at])
    }
}

/// Where the JSON lies, and where the data begins.
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

/// The shape as the machine counts, and its bytes; `None` when either does not fit.
fn size(shape: &[u64], dtype: Dtype) -> Option<(Vec<usize>, u64)> {
    // A zero must not hide an overflow of the other dimensions: their product is formed too, so that `elements` can multiply in any order.
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

/// A list, not a map, so that a name that is there twice is seen.
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
