//! Live streams: frames with times in, scores of windows out, as long as the caller sends.
//!
//! Invariant: what a stream holds is bounded in bytes and known when it opens; what it cannot keep up with is left out by the caller's policy and
//! counted, and one stream never holds another up.

mod lines;
mod pending;
mod ring;
mod run;
mod sampler;
mod score;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::lines::Lines;
pub use self::run::End;
use self::sampler::Ended;
pub use self::tally::Counts;
use super::{Answer, Asked, Caller, Choice, Error, Serving};
use crate::engine;
use crate::registry::Key;
use crate::spec::{Invalid, SpatialViews};
use crate::telemetry::trace::{Stage, Trace, stage};
use crate::video::{self, Coding, Rejection, StillSpec, Views};

/// Most frames that wait in a stream, whatever their bytes.
const WAITING: usize = 64;
/// Bytes of waiting frames that every stream may have; more when one frame is large.
const WAITING_BYTES: usize = 2 << 20;
/// Windows of a stream that are classified at a time: while one is on the device the next one may wait for a batch.
const WINDOWS: usize = 2;
/// Bad frames in a row that end a stream.
const MOST_BAD: u32 = 16;

/// Distances between the frames of a window, and between windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// By the number of frames.
    Frames {
        /// Frames from one of a window to the next; `None`: the sampling rate of each task.
        step: Option<u32>,
        /// Frames from the end of a window to that of the next.
        stride: u32,
    },
    /// By the times of frames.
    Time {
        /// Time from one frame of a window to the next; the nearest frame is shown.
        step: Duration,
        /// Time from the end of a window to that of the next.
        stride: Duration,
        /// Time between two frames after which windows start over; `None` means twice the step, at least a second.
        longest_gap: Option<Duration>,
    },
}

/// Policy for frames that come faster than they can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The oldest frame that waits is left out.
    DropOldest,
    /// All that wait but the newest are left out.
    SkipToLive,
    /// No frame is left out: the caller is held back, which suits recordings.
    Wait,
}

/// Specification of a live stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveSpec {
    /// Tasks, at least one.
    pub choices: Vec<Choice>,
    /// How frames are coded.
    pub coding: Coding,
    /// Most bytes of a frame.
    pub largest: usize,
    /// Distances of frames and windows.
    pub pace: Pace,
    /// Policy for frames that come too fast.
    pub policy: Policy,
}

/// Frame of a live stream as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Time of the frame since a moment of the caller's choice.
    pub time: Duration,
    /// The coded picture.
    pub bytes: Bytes,
}

/// Event of a live stream.
#[derive(Debug)]
pub enum Event {
    /// A window that was classified.
    Window(Box<Window>, Counts),
    /// A frame that cannot be read.
    Problem(Problem, Counts),
}

/// The scores of a window.
#[derive(Debug)]
pub struct Window {
    /// Number of the window, from 0; those that were left out are counted.
    pub number: u64,
    /// Time of the first frame of the clip that reaches back furthest.
    pub start: Duration,
    /// Time of the last frame.
    pub end: Duration,
    /// What each choice answered, in the order of the choices.
    pub answers: Vec<Result<Answer, Error>>,
    /// Time from the arrival of the window's last frame to the answer.
    pub latency: Duration,
}

/// A frame that cannot be read.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Number of the frame among all that came, from 0.
    pub frame: u64,
    /// Time of the frame.
    pub time: Duration,
    /// Flaw of the frame.
    pub flaw: Flaw,
}

/// Flaw of a frame of a live stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The picture is refused.
    #[error("the picture is refused: {0}")]
    Rejected(Rejection),
    /// A raw picture has not as many bytes as its size says.
    #[error("expected {expected} bytes, got {got}")]
    Size {
        /// Bytes that the header's size means.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A coded picture has more bytes than the header says.
    #[error("{got} bytes, the stream's header allows {limit}")]
    TooLarge {
        /// Most bytes of a frame.
        limit: usize,
        /// Bytes that came.
        got: usize,
    },
}

/// A live stream that is open.
pub struct Live {
    serving: Serving,
    caller: Arc<Caller>,
    spec: LiveSpec,
    lines: Arc<Lines>,
    still: StillSpec,
    trace: Trace,
    /// Whether the engine keeps tokens of frames for later windows.
    keeps: bool,
}

