//! The directory of a zip archive, as far as torch's archives need it: stored entries, in place.
//!
//! Invariant: nothing is unpacked. Sizes come from the central directory only, since torch leaves them out of the local headers; every range that is
//! handed out lies inside the file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ZipError;

/// Most entries; a full open_clip trainer's checkpoint of a ViT-bigG has about 6,000.
pub(super) const MAX_ENTRIES: u64 = 1 << 17;
/// Longest directory of an archive, in bytes.
pub(super) const MAX_DIRECTORY: u64 = 32 << 20;
/// Longest name of an entry, in bytes.
pub(super) const MAX_PATH: usize = 512;

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64_LOCATOR_BYTES: usize = 20;
const END64: &[u8] = b"PK\x06\x06";
const RECORD: &[u8] = b"PK\x01\x02";
const RECORD_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
/// Id of the extra field with sizes beyond 32 bits.
const ZIP64_EXTRA: u16 = 1;

/// An archive and its directory.
pub(super) struct Zip<'a> {
    file: &'a [u8],
    entries: BTreeMap<&'a str, Entry<'a>>,
}

/// A record of the directory.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    name: &'a str,
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    local: u64,
}

impl<'a> Zip<'a> {
    /// Reads the directory.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, ZipError> {
        let (count, directory) = directory(file)?;
        let mut rest = &file[directory];
        let mut entries = BTreeMap::new();
        for index in 0..count as usize {
            let (entry, after) = record(rest, index)?;
            rest = after;
            if entries.insert(entry.name, entry).is_some() {
                return Err(ZipError::Duplicate {
                    name: entry.name.to_owned(),
                });
            }
        }
        Ok(Self { file, entries })
    }

    /// The folder that all of torch's entries lie in: where the only data.pkl is.
    pub(super) fn root(&self) -> Result<&'a str, ZipError> {
        let mut roots = self.entries.keys().filter_map(|name| {
            let root = name.strip_suffix("/data.pkl")?;
            (!root.is_empty() && !root.contains('/')).then_some(root)
        });
        let first = roots.next().ok_or(ZipError::NoPickle)?;
        match roots.count() {
            0 => Ok(first),
            more => Err(ZipError::Pickles { count: 1 + more }),
        }
    }

    /// Of all entries.
    #[cfg(any(fuzzing, test))]
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    pub(super) fn find(&self, name: &str) -> Option<Entry<'a>> {
        self.entries.get(name).copied()
    }

    /// An entry's bytes.
    pub(super) fn stored(&self, entry: Entry<'_>) -> Result<&'a [u8], ZipError> {
        Ok(&self.file[self.range(entry)?])
    }

    /// Where an entry's bytes lie.
    pub(super) fn range(&self, entry: Entry<'_>) -> Result<Range<usize>, ZipError> {
        let name = || entry.name.to_owned();
        let not_stored = |how| ZipError::NotStored { name: name(), how };
        if entry.flags & 1 != 0 {
            return Err(not_stored("encrypted"));
        }
        match entry.method {
            0 if entry.packed == entry.size => {}
            8 => return Err(not_stored("deflated")),
            _ => return Err(not_stored("compressed")),
        }
        let outside = || ZipError::Range { name: name() };
        let local = usize::try_from(entry.local).map_err(|_| outside())?;
        let header = self
            .file
            .get(local..)
            .and_then(|rest| rest.get(..LOCAL_BYTES))
            .filter(|header| header.starts_with(LOCAL))
            .ok_or_else(outside)?;
        let begin =
            local + LOCAL_BYTES + usize::from(u16_at(header, 26)) + usize::from(u16_at(header, 28));
        let end = usize::try_from(entry.size)
            .ok()
            .and_then(|size| begin.checked_add(size))
            .filter(|&end| end <= self.file.len())
            .ok_or_else(outside)?;
        Ok(begin..end)
    }
}

/// How many records the directory has, and where it lies.
fn directory(file: &[u8]) -> Result<(u64, Range<usize>), ZipError> {
    let end = end(file).ok_or(ZipError::NoEnd)?;
    let record = &file[end..];
    let mut count = u64::from(u16_at(record, 10));
    let mut bytes = u64::from(u32_at(record, 12));
    let mut begin = u64::from(u32_at(record, 16));
    if let Some(large) = end64(file, end) {
        count = u64_at(large, 32);
        bytes = u64_at(large, 40);
        begin = u64_at(large, 48);
    }
    if count > MAX_ENTRIES || bytes > MAX_DIRECTORY {
        let entries = count;
        return Err(ZipError::TooLarge { entries, bytes });
    }
    let range = usize::try_from(begin)
        .ok()
        .and_then(|begin| Some(begin..begin.checked_add(bytes as usize)?))
        .filter(|range| range.end <= end);
    Ok((count, range.ok_or(ZipError::Directory)?))
}

/// Where the end record begins: the last one whose comment ends with the file.
fn end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        file[at..].starts_with(END)
            && at + END_BYTES + usize::from(u16_at(&file[at..], 20)) == file.len()
    })
}

/// The end record for archives beyond 4 GiB, which torch always writes.
fn end64(file: &[u8], end: usize) -> Option<&[u8]> {
    let locator = &file[end.checked_sub(END64_LOCATOR_BYTES)?..end];
    if !locator.starts_with(END64_LOCATOR) {
        return None;
    }
    let at = usize::try_from(u64_at(locator, 8)).ok()?;
    let record = file.get(at..)?.get(..56)?;
    record.starts_with(END64).then_some(record)
}

/// The first record, and what follows it.
fn record(bytes: &[u8], index: usize) -> Result<(Entry<'_>, &[u8]), ZipError> {
    let malformed = || ZipError::Record { index };
    let (fixed, rest) = bytes
        .split_at_checked(RECORD_BYTES)
        .filter(|(fixed, _)| fixed.starts_with(RECORD))
        .ok_or_else(malformed)?;
    let length = |at| usize::from(u16_at(fixed, at));
    let (name, rest) = rest.split_at_checked(length(28)).ok_or_else(malformed)?;
    let (extra, rest) = rest.split_at_checked(length(30)).ok_or_else(malformed)?;
    let (_comment, rest) = rest.split_at_checked(length(32)).ok_or_else(malformed)?;
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| name.len() <= MAX_PATH)
        .ok_or(ZipError::Path { index })?;
    let mut large = zip64(extra);
    // A field that is full says that its value is in the extra field; these come in this order.
    let mut wide = |at| match u32_at(fixed, at) {
        u32::MAX => large.next().ok_or_else(malformed),
        small => Ok(u64::from(small)),
    };
    let size = wide(24)?;
    let packed = wide(20)?;
    let local = wide(42)?;
    let entry = Entry {
        name,
        flags: u16_at(fixed, 8),
        method: u16_at(fixed, 10),
        packed,
        size,
        local,
    };
    Ok((entry, rest))
}

/// The numbers of the extra field for large entries.
fn zip64(mut extra: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut found: &[u8] = &[];
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let Some((field, after)) = rest.split_at_checked(usize::from(u16_at(head, 2))) else {
            break;
        };
        if u16_at(head, 0) == ZIP64_EXTRA {
            found = field;
            break;
        }
        extra = after;
    }
    found
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

/// A number at a place that the caller knows to be there; 0 outside.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
