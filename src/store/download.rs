//! A file by URL, over HTTP or from a bucket, to a local disk.
//!
//! Invariant: a file has its name only once all its bytes are there, have the expected sha256 and are on the disk; what an interrupted download has is
//! kept beside it, and the next one goes on from there.

mod source;

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::bucket::{Bucket, Invalid};
use crate::spec::Digest;
use source::{Opened, Source};

/// Tries in a row that get no further.
const TRIES: u32 = 6;
/// Pause after a try that failed, which doubles each time.
const PAUSE: Duration = Duration::from_millis(500);
/// Time without a byte after which a try has failed.
const SILENCE: Duration = Duration::from_secs(60);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is of no kind that can be fetched.
    #[error("expected https://…, http://…, s3://…, gs://… or az://…")]
    Url,
    /// The bucket's URL or endpoint cannot be used.
    #[error(transparent)]
    Bucket(#[from] Invalid),
    /// The program was built without a client for the URL.
    #[error("this program was built without the features s3, gcs and azure, and fetches nothing")]
    Feature,
    /// The server refuses the file, and would do so again.
    #[error("the server refuses the file: {0}")]
    Refused(String),
    /// The server could not be reached, or the connection broke, again and again.
    #[error("the file does not arrive after {TRIES} tries without progress")]
    Away(#[source] Cause),
    /// The bytes are not those that were asked for.
    #[error(
        "expected a file with sha256 {expected}, the one at the URL has {found}; nothing of it was kept"
    )]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The file system refused.
    #[error("cannot write {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A try that ended before the file was complete.
#[derive(Debug)]
enum Broken {
    /// It may work next time.
    Away(Cause),
    /// It will not.
    Final(Error),
}

/// What a fetch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Size of the file.
    pub bytes: u64,
    /// Bytes that were there before.
    pub kept: u64,
}

/// Fetches a file, unless it is there already. `bucket` says how the bucket of a URL that is not HTTP's is reached.
///
/// # Errors
/// When it cannot be fetched or written, or is another file.
pub async fn fetch(
    url: &str,
    bucket: impl FnOnce(super::bucket::Url) -> Result<Bucket, Invalid>,
    to: &Path,
    sha256: Digest,
) -> Result<Fetched, Error> {
    let source = Source::of(url, bucket)?;
    if let Some((found, bytes)) = digest_of(to).await?
        && found == sha256
    {
        let kept = bytes;
        return Ok(Fetched { bytes, kept });
    }
    let mut part = Part::open(to).await?;
    let kept = part.written;
    let mut failures = 0;
    loop {
        let before = part.written;
        let broken = match part.go_on(&source).await {
            Ok(()) => break,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Away(cause)) => cause,
        };
        failures = if part.written > before {
            1
        } else {
            failures + 1
        };
        if failures >= TRIES {
            return Err(Error::Away(broken));
        }
        tracing::warn!(error = %broken, written = part.written, "the download broke off and goes on");
        tokio::time::sleep(PAUSE * (1 << failures.min(TRIES))).await;
    }
    let bytes = part.written;
    part.finish(to, sha256).await?;
    Ok(Fetched { bytes, kept })
}

/// The sha256 and the size of a file, if it is there.
async fn digest_of(path: &Path) -> Result<Option<(Digest, u64)>, Error> {
    let failed = file(path);
    let mut own = match File::open(path).await {
        Ok(own) => own,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut hash = Sha256::new();
    let bytes = hashed(&mut own, &mut hash).await.map_err(failed)?;
    Ok(Some((Digest(hash.finalize().into()), bytes)))
}

/// Reads a file to its end.
async fn hashed(own: &mut File, hash: &mut Sha256) -> std::io::Result<u64> {
    let (mut piece, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        let read = own.read(&mut piece).await?;
        if read == 0 {
            return Ok(bytes);
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}

/// The part of a file that has arrived.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    written: u64,
}

impl Part {
    async fn open(to: &Path) -> Result<Self, Error> {
        let mut name = to.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false);
        let mut file = opened.open(&path).await.map_err(self::file(&path))?;
        let mut hash = Sha256::new();
        let written = hashed(&mut file, &mut hash).await;
        let written = written.map_err(self::file(&path))?;
        Ok(Self {
            path,
            file,
            hash,
            written,
        })
    }

    /// Appends what is missing.
    async fn go_on(&mut self, source: &Source) -> Result<(), Broken> {
        let Opened { from, mut bytes } = source.open(self.written).await?;
        if from != self.written {
            // The server sends the file from its beginning.
            self.begin_anew().await.map_err(Broken::Final)?;
        }
        loop {
            let next = tokio::time::timeout(SILENCE, bytes.next()).await;
            match next.map_err(|late| Broken::Away(late.into()))? {
                None => return Ok(()),
                Some(piece) => {
                    let piece = piece.map_err(Broken::Away)?;
                    let written = self.file.write_all(&piece).await;
                    written.map_err(|error| Broken::Final(self::file(&self.path)(error)))?;
                    self.hash.update(&piece);
                    self.written += piece.len() as u64;
                }
            }
        }
    }

    async fn begin_anew(&mut self) -> Result<(), Error> {
        let failed = self::file(&self.path);
        let emptied = async {
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        emptied.await.map_err(failed)?;
        self.hash = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Gives the file its name, if it is the right one.
    async fn finish(self, to: &Path, expected: Digest) -> Result<(), Error> {
        let Self {
            path,
            mut file,
            hash,
            ..
        } = self;
        let found = Digest(hash.finalize().into());
        if found != expected {
            let removed = tokio::fs::remove_file(&path).await;
            removed.map_err(self::file(&path))?;
            return Err(Error::Digest { expected, found });
        }
        file.flush().await.map_err(self::file(&path))?;
        file.sync_all().await.map_err(self::file(&path))?;
        let renamed = tokio::fs::rename(&path, to).await;
        renamed.map_err(self::file(to))?;
        let folder = to.parent().filter(|own| !own.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let folder_file = File::open(folder).await.map_err(self::file(folder))?;
        folder_file.sync_all().await.map_err(self::file(folder))
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}
