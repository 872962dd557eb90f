//! A live stream from its first frame to its end: frames are read, chosen and decoded in their order while windows are classified.
//!
//! Invariant: reading goes on whatever decoding and classification do (but for streams that asked to wait), so that what is left out is the caller's
//! choice and not the transport's.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;

use super::lines::nanos;
use super::pending::Pending;
use super::ring::{Picked, Ring, Seen};
use super::sampler::{Ended, Offered, Restart, Sampler};
use super::score::Shape;
use super::tally::Tally;
use super::{
    Coming, Counts, Event, Flaw, Frame, Live, MOST_BAD, Policy, Problem, WAITING, WINDOWS, Window,
};
use crate::engine;
use crate::fair::Class;
use crate::serving::Error;
use crate::telemetry::metrics::{LiveFrame, LiveWindow};
use crate::telemetry::trace::{Stage, stage};
use crate::video::{self, Lane, Still};

/// Reason why a live stream ended before its caller ended it.
#[derive(Debug)]
pub enum End<E> {
    /// The frames ended with an error.
    Input(E),
    /// The server cannot go on.
    Serving(Box<Error>),
    /// Too many frames in a row cannot be read; the last one's flaw.
    Unreadable(Flaw),
    /// Nobody reads the answers any more.
    Left,
}

impl<E> From<Error> for End<E> {
    fn from(error: Error) -> Self {
        Self::Serving(Box::new(error))
    }
}

/// Frames that were decoded, and the window that ends with them.
struct Looked {
    frames: Vec<(Coming, i64, Result<Still, video::Error>)>,
    ended: Option<Ended>,
    arrived: Instant,
    /// Time that decoding took.
    took: Duration,
}

/// A window whose answers are there.
struct Scored {
    window: Window,
    place: mpsc::OwnedPermit<Event>,
    arrived: Instant,
    ended: Instant,
}

impl Scored {
    /// Asks for the answers about a window that has room in the queue and a place for its answer; its frames came at a time and took another to decode.
    async fn of(
        mut window: Window,
        shape: &Shape,
        (permit, place): (engine::Permit, mpsc::OwnedPermit<Event>),
        (picked, decode, arrived): (Vec<Picked>, Duration, Instant),
    ) -> Result<Self, Error> {
        window.answers = shape.answers(permit, picked, decode).await?;
        Ok(Self {
            window,
            place,
            arrived,
            ended: Instant::now(),
        })
    }
}

/// What a stream holds while it runs.
struct Running {
    live: Live,
    shape: Shape,
    sampler: Sampler<Coming>,
    ring: Ring,
    pending: Pending,
    tally: Tally,
    events: mpsc::Sender<Event>,
    looking: Option<BoxFuture<'static, Looked>>,
    windows: FuturesOrdered<BoxFuture<'static, Result<Scored, Error>>>,
    /// Frames in a row that could not be read.
    bad: u32,
    /// Frames in a row that the server failed on.
    failures: u32,
    /// Frames that were chosen from, which are ticks where frames are counted.
    offered: i64,
}

impl Live {
    /// Reads frames and sends events until the frames end and every window is answered.
    ///
    /// # Errors
    /// When the frames end with an error, too many of them in a row cannot be read, the server cannot go on, or nobody reads the events.
    pub async fn run<E>(
        self,
        frames: impl Stream<Item = Result<Frame, E>> + Send,
        events: mpsc::Sender<Event>,
    ) -> Result<Counts, End<E>> {
        let mut frames = pin!(frames.fuse());
        let mut running = Running::new(self, events);
        let mut has_ended = false;
        loop {
            running.look();
            let is_idle = running.looking.is_none() && running.windows.is_empty();
            if has_ended && is_idle && running.pending.is_empty() {
                return Ok(running.tally.counts);
            }
            let reads = !has_ended && running.may_read();
            let left = running.events.clone();
            tokio::select! {
                frame = frames.next(), if reads => match frame {
                    Some(Ok(frame)) => running.take::<E>(frame)?,
                    Some(Err(error)) => return Err(End::Input(error)),
                    None => has_ended = true,
                },
                looked = wait(&mut running.looking) => {
                    running.looking = None;
                    running.looked::<E>(looked)?;
                }
                Some(scored) = running.windows.next() => running.scored(scored?),
                () = left.closed() => return Err(End::Left),
            }
        }
    }
}

