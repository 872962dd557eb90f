//! A checkpoint's file on disk or in the program: opened without surprises, mapped, its header checked.
//!
//! Invariant: only regular files are opened (never a pipe or device, which could block or never end), and nothing is read into memory beyond a limit.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{Entry, Header};
use super::torch::{self, Kind, Passed};
use super::{Error, Format};

/// A file of named tensors, safetensors or PyTorch, whose header was checked.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    torch: Option<TorchFile>,
}

/// What a PyTorch file says besides its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchFile {
    /// Format of the file.
    pub kind: Kind,
    /// The key of the root under which the tensors were found.
    pub wrapped: Option<String>,
    /// Other keys of the root, which are not read.
    pub besides: Vec<String>,
    /// Texts among the other keys, by key.
    pub texts: Vec<(String, String)>,
    /// The TorchScript class of the root.
    pub class: Option<String>,
    /// Objects of unknown classes, which were passed over without being built.
    pub passed: Vec<Passed>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Empty,
}

impl Archive {
    /// Maps a file, and checks its header or reads its pickle.
    ///
    /// # Errors
    /// When it cannot be opened, is not a regular file, or its header is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, length) = regular(path)?;
        Self::of_file(path, &file, length)
    }

    /// Maps an open file whose name nobody else has; `path` stands for it in messages.
    ///
    /// # Errors
    /// Same as [`Archive::open`].
    pub fn unnamed(path: &Path, file: &File) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::of_file(path, file, metadata.len())
    }

    fn of_file(path: &Path, file: &File, length: u64) -> Result<Self, Error> {
        let bytes = if length == 0 {
            Bytes::Empty
        } else {
            // SAFETY: the mapping is private and read-only, and lives only while the checkpoint is being read. A checkpoint that is truncated during
            // that time ends the process with SIGBUS; like every loader of mapped weights, this one relies on the operator to leave it alone.
            let mapped = unsafe { Mmap::map(file) };
            Bytes::Mapped(mapped.map_err(|source| Error::Io {
                path: path.to_owned(),
                source,
            })?)
        };
        Self::new(path.to_owned(), bytes)
    }

    /// Reads a file that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// When its header is refused.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, Error> {
        Self::new(PathBuf::from(name), Bytes::Static(bytes))
    }

    /// Reads a file that lies in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// When its header is refused.
    pub fn in_memory(name: &str, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(PathBuf::from(name), Bytes::Owned(bytes))
    }

    /// Tells the format by the content; the name only decides what is said of a file that is neither.
    fn new(path: PathBuf, bytes: Bytes) -> Result<Self, Error> {
        let content = bytes.as_slice();
        let named = path.extension().is_some_and(|end| end == "safetensors");
        if named || is_safetensors(content) {
            return match Header::parse(content) {
                Ok(header) => Ok(Self {
                    path,
                    bytes,
                    header,
                    torch: None,
                }),
                Err(source) => Err(Error::Header { path, source }),
            };
        }
        if !torch::is_torch(content) {
            let format = Format::File {
                file: super::family::label(&path),
            };
            return Err(Error::Unsupported { path, format });
        }
        match torch::read(content) {
            Ok(contents) => Ok(Self {
                path,
                bytes,
                header: Header {
                    entries: contents.entries,
                    metadata: std::collections::BTreeMap::new(),
                },
                torch: Some(TorchFile {
                    kind: contents.kind,
                    wrapped: contents.wrapped,
                    besides: contents.besides,
                    texts: contents.texts,
                    class: contents.class,
                    passed: contents.passed,
                }),
            }),
            Err(source) => Err(Error::Torch {
                path,
                source: Box::new(source),
            }),
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensors and metadata of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What a PyTorch file says besides its tensors; `None` for other formats.
    pub fn torch(&self) -> Option<&TorchFile> {
        self.torch.as_ref()
    }

    /// Format of the file, for display.
    pub fn format(&self) -> &'static str {
        match self.torch.as_ref().map(|torch| torch.kind) {
            None => "safetensors",
            Some(Kind::Zip) => "PyTorch zip archive",
            Some(Kind::Script) => "TorchScript archive",
            Some(Kind::Legacy) => "PyTorch file of before 1.6",
        }
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Bytes of a tensor.
    pub fn data(&self, entry: &Entry) -> &[u8] {
        &self.bytes.as_slice()[entry.range.clone()]
    }
}

/// Whether content begins like a safetensors file: a length that fits, and a JSON object.
fn is_safetensors(content: &[u8]) -> bool {
    let Some((length, rest)) = content.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*length) <= rest.len() as u64 && rest.first() == Some(&b'{')
}

impl Archive {
    /// Tells the system that a tensor's pages are no longer needed, so that a model is not in memory both as a file and as weights.
    pub(super) fn release(&self, entry: &Entry) {
        if let Bytes::Mapped(mapped) = &self.bytes
            && !entry.range.is_empty()
        {
            // SAFETY: the mapping is of a file and read-only: pages that are dropped come back from the file with the same content. It is only a
            // hint: if it fails, memory is used a little longer.
            let _ = unsafe {
                mapped.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    entry.range.start,
                    entry.range.len(),
                )
            };
        }
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
    // One byte beyond the limit shows a file that has grown in the meantime.
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

/// Opens a regular file and returns its length. Links are followed: the caches of model hubs consist of them.
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
