//! A stranger's video becomes facts, pictures and clips, in a separate, confined process: [`Decoder`] is the handle that the rest of the server uses.
//!
//! Invariant: no container or codec code runs in the process that holds a `Decoder`, and nothing that a worker says is believed unchecked.

mod alter;
mod answer;
mod decode;
pub mod encode;
mod ffmpeg;
mod frames;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod layers;
mod probe;
mod reject;
mod request;
pub mod sampling;
mod still;
pub mod transform;
pub mod worker;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameshift_core::{fair, ids, rng, spec};

use self::worker::{Answer, Pixels, Pool, Work};
use crate::fair::{Equal, Ledger, NoLedger, Weights};
use crate::ids::TenantId;

pub use alter::Alter;
pub use answer::{
    Clip, Codec, Container, Containers, Orientation, Picture, Pictures, Probe, Ratio, Refused,
    Rotation, Warning, Warnings,
};
pub use decode::wide::write as write_view;
pub use frames::{Frame, Frames, FramesSpec, Part, Slide, Steps, Stride};
pub use layers::{Layer, Layers};
pub use reject::{Evidence, Limit, Reject, Rejection};
pub use request::{
    ClipSpec, ColorPolicy, Lane, Limits, MAX_SELECTED, MAX_VIEWS, PictureSpec, Rect, Sampling,
    StridedPart, Views, Windows,
};
pub use still::{Coding, Range, Still, StillSpec};

/// The bytes of a video.
#[derive(Debug, Clone)]
pub enum Input {
    /// Bytes in memory.
    Bytes(bytes::Bytes),
    /// An open file whose content no longer changes; it is read by position, and the worker gets a read-only descriptor.
    File(Arc<File>),
}

/// How videos are decoded.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program that decodes: this program's own file.
    pub program: PathBuf,
    /// The program's arguments; they make it call [`worker::main`] before anything else.
    pub arguments: Vec<OsString>,
    /// Decoding processes at a time.
    pub workers: usize,
    /// Requests that may wait, of one tenant in one lane.
    pub queue_per_tenant: usize,
    /// Requests that may wait in one lane, of all tenants.
    pub queue: usize,
    /// What decoding a video may cost.
    pub limits: Limits,
    /// A worker that had no request for so long ends.
    pub idle: Duration,
    /// A worker that has decoded so many videos is replaced.
    pub worker_requests: NonZeroU32,
    /// A worker that has used so much processor time is replaced.
    pub worker_cpu: Duration,
    /// What confines the workers. When Landlock or seccomp is among them, one of them has to hold.
    pub layers: Layers,
}

impl Config {
    /// Defaults for a program that runs [`worker::main`] when its first argument is `video-worker`.
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            arguments: vec![OsString::from("video-worker")],
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            // A request holds its input, at most 32 MiB inline: a tenant's share is what a burst of one client needs.
            queue_per_tenant: 64,
            queue: 512,
            limits: Limits::default(),
            idle: Duration::from_secs(10),
            worker_requests: NonZeroU32::new(64).unwrap_or(NonZeroU32::MIN),
            worker_cpu: Duration::from_secs(20),
            layers: Layers::ALL,
        }
    }
}

impl Config {
    /// Workers that wait in the middle of long videos, at most.
    pub fn parked(&self) -> usize {
        self.workers.div_ceil(2).max(2)
    }
}

/// Why a request for a video has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The video is refused.
    #[error("the video is refused: {0}")]
    Rejected(#[from] Rejection),
    /// Too many requests wait.
    #[error("too many videos wait to be decoded")]
    QueueFull,
    /// A requested frame is not there.
    #[error("frame {index} was asked for, but the video has {frames} frames")]
    IndexOutOfRange {
        /// The requested index.
        index: u32,
        /// Frames of the video.
        frames: u32,
    },
    /// A requested window is not there.
    #[error("window {index} was asked for, but the video has {windows} windows")]
    WindowOutOfRange {
        /// The requested window.
        index: u32,
        /// Windows that begin inside the video.
        windows: u32,
    },
    /// The request itself is out of range.
    #[error("{field}: {problem}")]
    InvalidRequest {
        /// The field's name.
        field: &'static str,
        /// What is wrong with the field.
        problem: String,
    },
    /// The pictures do not fit into the room that the request allows.
    #[error("the pictures need more than {bytes} bytes")]
    PicturesTooLarge {
        /// The room in bytes.
        bytes: u64,
    },
    /// Decoding was interrupted again and again, not by this video.
    #[error("the decoding processes keep ending")]
    Interrupted,
    /// The decoding program cannot be run.
    #[error("cannot run the decoding program {program}")]
    Spawn {
        /// The program's file.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// The system refused something that decoding needs.
    #[error("cannot {action}")]
    System {
        /// The action that failed.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// The kernel confines workers less than was asked for.
    #[error(
        "the kernel confines video workers by neither landlock nor seccomp, only by {layers}; \
         accept that with --video-sandbox=off, or run on a kernel that has one of them"
    )]
    Unconfined {
        /// The layers that hold.
        layers: Layers,
    },
    /// Not one of the samples could be decoded.
    #[error("the video workers cannot decode a single container format here")]
    NoContainer,
    /// The decoder has stopped.
    #[error("the decoder has stopped")]
    Stopped,
}

impl From<Reject> for Error {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject.into())
    }
}