/// The outcome of a future that may not be there.
async fn wait<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl Running {
    fn new(live: Live, events: mpsc::Sender<Event>) -> Self {
        Self {
            shape: Shape {
                serving: live.serving.clone(),
                caller: live.caller.clone(),
                choices: live.spec.choices.clone().into(),
                lines: live.lines.clone(),
            },
            sampler: Sampler::new(live.lines.grid.clone()),
            ring: Ring::new(live.lines.most_frames(), live.keeps),
            pending: Pending::new(WAITING, live.waiting_bytes(), live.spec.policy),
            tally: Tally::new(live.serving.parts.metrics.clone()),
            events,
            looking: None,
            windows: FuturesOrdered::new(),
            bad: 0,
            failures: 0,
            offered: 0,
            live,
        }
    }

    fn waits(&self) -> bool {
        self.live.spec.policy == Policy::Wait
    }

    /// Whether the next frame is read now: always, unless the caller is to be held back.
    fn may_read(&self) -> bool {
        !self.waits() || self.pending.fits(self.live.spec.largest)
    }

    /// Takes a frame that came.
    fn take<E>(&mut self, frame: Frame) -> Result<(), End<E>> {
        let number = self.tally.counts.received;
        self.tally.counts.received += 1;
        let got = frame.bytes.len();
        let spec = &self.live.spec;
        let flaw = match spec.coding.bytes() {
            Some(expected) if expected != got => Some(Flaw::Size { expected, got }),
            None if got > spec.largest => Some(Flaw::TooLarge {
                limit: spec.largest,
                got,
            }),
            Some(_) => {
                // Raw pixels of the right number are a picture.
                self.bad = 0;
                None
            }
            None => None,
        };
        if let Some(flaw) = flaw {
            return self.is_bad(number, frame.time, flaw);
        }
        let dropped = self.pending.push(Coming {
            number,
            time: frame.time,
            bytes: frame.bytes,
            arrived: Instant::now(),
        });
        self.tally.frames(LiveFrame::Dropped, dropped);
        Ok(())
    }

    /// Counts a frame that cannot be read and names it, when there is room to.
    fn is_bad<E>(&mut self, frame: u64, time: Duration, flaw: Flaw) -> Result<(), End<E>> {
        self.tally.frames(LiveFrame::Bad, 1);
        self.bad += 1;
        if self.bad >= MOST_BAD {
            return Err(End::Unreadable(flaw));
        }
        let problem = Problem { frame, time, flaw };
        // A caller that does not read still finds the frame among the counts.
        let _ = (self.events).try_send(Event::Problem(problem, self.tally.counts));
        Ok(())
    }

    /// Looks at waiting frames until one of them has something to do.
    fn look(&mut self) {
        while self.looking.is_none() && !(self.waits() && self.windows.len() >= WINDOWS) {
            let Some(frame) = self.pending.pop() else {
                return;
            };
            let arrived = frame.arrived;
            let tick = match self.live.lines.by_frames {
                true => self.offered,
                false => nanos(frame.time),
            };
            self.offered += 1;
            match self.sampler.offer(tick, frame) {
                Offered::Duplicate => self.tally.frames(LiveFrame::Duplicate, 1),
                Offered::Late => self.tally.frames(LiveFrame::Late, 1),
                Offered::Taken {
                    restart,
                    wanted,
                    ended,
                } => {
                    self.restart(restart);
                    if !wanted.is_empty() || ended.is_some() {
                        self.looking = Some(self.decode(wanted, ended, arrived));
                    }
                }
            }
        }
    }

    /// Forgets earlier frames when windows start over.
    fn restart(&mut self, restart: Option<Restart>) {
        match restart {
            Some(Restart::Gap) => self.tally.counts.gaps += 1,
            Some(Restart::Clock) => self.tally.counts.clock_resets += 1,
            None => return,
        }
        self.ring.clear();
    }

    fn decode(
        &self,
        wanted: Vec<(i64, Coming)>,
        ended: Option<Ended>,
        arrived: Instant,
    ) -> BoxFuture<'static, Looked> {
        let decoder = self.live.serving.parts.decoder.clone();
        let (caller, still) = (self.live.caller.clone(), self.live.still.clone());
        let lane = match caller.class {
            Class::Interactive => Lane::Interactive,
            Class::Batch => Lane::Batch,
        };
        let trace = self.live.trace(ended.as_ref());
        let decoding = async move {
            let (began, decoding) = (Instant::now(), stage(Stage::Decode));
            let mut frames = Vec::with_capacity(wanted.len());
            for (tick, mut frame) in wanted {
                let bytes = std::mem::take(&mut frame.bytes);
                let made = decoder.still(&caller.tenant, lane, bytes, &still).await;
                frames.push((frame, tick, made));
            }
            decoding.end(true);
            Looked {
                frames,
                ended,
                arrived,
                took: began.elapsed(),
            }
        };
        async move { trace.scope(decoding).await }.boxed()
    }

    /// Keeps what was decoded, and begins the window that it ends.
    fn looked<E>(&mut self, looked: Looked) -> Result<(), End<E>> {
        for (frame, tick, made) in looked.frames {
            match made {
                Ok(still) => {
                    (self.bad, self.failures) = (0, 0);
                    self.tally.used(still.size);
                    self.ring.push(Seen {
                        tick,
                        number: frame.number,
                        time: frame.time,
                        views: still.views,
                    });
                }
                Err(video::Error::Rejected(rejection)) => {
                    self.is_bad::<E>(frame.number, frame.time, Flaw::Rejected(rejection))?;
                }
                Err(error) => self.failed::<E>(error)?,
            }
        }
        let Some(ended) = looked.ended else {
            return Ok(());
        };
        self.tally.windows(LiveWindow::Several, ended.left_out);
        self.window::<E>(ended, looked.arrived, looked.took)?;
        let sampler = &self.sampler;
        let earliest = sampler.earliest();
        (self.ring).keep(|from, to| sampler.is_due(from.unwrap_or(earliest), to));
        Ok(())
    }

    /// The decoder failed on a frame, not for the frame's sake.
    fn failed<E>(&mut self, error: video::Error) -> Result<(), End<E>> {
        self.tally.frames(LiveFrame::Dropped, 1);
        if matches!(error, video::Error::QueueFull) {
            return Ok(());
        }
        self.failures += 1;
        if matches!(error, video::Error::Stopped) || self.failures >= MOST_BAD {
            return Err(Error::from(error).into());
        }
        let tenant = &self.live.caller.tenant;
        tracing::warn!(%tenant, %error, "a live frame could not be decoded");
        Ok(())
    }

    /// Begins to classify a window, unless it has to be left out.
    fn window<E>(
        &mut self,
        ended: Ended,
        arrived: Instant,
        decode: Duration,
    ) -> Result<(), End<E>> {
        let trace = self.live.trace(Some(&ended));
        let Some(picked) = self.ring.pick(&self.live.lines, ended.end) else {
            self.tally.windows(LiveWindow::Empty, 1);
            return Ok(());
        };
        let firsts = picked.iter().filter_map(|own| own.frames.first());
        let lasts = picked.iter().filter_map(|own| own.frames.last());
        let start = firsts.map(|frame| frame.time).min().unwrap_or_default();
        let end = lasts.map(|frame| frame.time).max().unwrap_or_default();
        let decoded = (picked, decode, arrived);
        let window = Window {
            number: ended.number,
            start,
            end,
            answers: Vec::new(),
            latency: Duration::ZERO,
        };
        let shape = self.shape.clone();
        if self.waits() {
            let events = self.events.clone();
            let left = |_| Error::from(engine::Error::Stopped);
            let scoring = async move {
                let place = events.reserve_owned().await.map_err(left)?;
                let admission = stage(Stage::Admit);
                let permit = shape.admit_in_time().await;
                admission.end(permit.is_ok());
                Scored::of(window, &shape, (permit?, place), decoded).await
            };
            let scoring = async move { trace.scope(scoring).await };
            self.windows.push_back(scoring.boxed());
            return Ok(());
        }
        if self.windows.len() >= WINDOWS {
            self.tally.windows(LiveWindow::Busy, 1);
            return Ok(());
        }
        let place = match self.events.clone().try_reserve_owned() {
            Ok(place) => place,
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(End::Left),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.tally.windows(LiveWindow::Unread, 1);
                return Ok(());
            }
        };
        let admission = trace.within(|| stage(Stage::Admit));
        let permit = shape.admit();
        admission.end(permit.is_ok());
        match permit {
            Ok(permit) => {
                let scoring =
                    async move { Scored::of(window, &shape, (permit, place), decoded).await };
                let scoring = async move { trace.scope(scoring).await };
                self.windows.push_back(scoring.boxed());
            }
            Err(engine::Error::QueueFull { .. }) => self.tally.windows(LiveWindow::QueueFull, 1),
            Err(engine::Error::RateExceeded(_)) => self.tally.windows(LiveWindow::RateExceeded, 1),
            Err(engine::Error::Unreachable { .. }) => {
                self.tally.windows(LiveWindow::Unreachable, 1);
            }
            Err(error) => return Err(Error::from(error).into()),
        }
        Ok(())
    }

    /// Sends what a window's tasks answered.
    fn scored(&mut self, scored: Scored) {
        let Scored {
            mut window,
            place,
            arrived,
            ended,
        } = scored;
        window.latency = arrived.elapsed();
        let trace = self.live.trace.of_part(window.number);
        trace.within(|| Stage::Answer.was((ended, Instant::now()), &[]));
        self.tally.windows(LiveWindow::Answered, 1);
        self.tally.metrics().live_window_took(window.latency);
        let counts = self.tally.counts;
        place.send(Event::Window(Box::new(window), counts));
    }
}