impl Serving {
    /// Opens a live stream: every task has to be there and to serve, and a window has to fit into the queue.
    ///
    /// # Errors
    /// The error of the first task that cannot be answered; [`Error::Invalid`] names a field that is out of range.
    pub async fn open_live(&self, caller: &Caller, spec: LiveSpec) -> Result<Live, Error> {
        let admission = stage(Stage::Admit);
        // A stream without a key has one of its own, so that it keeps its version of a split, and the streams share the versions by their weights.
        let own = || Key::of("stream", &[uuid::Uuid::now_v7().as_bytes()]);
        let caller = &Caller {
            key: Some(caller.key.unwrap_or_else(own)),
            ..caller.clone()
        };
        let asked = self.versions(caller, &spec.choices, caller.key).await;
        let asked: Vec<Asked> = asked.into_iter().collect::<Result<_, _>>()?;
        let samplings: Vec<_> = (asked.iter())
            .map(|asked| asked.essentials.sampling)
            .collect();
        let lines = Lines::of(&samplings, spec.pace)?;
        let resident = &self.parts.resident;
        let still = StillSpec {
            coding: spec.coding,
            views: match lines.views() {
                SpatialViews::Center => Views::Center,
                SpatialViews::Three => Views::Three,
            },
            size: resident.image_size,
            normalization: resident.normalization,
        };
        let checked = still.validate(self.parts.decoder.limits().pixels);
        checked.map_err(out_of_range)?;
        // A window that can never fit is an error now; one that does not fit at this moment may later.
        let engine = &self.parts.engine;
        let fits = engine.would_admit((&caller.tenant, caller.class), &lines.loads());
        match fits {
            Ok(_) | Err(engine::Error::QueueFull { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        engine.prefetch(asked.iter().map(|asked| &asked.version));
        admission.end(true);
        Ok(Live {
            serving: self.clone(),
            caller: Arc::new(caller.clone()),
            lines: Arc::new(lines),
            spec,
            still,
            trace: Trace::running(),
            keeps: false,
        })
    }
}

/// The error of a picture that cannot be asked for, with the fields as the stream's header spells them.
fn out_of_range(error: video::Error) -> Error {
    if let video::Error::InvalidRequest { field, problem } = error {
        let field = match field {
            "width" => "raw.width",
            "height" => "raw.height",
            other => other,
        };
        return Invalid::new(field, problem).into();
    }
    error.into()
}

impl Live {
    /// Most bytes that the stream holds between messages and the queue of the engine: frames that wait, two that are looked at, and the views of those
    /// that windows need. Windows of a stream that waits hold theirs until the queue has room.
    pub fn bytes(&self) -> u64 {
        let views = self.still.values_per_view() * size_of::<f32>() * self.lines.view_count();
        let waiting = match self.spec.policy {
            Policy::Wait => self.lines.window_frames().saturating_mul(WINDOWS as u64),
            Policy::DropOldest | Policy::SkipToLive => 0,
        };
        let frames = self.lines.most_frames().saturating_add(waiting);
        let held = frames.saturating_mul(views as u64);
        let tokens = if self.keeps { self.token_bytes() } else { 0 };
        held.saturating_add(tokens)
            .saturating_add((self.waiting_bytes() + 2 * self.spec.largest) as u64)
    }

    /// Most bytes of the tokens that [`Live::keeping`] has the engine keep; 0 where windows have no frames in common, or the engine keeps none.
    pub fn token_bytes(&self) -> u64 {
        if !self.lines.overlap() {
            return 0;
        }
        let each = self.serving.parts.engine.kept_bytes() * self.lines.view_count() as u64;
        // Those of the frames that are held, and of windows that are classified.
        let running = self.lines.window_frames().saturating_mul(WINDOWS as u64);
        let frames = self.lines.most_frames().saturating_add(running);
        frames.saturating_mul(each)
    }

    /// Has the engine keep the tokens of frames from one window to the next, which takes memory and saves the blocks below the adapters.
    #[must_use]
    pub fn keeping(self) -> Self {
        Self {
            keeps: true,
            ..self
        }
    }

    /// The stream's trace for the window that ends with a frame, if one does.
    fn trace(&self, ended: Option<&Ended>) -> Trace {
        ended.map_or(Trace::none(), |ended| self.trace.of_part(ended.number))
    }

    /// Most bytes of frames that wait.
    fn waiting_bytes(&self) -> usize {
        WAITING_BYTES.max(2 * self.spec.largest)
    }
}

/// A frame on its way through a stream.
#[derive(Debug)]
struct Coming {
    /// Number among all that came.
    number: u64,
    time: Duration,
    bytes: Bytes,
    arrived: Instant,
}