/// Decodes videos in worker processes. Clones share the workers; the processes end with the last clone.
#[derive(Clone)]
pub struct Decoder {
    pool: Arc<Pool>,
    limits: Limits,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// Starts the processes and waits until one is ready.
    ///
    /// # Errors
    /// When the program cannot be run or does not answer.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_shared(config, (Arc::new(Equal), Arc::new(NoLedger))).await
    }

    /// Starts the processes like [`Decoder::start`]; tenants share them by these weights, and the ledger has the processor time that each takes.
    ///
    /// # Errors
    /// When the program cannot be run or does not answer.
    pub async fn start_shared(
        config: Config,
        shared: (Arc<dyn Weights>, Arc<dyn Ledger>),
    ) -> Result<Self, Error> {
        let limits = config.limits;
        let pool = tokio::task::spawn_blocking(move || Pool::start(config, shared))
            .await
            .map_err(|_| Error::Stopped)??;
        Ok(Self {
            pool: Arc::new(pool),
            limits,
        })
    }

    /// Limits of one request, which decide whether a video decodes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reads what a video is. Decodes it once, so that a video with a probe is one that can be decoded.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the video is refused; the others when this server cannot decode now.
    pub async fn probe(&self, tenant: &TenantId, lane: Lane, input: Input) -> Result<Probe, Error> {
        let answer = self.decode((tenant, lane), input, Work::Probe).await?;
        answer.probe.ok_or(Error::Interrupted)
    }

    /// Takes a clip's frames from a video and makes normalised planes of them; views that are too large for one answer of a worker come in groups, and
    /// are the same. Dropping the future gives the work up.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the video is refused; [`Error::IndexOutOfRange`] and [`Error::WindowOutOfRange`] for explicit indices
    /// and for windows that the video lacks.
    pub async fn clip(
        &self,
        tenant: &TenantId,
        lane: Lane,
        input: Input,
        spec: ClipSpec,
    ) -> Result<Clip, Error> {
        let spatial = spec.views.count();
        let mut groups = spec.groups().into_iter();
        let first = groups.next().ok_or(Error::Interrupted)?;
        let mut clip = self.group((tenant, lane), input.clone(), first).await?;
        for group in groups {
            let more = self.group((tenant, lane), input.clone(), group).await?;
            clip = clip.followed_by(more, spatial).ok_or(Error::Interrupted)?;
        }
        Ok(clip)
    }

    /// The views of one request to a worker.
    async fn group(
        &self,
        caller: (&TenantId, Lane),
        input: Input,
        spec: ClipSpec,
    ) -> Result<Clip, Error> {
        spec.validate()?;
        let frames = usize::from(spec.frames.get());
        let answer = self.decode(caller, input, Work::Clip(spec)).await?;
        let Pixels::Planes(planes) = answer.pixels else {
            return Err(Error::Interrupted);
        };
        Ok(Clip {
            planes,
            indices: answer.indices.chunks(frames).map(<[u32]>::to_vec).collect(),
            pts: answer.pts.chunks(frames).map(<[i64]>::to_vec).collect(),
            probe: answer.probe.ok_or(Error::Interrupted)?,
        })
    }

    /// Opens a video of any length to read frames of it in order, part by part. Nothing is decoded before the first part is asked for.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], or [`Error::Rejected`] for a file that is empty or too large.
    pub fn frames(
        &self,
        tenant: &TenantId,
        lane: Lane,
        input: Input,
        spec: FramesSpec,
    ) -> Result<Frames, Error> {
        spec.validate()?;
        self.check_size(&input)?;
        let pool = Arc::clone(&self.pool);
        Ok(Frames::new(pool, (tenant, lane), input, spec))
    }

    /// Takes whole pictures from a video, RGB at their own size.
    ///
    /// # Errors
    /// As [`Decoder::clip`], and [`Error::PicturesTooLarge`].
    pub async fn pictures(
        &self,
        tenant: &TenantId,
        lane: Lane,
        input: Input,
        spec: PictureSpec,
    ) -> Result<Pictures, Error> {
        spec.validate()?;
        let work = Work::Pictures(spec);
        let answer = self.decode((tenant, lane), input, work).await?;
        let Pixels::Pictures(pictures) = answer.pixels else {
            return Err(Error::Interrupted);
        };
        Ok(Pictures {
            pictures,
            indices: answer.indices,
            pts: answer.pts,
            probe: answer.probe.ok_or(Error::Interrupted)?,
        })
    }

    async fn decode(
        &self,
        caller: (&TenantId, Lane),
        input: Input,
        work: Work,
    ) -> Result<Answer, Error> {
        self.check_size(&input)?;
        self.pool.decode(caller, input, work, None).await
    }

    /// Refuses what is empty or too large: no process is needed to know this.
    fn check_size(&self, input: &Input) -> Result<(), Error> {
        let bytes = match input {
            Input::Bytes(bytes) => bytes.len() as u64,
            Input::File(file) => file.metadata().map_or(0, |metadata| metadata.len()),
        };
        if bytes == 0 {
            return Err(Reject::Empty.into());
        }
        if bytes > self.limits.bytes {
            let refused = Rejection::of(Reject::TooLarge, Evidence::Count(bytes));
            return Err(refused.under(&self.limits).into());
        }
        Ok(())
    }

    /// The layers of confinement that hold in every worker.
    pub fn isolation(&self) -> Layers {
        self.pool.layers()
    }

    /// The containers that can be decoded here.
    pub fn containers(&self) -> Containers {
        self.pool.containers()
    }

    /// The processes now: the zygote, while there is one, and the workers that hold a tenant's turn.
    pub fn processes(&self) -> (Option<u32>, Vec<worker::Running>) {
        self.pool.processes()
    }

    /// The workers that were lost with an input since the start, by the reason for which the input is refused when it happens again: violations of the sandbox, limits of
    /// time and memory, crashes.
    pub fn lost_workers(&self) -> Vec<(Reject, u64)> {
        self.pool.lost()
    }
}
