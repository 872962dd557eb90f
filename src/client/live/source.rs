//! Where pictures come from: a folder, standard input, or a program that reads a camera.
//!
//! Invariant: pictures have times that go on; why they ended, when it is not their end, is told.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::Options;
use super::pictures::{Pictures, TooLarge};
use crate::client::Error;

/// Pictures of a folder a second, when nothing is said.
const FOLDER_RATE: f64 = 10.0;
/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// A source by its name on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A folder of JPEGs.
    Folder(PathBuf),
    /// JPEGs one after the other.
    Stdin,
    /// Whatever ffmpeg reads by this name.
    Program(String),
}

/// A picture and its time.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) time: Duration,
    pub(super) bytes: Bytes,
}

/// Why pictures ended before their end.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// The failure, if there was one.
    pub(super) fn take(&self) -> Option<Error> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take()
    }

    fn set(&self, error: Error) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(error);
    }
}

/// A source that is open.
pub(super) struct Opened {
    pub(super) pictures: Pin<Box<dyn Stream<Item = Picture> + Send>>,
    pub(super) failure: Failure,
}

impl Source {
    /// The source of a name: a folder is one that exists.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "-" => Self::Stdin,
            name if Path::new(name).is_dir() => Self::Folder(name.into()),
            name => Self::Program(name.to_owned()),
        }
    }

    /// Opens the source; a picture has at most `most` bytes.
    ///
    /// # Errors
    /// When a folder has no pictures, or the program cannot be started.
    pub(super) async fn open(self, options: &Options, most: usize) -> Result<Opened, Error> {
        let failure = Failure::default();
        let pictures = match self {
            Self::Folder(folder) => {
                let files = files(&folder).await?;
                let rate = options.rate.unwrap_or(FOLDER_RATE);
                read(files, rate, failure.clone())
            }
            Self::Stdin => {
                let input = stdin().map_err(|source| Error::Read {
                    path: "standard input".into(),
                    source,
                })?;
                let pipe = Pipe::new(input, None, (options.rate, most), failure.clone());
                pipe.pictures()
            }
            Self::Program(name) => {
                let mut child = start(&options.ffmpeg, &name)?;
                let output = child.stdout.take().ok_or_else(|| Error::Read {
                    path: options.ffmpeg.clone(),
                    source: std::io::ErrorKind::BrokenPipe.into(),
                })?;
                let end = Some((child, name));
                let pipe = Pipe::new(output, end, (options.rate, most), failure.clone());
                pipe.pictures()
            }
        };
        Ok(Opened { pictures, failure })
    }
}

/// The JPEGs of a folder by their names.
async fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut entries = tokio::fs::read_dir(folder).await.map_err(failed)?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let path = entry.path();
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        if ending.is_some_and(|ending| ending == "jpg" || ending == "jpeg") {
            files.push(path);
        }
    }
    if files.is_empty() {
        let problem = format!("{}: no .jpg or .jpeg files in the folder", folder.display());
        return Err(Error::Usage(problem));
    }
    files.sort();
    Ok(files)
}

/// The time of a picture of a source with this rate.
fn time(number: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX)
}

/// Reads files one after the other.
fn read(
    files: Vec<PathBuf>,
    rate: f64,
    failure: Failure,
) -> Pin<Box<dyn Stream<Item = Picture> + Send>> {
    let numbered = stream::iter((0_u64..).zip(files));
    Box::pin(
        numbered
            .then(move |(number, path)| {
                let failure = failure.clone();
                async move {
                    match tokio::fs::read(&path).await {
                        Ok(bytes) => Some(Picture {
                            time: time(number, rate),
                            bytes: bytes.into(),
                        }),
                        Err(source) => {
                            failure.set(Error::Read { path, source });
                            None
                        }
                    }
                }
            })
            .take_while(|picture| std::future::ready(picture.is_some()))
            .filter_map(std::future::ready),
    )
}

type Input = Pin<Box<dyn AsyncRead + Send>>;

