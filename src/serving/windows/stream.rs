//! The windows of one video, from its frames to their answers.
//!
//! Invariant: a window enters the engine only with room of its own; answers come in the order in which their windows end. Answers that came before an error are
//! sent before it.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Group, Plan};
use super::ring::Ring;
use super::score::Readers;
use super::segments::Segments;
use super::sliding::{Due, Sliding};
use super::{Answered, Held, Summary, TaskSegments, Window, WindowEvent};
use crate::engine::{self, Permit};
use crate::serving::shown::Given;
use crate::serving::{Asked, Caller, Error, SampledFrame, Serving};
use crate::telemetry::trace::{Stage, Trace, stage};
use crate::video::{self, Frames, Part, Probe, Steps};

/// Windows of one stream between admission and answer: two full batches, so that the device never waits for this stream's next ones.
pub(super) const RUNNING: usize = 32;
/// Pause before a stream asks again for a decoder when too many videos wait for one.
const PAUSE: Duration = Duration::from_millis(50);

/// The frames after a part was decoded, the part, and how long that took.
type Decoded = (Frames, Result<Option<Part>, video::Error>, Duration);

/// What the readers of a window answered, without its pictures.
struct Ran {
    frames: Vec<SampledFrame>,
    start: Duration,
    end: Duration,
    /// The choice of each reader.
    choices: Vec<usize>,
    given: Result<Vec<Given>, Error>,
    /// Number of the window among those that were classified.
    number: u64,
    ended: Instant,
}

/// What is known of a choice.
struct Told {
    /// Segments of its windows; `None` before the first answer.
    segments: Option<(Answered, Segments)>,
    has_failed: bool,
}

/// Classified windows of a video, one after the other.
pub struct Windows {
    serving: Serving,
    caller: Caller,
    options: super::SegmentOptions,
    groups: Vec<Sliding>,
    steps: Steps,
    /// Whether the first windows are those of the whole request.
    is_first: bool,
    ring: Ring,
    /// Room for what the stream holds.
    _held: Option<Held>,
    frames: Option<Frames>,
    decoding: Option<BoxFuture<'static, Decoded>>,
    decode: Duration,
    due: VecDeque<Due>,
    reserving: Option<BoxFuture<'static, Result<Permit, engine::Error>>>,
    /// Tasks of their own, so that a window whose answers are there holds nothing of the engine, whether or not they are read.
    running: FuturesOrdered<AbortOnDropHandle<Ran>>,
    told: Vec<Told>,
    events: VecDeque<WindowEvent>,
    error: Option<Error>,
    probe: Option<Probe>,
    windows: u64,
    /// Windows that were begun, and parts that were asked for.
    begun: u64,
    parts: u64,
    /// The request's trace, for the spans of some windows and parts.
    trace: Trace,
    has_ended: bool,
    /// How the decoding ends, for the count.
    outcome: &'static str,
}

impl std::fmt::Debug for Windows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows")
            .field("caller", &self.caller)
            .field("windows", &self.windows)
            .finish_non_exhaustive()
    }
}

impl Windows {
    pub(super) fn new(
        serving: Serving,
        caller: Caller,
        (plan, held): (Plan, Option<Held>),
        frames: Option<Frames>,
        failed: Vec<(usize, Error)>,
    ) -> Self {
        let slide = &plan.spec.slide;
        let choices = plan.groups.iter().flat_map(|group| &group.choices);
        let choices = choices.chain(failed.iter().map(|(choice, _)| choice));
        let told = (0..choices.count()).map(|_| Told {
            segments: None,
            has_failed: false,
        });
        let mut windows = Self {
            told: told.collect(),
            steps: Steps::new(slide.stride, slide.start),
            is_first: slide.after.is_none(),
            options: plan.segments,
            groups: plan.groups.into_iter().map(Sliding::new).collect(),
            ring: Ring::new(held.as_ref().is_some_and(|held| held.keeps)),
            _held: held,
            frames,
            decoding: None,
            decode: Duration::ZERO,
            due: VecDeque::new(),
            reserving: None,
            running: FuturesOrdered::new(),
            events: VecDeque::new(),
            error: None,
            probe: None,
            windows: 0,
            begun: 0,
            parts: 0,
            trace: Trace::running(),
            has_ended: false,
            outcome: "cancelled",
            serving,
            caller,
        };
        for (choice, error) in failed {
            windows.fail(choice, error);
        }
        windows
    }

