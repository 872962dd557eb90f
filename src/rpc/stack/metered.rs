//! A request's body that is let through message by message: each draws its bytes first, and has to come in time.
//!
//! Invariant: of a message that has no room yet, only the frame that it begins in is held.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::budget::Place;
use super::framing::{Framing, Head};
use crate::rpc::pool::{Full, Pool, Share};
use crate::rpc::{MESSAGE_BYTES, status};
use crate::shutdown::Signal;

/// Time limits of a client that sends.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// Longest time between two frames.
    pub(super) idle: Duration,
    /// Longest time from a message's first byte to its last.
    pub(super) message: Duration,
    /// Longest time between two frames once the server drains.
    pub(super) idle_draining: Duration,
    pub(super) drain: Signal,
}

/// How a call's messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Messages are not compressed, or in a way that this server does not read.
    None,
    /// Messages are compressed as gzip.
    Gzip,
    /// Messages are compressed as zstd.
    Zstd,
}

impl Encoding {
    /// Returns the encoding that a call's headers state.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get("grpc-encoding").map(|name| name.as_bytes()) {
            Some(b"gzip") => Self::Gzip,
            Some(b"zstd") => Self::Zstd,
            Some(_) | None => Self::None,
        }
    }

    /// Most bytes that a message takes: as it came, and decompressed. What it says of its own size is not believed.
    fn largest(self, head: Head) -> u64 {
        let ratio = match self {
            Self::None => return head.length,
            // Deflate's longest match is 258 bytes and takes two bits.
            Self::Gzip => 1032,
            // A block of 128 KiB that repeats one byte takes four.
            Self::Zstd => 32_768,
        };
        match head.is_compressed {
            true => head.length + head.length.saturating_mul(ratio).min(MESSAGE_BYTES as u64),
            false => head.length,
        }
    }
}

/// The shares of a call's messages.
#[derive(Debug, Clone)]
pub(super) struct Held {
    shares: Arc<Mutex<Vec<Share>>>,
    /// Whether the shares are kept until the call is answered.
    whole_call: bool,
}

impl Held {
    pub(super) fn new(whole_call: bool) -> Self {
        Self {
            shares: Arc::default(),
            whole_call,
        }
    }

    /// Gives all shares back.
    pub(super) fn give_back(&self) {
        self.lock().clear();
    }

    fn message_is_done(&self) {
        if !self.whole_call {
            self.give_back();
        }
    }

    fn keep(&self, shares: Vec<Share>) {
        self.lock().extend(shares);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Drawing = Pin<Box<dyn Future<Output = Result<Vec<Share>, Full>> + Send>>;

/// What the body does next.
enum Next {
    /// Hands out what has come, or waits for more.
    Read,
    /// Waits for room for the message that this begins.
    Draw(Drawing, Bytes),
    /// The body is over.
    End,
}

/// A metered body.
pub(super) struct Metered {
    inner: Body,
    /// What came in the last frame and is not handed out yet.
    rest: Bytes,
    framing: Framing,
    encoding: Encoding,
    next: Next,
    pools: Vec<Pool>,
    held: Held,
    clock: Clock,
    _place: Option<Place>,
}

impl Metered {
    /// Creates a metered body, whose messages draw from `pools` in turn.
    pub(super) fn new(inner: Body, pools: Vec<Pool>, held: Held, patience: Patience) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            framing: Framing::new(),
            encoding: Encoding::None,
            next: Next::Read,
            pools,
            held,
            clock: Clock::new(patience),
            _place: None,
        }
    }

