//! Uploads files: small ones in one stream, larger ones so that an interruption costs no more than what was not yet durable.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tonic::Code;
use tonic_types::StatusExt;

use super::cli::Connection;
use super::failures::Failures;
use super::output::Progress;
use super::proxied::is_refused;
use super::{CHUNK, Client, Error, json};
use crate::blocking::blocking_io;
use crate::proto::v1::{self, upload_video_request, write_upload_request};

/// Arguments of `upload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Video files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// Size up to which files go in one stream: an interruption loses no more than one part.
const ONE_STREAM: u64 = 8 << 20;

/// Attempts of an upload without any progress: about half a minute, in which a server restarts.
const ATTEMPTS: u32 = 10;

/// The longest wait between two attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// `frameshift upload`.
///
/// # Errors
/// When a file cannot be read or the server refuses it; the others are uploaded.
pub async fn upload(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let mut failures = Failures::new(args.files.len(), output);
    for path in &args.files {
        let size = std::fs::metadata(path).map_or(0, |data| data.len());
        let progress = output.bytes(size, &display_name(path));
        let video = file(&client, path, &progress).await;
        progress.finish();
        let video = match video {
            Ok(video) => video,
            Err(error) => {
                failures.add(&path.display().to_string(), error)?;
                continue;
            }
        };
        output.result(
            || format!("{}  {}", video.name, path.display()),
            || json::typed("video", json::video(&video)),
        );
    }
    failures.end()
}

/// Uploads one file; retries after an interruption, from what is durable.
///
/// # Errors
/// When the file cannot be read or changes meanwhile, the server refuses it, or stays away.
pub async fn file(client: &Client, path: &Path, progress: &Progress) -> Result<v1::Video, Error> {
    send(client, &Source::open(path).await?, progress).await
}

/// Uploads a file that was hashed already.
///
/// # Errors
/// The errors of [`file`].
pub(super) async fn send(
    client: &Client,
    source: &Source,
    progress: &Progress,
) -> Result<v1::Video, Error> {
    if source.size <= ONE_STREAM {
        small(client, source, progress).await
    } else {
        resumable(client, source, progress).await
    }
}

fn display_name(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let end = (0..=name.len().min(255))
        .rev()
        .find(|&end| name.is_char_boundary(end))
        .unwrap_or(0);
    name[..end].to_owned()
}

/// A file whose size and digest are known.
pub(super) struct Source {
    path: PathBuf,
    name: String,
    file: Arc<File>,
    pub(super) size: u64,
    pub(super) sha256: Vec<u8>,
}

impl Source {
    pub(super) async fn open(path: &Path) -> Result<Self, Error> {
        let own = path.to_owned();
        let read = move || -> std::io::Result<Source> {
            let mut file = File::open(&own)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; CHUNK];
            let mut size = 0;
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                size += read as u64;
                hash.update(&buffer[..read]);
            }
            Ok(Source {
                name: display_name(&own),
                path: own,
                file: Arc::new(file),
                size,
                sha256: hash.finalize().to_vec(),
            })
        };
        let error = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        blocking_io(read).await.map_err(error)
    }

    /// Bytes of the file from `offset` on. A file that becomes unreadable ends early, which its digest shows.
    pub(super) fn chunks(&self, offset: u64) -> impl Stream<Item = Bytes> + Send + use<> {
        chunks_of(self.file.clone(), offset)
    }
}

/// Bytes of a file from `offset` on, in chunks that the server takes. A file that becomes unreadable ends early.
pub(super) fn chunks_of(file: Arc<File>, offset: u64) -> impl Stream<Item = Bytes> + Send + use<> {
    stream::unfold((file, offset), |(file, at)| async move {
        let read = {
            let file = file.clone();
            blocking_io(move || chunk(&file, at))
        };
        match read.await {
            Ok(bytes) if !bytes.is_empty() => {
                let next = at + bytes.len() as u64;
                Some((bytes, (file, next)))
            }
            Ok(_) | Err(_) => None,
        }
    })
}

fn chunk(mut file: &File, at: u64) -> std::io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(CHUNK);
    file.seek(SeekFrom::Start(at))?;
    file.take(CHUNK as u64).read_to_end(&mut buffer)?;
    Ok(buffer.into())
}

