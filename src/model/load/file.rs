//! A checkpoint's file on disk or in the program: opened without surprises, mapped, its header checked.
//!
//! Invariant: only regular files are opened (never a pipe or device, which could block or never end), and nothing is read into memory beyond a limit.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::Error;
use super::header::{Entry, Header};

/// A safetensors file with a checked header.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Empty,
}

impl Archive {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file, or its header is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, length) = regular(path)?;
        let bytes = if length == 0 {
            Bytes::Empty
        } else {
            // SAFETY: the mapping is private and read-only, and lives only while the checkpoint is being read. A checkpoint that somebody truncates
            // during that time ends the process with SIGBUS; like every loader of mapped weights, this one asks that the operator leaves it alone.
            let mapped = unsafe { Mmap::map(&file) };
            Bytes::Mapped(mapped.map_err(|source| Error::Io {
                path: path.to_owned(),
                source,
            })?)
        };
        Self::new(path.to_owned(), bytes)
    }

    /// A file that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// When its header is refused.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, Error> {
        Self::new(PathBuf::from(name), Bytes::Static(bytes))
    }

    /// A file that lies in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// When its header is refused.
    pub fn in_memory(name: &str, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(PathBuf::from(name), Bytes::Owned(bytes))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self, Error> {
        match Header::parse(bytes.as_slice()) {
            Ok(header) => Ok(Self {
                path,
                bytes,
                header,
            }),
            Err(source) => Err(Error::Header { path, source }),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors and metadata.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// A tensor's bytes.
    pub fn data(&self, entry: &Entry) -> &[u8] {
        &self.bytes.as_slice()[entry.range.clone()]
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Empty => &[],
        }
    }
}

/// Reads a JSON file of at most `limit` bytes.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    limit: u64,
) -> Result<T, Error> {
    let (file, length) = regular(path)?;
    let too_large = |bytes| Error::TooLarge {
        path: path.to_owned(),
        bytes,
        limit,
    };
    if length > limit {
        return Err(too_large(length));
    }
    let mut text = Vec::new();
    // One byte more than the limit shows a file that grew meanwhile.
    file.take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > limit {
        return Err(too_large(text.len() as u64));
    }
    serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

/// Opens a regular file and says its length. Links are followed: the caches of model hubs consist of them.
fn regular(path: &Path) -> Result<(File, u64), Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would otherwise wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    Ok((file, metadata.len()))
}