    /// Returns the next event; `None` after the summary or an error.
    ///
    /// # Errors
    /// When the video, the engine or the time ends the stream.
    pub async fn next(&mut self) -> Option<Result<WindowEvent, Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.has_ended {
                return None;
            }
            self.start_next();
            let is_idle = self.running.is_empty() && self.reserving.is_none();
            if is_idle && self.decoding.is_none() {
                self.has_ended = true;
                return Some(match self.error.take() {
                    Some(error) => Err(error),
                    None => Ok(WindowEvent::Summary(self.summary())),
                });
            }
            tokio::select! {
                biased;
                Some(ran) = self.running.next() => self.answered(ran),
                permit = or_never(&mut self.reserving) => {
                    self.reserving = None;
                    self.run(permit);
                }
                decoded = or_never(&mut self.decoding) => {
                    self.decoding = None;
                    self.take(decoded);
                }
            }
        }
    }

    /// Asks for room for the next window, and for the next frames when no window waits for room.
    fn start_next(&mut self) {
        while let Some(due) = self.due.front() {
            if !self.groups[due.group].group.readers.asked.is_empty() {
                break;
            }
            self.due.pop_front();
            self.reserving = None;
        }
        if self.error.is_some() {
            // Windows that run are still reported.
            self.due.clear();
            self.reserving = None;
            self.frames = None;
            self.decoding = None;
            return;
        }
        if let Some(due) = self.due.front() {
            if self.reserving.is_none() && self.running.len() < RUNNING {
                let load = self.groups[due.group].group.readers.load();
                let room = self.serving.clone().room(self.caller.clone(), load);
                let trace = self.trace.of_part(self.begun);
                self.reserving = Some(Box::pin(async move { trace.scope(room).await }));
            }
            return;
        }
        self.reserving = None;
        let has_readers = self.told.iter().any(|told| !told.has_failed);
        if let Some(mut frames) = self
            .frames
            .take_if(|_| has_readers && self.decoding.is_none())
        {
            let has_begun = self.probe.is_some();
            let trace = self.trace.of_part(self.parts);
            self.parts += 1;
            let decoding = async move {
                let (began, decoding) = (Instant::now(), stage(Stage::Decode));
                let part = loop {
                    match frames.next().await {
                        // A stream that has begun waits rather than being refused.
                        Err(video::Error::QueueFull) if has_begun => {
                            tokio::time::sleep(PAUSE).await;
                        }
                        part => break part,
                    }
                };
                decoding.end(part.is_ok());
                (frames, part, began.elapsed())
            };
            self.decoding = Some(Box::pin(async move { trace.scope(decoding).await }));
        }
    }

    /// Classifies the window that there is room for.
    fn run(&mut self, permit: Result<Permit, engine::Error>) {
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => return self.error = Some(error.into()),
        };
        let Some(Due { group, shown }) = self.due.pop_front() else {
            return;
        };
        let Group {
            readers, choices, ..
        } = &self.groups[group].group;
        let (readers, choices): (Readers, _) = (readers.clone(), choices.clone());
        let (serving, caller, decode) = (self.serving.clone(), self.caller.clone(), self.decode);
        let (number, trace) = (self.begun, self.trace.of_part(self.begun));
        self.begun += 1;
        let running = async move {
            let given = serving.window(&permit, &caller, &readers, &shown, decode);
            let given = given.await;
            // The pictures and the room go with the task.
            Ran {
                start: shown.start(),
                end: shown.end(),
                frames: shown.frames,
                choices,
                given,
                number,
                ended: Instant::now(),
            }
        };
        let running = tokio::spawn(async move { trace.scope(running).await });
        self.running.push_back(AbortOnDropHandle::new(running));
    }

    /// Takes the frames of a part, and makes windows of them.
    fn take(&mut self, (frames, part, took): Decoded) {
        self.decode += took;
        let part = match part {
            Ok(Some(part)) => part,
            Ok(None) => {
                self.outcome = "ok";
                return self.complete();
            }
            Err(error) => {
                self.outcome = match matches!(error, video::Error::Rejected(_)) {
                    true => "rejected",
                    false => "failed",
                };
                return self.error = Some(error.into());
            }
        };
        self.serving.parts.metrics.window_frames(part.frames.len());
        self.probe = Some(part.probe);
        for frame in part.frames {
            let (index, begins) = (frame.index, self.steps.begins(frame.index, frame.time));
            if !self.ring.push(frame) {
                continue;
            }
            for (group, sliding) in self.groups.iter_mut().enumerate() {
                if begins {
                    sliding.begin(index);
                }
                let shown = sliding.up_to(index, &self.ring);
                self.due.extend(shown.map(|shown| Due { group, shown }));
            }
            self.release();
        }
        self.frames = Some(frames);
    }

    /// Lets frames go that no window needs any more.
    fn release(&mut self) {
        let begun = self.groups.iter().filter_map(Sliding::first);
        let next = self.ring.last().map_or(0, |last| last.saturating_add(1));
        self.ring.release_before(begun.min().unwrap_or(next));
    }

    /// After the last frame: a video that is shorter than a window has one window all the same.
    fn complete(&mut self) {
        if !self.is_first {
            return;
        }
        for (group, sliding) in self.groups.iter().enumerate() {
            let shown = sliding.padded(&self.ring);
            self.due.extend(shown.map(|shown| Due { group, shown }));
        }
    }

    /// Takes the answers about a window.
    fn answered(&mut self, ran: Result<Ran, JoinError>) {
        let Ok(ran) = ran else {
            self.error.get_or_insert(engine::Error::Stopped.into());
            return;
        };
        let Ran {
            frames,
            start,
            end,
            choices,
            given,
            number,
            ended,
        } = ran;
        let given = match given {
            Ok(given) => given,
            Err(error) => {
                self.error.get_or_insert(error);
                return;
            }
        };
        let trace = self.trace.of_part(number);
        trace.within(|| Stage::Answer.was((ended, Instant::now()), &[]));
        let mut told = Vec::with_capacity(given.len());
        for (choice, Given { answer, by }) in choices.into_iter().zip(given) {
            if let Some(by) = by {
                self.replace(choice, by);
            }
            match answer {
                _ if self.told[choice].has_failed => {}
                Ok(answer) => {
                    let own = &mut self.told[choice].segments;
                    let (answered, segments) = own.get_or_insert_with(|| {
                        let labels = answer.labels.clone();
                        let segments = Segments::new(self.options, labels.len());
                        let version = answer.version.clone();
                        (Answered { version, labels }, segments)
                    });
                    answered.version.clone_from(&answer.version);
                    segments.add(start, end, &answer.scores.mean);
                    told.push((choice, answer));
                }
                Err(error) if ends_all(&error) => {
                    self.error.get_or_insert(error);
                }
                Err(error) => self.fail(choice, error),
            }
        }
        if !told.is_empty() {
            self.windows += 1;
            self.serving.parts.metrics.window();
            self.events.push_back(WindowEvent::Window(Window {
                frames,
                answers: told,
            }));
        }
    }

    /// Has another version of a choice's split read the windows from now on.
    fn replace(&mut self, choice: usize, by: Arc<Asked>) {
        for Sliding { group, .. } in &mut self.groups {
            if let Some(place) = group.choices.iter().position(|own| *own == choice) {
                group.readers.asked[place] = Arc::clone(&by);
            }
        }
    }

    /// Ends the results of one choice.
    fn fail(&mut self, choice: usize, error: Error) {
        self.told[choice].has_failed = true;
        self.events.push_back(WindowEvent::Failed(choice, error));
        for sliding in &mut self.groups {
            let Group {
                readers, choices, ..
            } = &mut sliding.group;
            if let Some(place) = choices.iter().position(|own| *own == choice) {
                choices.remove(place);
                readers.asked.remove(place);
            }
        }
    }

    fn summary(&mut self) -> Summary {
        let told = std::mem::take(&mut self.told).into_iter().enumerate();
        let segments = told.filter(|(_, told)| !told.has_failed);
        let segments = segments.filter_map(|(choice, told)| {
            let (answer, segments) = told.segments?;
            let segments = segments.finish();
            Some((choice, TaskSegments { answer, segments }))
        });
        Summary {
            windows: self.windows,
            frames: self.probe.as_ref().map_or(0, |probe| probe.frames),
            duration: self
                .probe
                .as_ref()
                .map_or(Duration::ZERO, |probe| probe.duration),
            segments: segments.collect(),
        }
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        if self.probe.is_some() || self.outcome != "cancelled" {
            self.serving
                .parts
                .metrics
                .decoded(self.outcome, self.decode);
        }
    }
}

/// Whether an error concerns the whole stream, and not one version.
fn ends_all(error: &Error) -> bool {
    use engine::Error::{
        BeyondQuota, DeadlineExceeded, NotReady, QueueFull, RateExceeded, Stopped,
    };
    matches!(
        error,
        Error::Engine(
            BeyondQuota { .. }
                | DeadlineExceeded
                | NotReady
                | QueueFull { .. }
                | RateExceeded(_)
                | Stopped
        )
    )
}

/// Waits for a future; never ends when there is none.
async fn or_never<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