    /// Meters a body whose messages may be compressed.
    pub(super) fn encoded(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Returns the body with a place that is held until its end.
    pub(super) fn placed(mut self, place: Option<Place>) -> Self {
        self._place = place;
        self
    }

    /// Draws the bytes of a message that begins.
    fn draw(&self, head: Head) -> Drawing {
        let (pools, bytes) = (self.pools.clone(), self.encoding.largest(head));
        Box::pin(async move {
            let mut shares = Vec::with_capacity(pools.len());
            for pool in pools {
                shares.push(pool.take(bytes).await?);
            }
            Ok(shares)
        })
    }

    fn end_with(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.next = Next::End;
        self.rest = Bytes::new();
        self.held.give_back();
        Poll::Ready(Some(Err(status)))
    }

    /// What can be handed out of the last frame; none when more has to come, or room has to be drawn first.
    fn advance(&mut self) -> Result<Option<Bytes>, Status> {
        while self.rest.has_remaining() {
            if let Some(left) = self.framing.left() {
                let part = self.rest.split_to(left.min(self.rest.len()));
                self.framing.passed(part.len());
                if self.framing.left().is_none() {
                    self.clock.message_ended();
                }
                return Ok(Some(part));
            }
            if let Some(head) = self.framing.begin(&mut self.rest) {
                if head.length > MESSAGE_BYTES as u64 {
                    return Err(status::message_too_large(head.length, MESSAGE_BYTES as u64));
                }
                if head.length > 0 {
                    self.clock.message_began();
                }
                let bytes = Bytes::copy_from_slice(&head.bytes);
                self.next = Next::Draw(self.draw(head), bytes);
                return Ok(None);
            }
        }
        Ok(None)
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            match &mut this.next {
                Next::End => return Poll::Ready(None),
                Next::Draw(drawing, head) => match ready!(drawing.as_mut().poll(cx)) {
                    Ok(shares) => {
                        this.held.keep(shares);
                        let head = std::mem::take(head);
                        this.next = Next::Read;
                        this.clock.heard();
                        return Poll::Ready(Some(Ok(Frame::data(head))));
                    }
                    Err(full) => return this.end_with(status::of_pool(&full)),
                },
                // The message before was taken, or its reader would not ask for more.
                Next::Read if this.framing.left().is_none() => this.held.message_is_done(),
                Next::Read => {}
            }
            match this.advance() {
                Ok(Some(part)) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                Ok(None) if matches!(this.next, Next::Draw(..)) => continue,
                Ok(None) => {}
                Err(status) => return this.end_with(status),
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => {
                    let status = ready!(this.clock.poll_late(cx));
                    return this.end_with(status);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    this.clock.heard();
                    match frame.into_data() {
                        Ok(data) => this.rest = data,
                        Err(other) => return Poll::Ready(Some(Ok(other))),
                    }
                }
                Poll::Ready(Some(Err(error))) => return this.end_with(error),
                Poll::Ready(None) => {
                    this.next = Next::End;
                    // A message's torn begin is handed on as well: the decoder says what is wrong with it.
                    return Poll::Ready(this.framing.torn().map(|torn| Ok(Frame::data(torn))));
                }
            }
        }
    }
}

/// Says when a client has taken too long.
struct Clock {
    patience: Patience,
    heard: Instant,
    /// When the message that is coming began.
    began: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    drain: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Clock {
    fn new(patience: Patience) -> Self {
        let drain = patience.drain.clone();
        let now = Instant::now();
        Self {
            timer: Box::pin(tokio::time::sleep_until(now + patience.idle)),
            heard: now,
            began: None,
            drain: Some(Box::pin(async move { drain.draining().await })),
            patience,
        }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
    }

    fn message_began(&mut self) {
        self.began = Some(Instant::now());
    }

    fn message_ended(&mut self) {
        self.began = None;
    }

    /// Is ready when the client is late. It is polled while nothing comes: the timer is set again only when it goes off.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(drain) = &mut self.drain
            && drain.as_mut().poll(cx).is_ready()
        {
            self.drain = None;
            // A client that was silent for long gets the short limit once more, so that one between two frames is not cut off.
            self.heard = Instant::now();
            let end = self.heard + self.patience.idle_draining;
            self.timer.as_mut().reset(end);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let idle = match self.drain {
                Some(_) => self.patience.idle,
                None => self.patience.idle_draining,
            };
            let silent = self.heard + idle;
            let late = self.began.map(|began| began + self.patience.message);
            let now = Instant::now();
            if silent <= now {
                return Poll::Ready(match self.drain {
                    Some(_) => status::stream_idle(self.patience.idle),
                    None => status::draining(),
                });
            }
            if late.is_some_and(|late| late <= now) {
                return Poll::Ready(status::message_late(self.patience.message));
            }
            let next = late.map_or(silent, |late| late.min(silent));
            self.timer.as_mut().reset(next);
        }
    }
}