async fn small(client: &Client, source: &Source, progress: &Progress) -> Result<v1::Video, Error> {
    let request_id = uuid::Uuid::now_v7().to_string();
    let mut attempt = 0;
    loop {
        let header = v1::UploadVideoHeader {
            display_name: source.name.clone(),
            sha256: source.sha256.clone().into(),
            request_id: request_id.clone(),
        };
        let head = upload_video_request::Payload::Header(header);
        progress.set(0);
        let chunks = source.chunks(0).map(told(progress));
        let messages = stream::once(async { head })
            .chain(chunks.map(upload_video_request::Payload::Chunk))
            .map(|payload| v1::UploadVideoRequest {
                payload: Some(payload),
            });
        match client.videos().upload_video(messages).await {
            Ok(answer) => {
                progress.set(source.size);
                return Ok(answer.into_inner());
            }
            Err(status) => wait_or_give_up(status, &mut attempt, source).await?,
        }
    }
}

async fn resumable(
    client: &Client,
    source: &Source,
    progress: &Progress,
) -> Result<v1::Video, Error> {
    let request = v1::CreateUploadRequest {
        display_name: source.name.clone(),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let mut attempt = 0;
    let name = loop {
        match client.videos().create_upload(request.clone()).await {
            Ok(answer) => break answer.into_inner().name,
            Err(status) => wait_or_give_up(status, &mut attempt, source).await?,
        }
    };
    let mut offset = 0;
    loop {
        let before = offset;
        progress.set(offset);
        match write(client, source, (&name, offset), progress).await {
            Ok(upload) => {
                if let Some(video) = upload.video {
                    progress.set(source.size);
                    return Ok(video);
                }
                return Err(Error::Truncated);
            }
            Err(status) => wait_or_give_up(status, &mut attempt, source).await?,
        }
        let request = v1::GetUploadRequest { name: name.clone() };
        if let Ok(answer) = client.videos().get_upload(request).await {
            let upload = answer.into_inner();
            if let Some(video) = upload.video {
                return Ok(video);
            }
            offset = u64::try_from(upload.committed_bytes).unwrap_or(0);
            progress.set(offset);
        }
        if offset > before {
            attempt = 0;
        }
    }
}

async fn write(
    client: &Client,
    source: &Source,
    (name, offset): (&str, u64),
    progress: &Progress,
) -> Result<v1::Upload, tonic::Status> {
    use write_upload_request::Payload;
    let header = Payload::Header(v1::WriteUploadHeader {
        name: name.to_owned(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
    });
    let finish = Payload::Finish(v1::FinishUpload {
        sha256: source.sha256.clone().into(),
    });
    let messages = stream::once(async { header })
        .chain(
            source
                .chunks(offset)
                .map(told(progress))
                .map(Payload::Chunk),
        )
        .chain(stream::once(async { finish }))
        .map(|payload| v1::WriteUploadRequest {
            payload: Some(payload),
        });
    Ok(client.videos().write_upload(messages).await?.into_inner())
}

/// Moves the bar by each chunk as it goes out.
fn told(progress: &Progress) -> impl Fn(Bytes) -> Bytes + Send + use<> {
    let progress = progress.clone();
    move |chunk| {
        progress.add(chunk.len() as u64);
        chunk
    }
}

/// Waits a little longer each time; gives up when a retry cannot help.
async fn wait_or_give_up(
    status: tonic::Status,
    attempt: &mut u32,
    source: &Source,
) -> Result<(), Error> {
    *attempt += 1;
    // A queue that is full says when to come back; a quota that is used up does not.
    let asked = status
        .get_error_details()
        .retry_info()
        .and_then(|retry| retry.retry_delay);
    let transient = match status.code() {
        Code::Unavailable | Code::Aborted | Code::Unknown => true,
        Code::ResourceExhausted => asked.is_some(),
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => false,
    };
    let transient = transient && !is_refused(&status);
    if !transient || *attempt >= ATTEMPTS {
        let size = std::fs::metadata(&source.path).map(|data| data.len());
        if status.code() == Code::DataLoss && size.ok() != Some(source.size) {
            return Err(Error::Changed {
                path: source.path.clone(),
            });
        }
        return Err(status.into());
    }
    let pause = Duration::from_millis(200 << *attempt).min(PAUSE);
    tokio::time::sleep(pause.max(asked.unwrap_or_default().min(PAUSE))).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = display_name(Path::new(&"ä".repeat(200)));
        assert_eq!(name.len(), 254);
    }

    #[tokio::test]
    async fn chunks_begin_at_the_offset_and_hold_the_rest() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..CHUNK * 2 + 5).map(|i| (i % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let source = Source::open(file.path()).await.unwrap();
        assert_eq!(source.size, bytes.len() as u64);
        assert_eq!(source.sha256, Sha256::digest(&bytes).to_vec());
        let chunks: Vec<Bytes> = source.chunks(7).collect().await;
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(chunks.concat(), &bytes[7..]);
    }
}