/// Standard input: a pipe is waited for without a thread, so that the program can end while nothing comes.
fn stdin() -> std::io::Result<Input> {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    match tokio::net::unix::pipe::Receiver::from_owned_fd(stdin.try_clone()?) {
        Ok(pipe) => Ok(Box::pin(pipe)),
        Err(_) => Ok(Box::pin(tokio::fs::File::from_std(stdin.into()))),
    }
}

/// Starts the program on a camera, a URL or a file.
fn start(program: &Path, name: &str) -> Result<Child, Error> {
    let mut command = Command::new(program);
    command.args(["-nostdin", "-loglevel", "error"]);
    if name.starts_with("/dev/video") {
        command.args(["-f", "v4l2"]);
    } else if name.starts_with("rtsp://") {
        command.args(["-rtsp_transport", "tcp"]);
    } else if Path::new(name).is_file() {
        // At its own pace, as a camera would send it.
        command.arg("-re");
    }
    command.args(["-i", name, "-an", "-c:v", "mjpeg", "-q:v", "3"]);
    command.args(["-f", "image2pipe", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Read {
            path: program.to_owned(),
            source,
        })
}

/// JPEGs that come through a pipe.
struct Pipe<R> {
    input: R,
    program: Option<(Child, String)>,
    pictures: Pictures,
    whole: std::vec::IntoIter<Vec<u8>>,
    piece: Vec<u8>,
    rate: Option<f64>,
    begin: Instant,
    number: u64,
    failure: Failure,
}

impl<R: AsyncRead + Unpin + Send + 'static> Pipe<R> {
    fn new(
        input: R,
        program: Option<(Child, String)>,
        (rate, most): (Option<f64>, usize),
        failure: Failure,
    ) -> Self {
        Self {
            input,
            program,
            pictures: Pictures::new(most),
            whole: Vec::new().into_iter(),
            piece: vec![0; PIECE],
            rate,
            begin: Instant::now(),
            number: 0,
            failure,
        }
    }

    fn pictures(self) -> Pin<Box<dyn Stream<Item = Picture> + Send>> {
        Box::pin(stream::unfold(self, |mut pipe| async move {
            match pipe.next().await {
                Ok(Some(picture)) => Some((picture, pipe)),
                Ok(None) => None,
                Err(error) => {
                    pipe.failure.set(error);
                    None
                }
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Picture>, Error> {
        loop {
            if let Some(bytes) = self.whole.next() {
                let number = self.number;
                self.number += 1;
                return Ok(Some(Picture {
                    time: (self.rate)
                        .map_or_else(|| self.begin.elapsed(), |rate| time(number, rate)),
                    bytes: bytes.into(),
                }));
            }
            let read = self.input.read(&mut self.piece).await;
            let count = read.map_err(|source| Error::Read {
                path: "the pictures' pipe".into(),
                source,
            })?;
            if count == 0 {
                self.end().await?;
                return Ok(None);
            }
            let whole = self
                .pictures
                .push(self.piece.get(..count).unwrap_or_default());
            let whole = whole.map_err(|TooLarge| {
                self.unreadable("a picture has more than 2 MiB: scale it down or compress it more")
            })?;
            self.whole = whole.into_iter();
        }
    }

    /// What the end of the pipe means.
    async fn end(&mut self) -> Result<(), Error> {
        if let Some((child, name)) = &mut self.program {
            let failed = |source| Error::Read {
                path: PathBuf::from(&*name),
                source,
            };
            let ended = child.wait().await.map_err(failed)?;
            if !ended.success() {
                let problem = format!("ffmpeg ended with {ended}");
                return Err(failed(std::io::Error::other(problem)));
            }
        }
        match self.pictures.is_torn() {
            true => Err(self.unreadable("the last picture is not whole")),
            false => Ok(()),
        }
    }

    /// The error of pictures that do not make sense.
    fn unreadable(&self, problem: &'static str) -> Error {
        let name = self.program.as_ref().map(|(_, name)| name.as_str());
        Error::Read {
            path: name.unwrap_or("standard input").into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_names() {
        assert_eq!(Source::of("-"), Source::Stdin);
        assert!(matches!(Source::of("/"), Source::Folder(_)));
        for name in ["/dev/video0", "rtsp://camera/1", "clip.mp4"] {
            assert_eq!(Source::of(name), Source::Program(name.to_owned()));
        }
    }
}
