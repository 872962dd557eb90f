//! A response body that is watched to its end: for its time to stop, for a panic, and for the status that it ends with.
//!
//! Invariant: the end is reported exactly once: the trailers' status, or CANCELLED when the body is dropped before them. A body that always has more to
//! say is stopped like one that says nothing.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::rpc::status;

/// Called with the code that a body ended with.
type Report = Box<dyn FnOnce(Code) + Send>;

/// Completes with the status that a body is to end with when it has gone on for too long.
type Stop = Pin<Box<dyn Future<Output = Status> + Send>>;

/// Frames that a body may still give when its time is over: what it had to say at that moment, for example that health has changed.
const LAST_WORDS: u32 = 8;

/// Whether a body's time is over.
enum Time {
    /// The body may never end.
    Endless,
    /// The body's time is not over yet.
    Until(Stop),
    /// The body's time is over: the status that it ends with, and the number of frames that it gave since.
    Over(Status, u32),
}

impl Time {
    /// The status to end with, when that is now.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if let Self::Until(stop) = self
            && let Poll::Ready(status) = stop.as_mut().poll(cx)
        {
            *self = Self::Over(status, 0);
        }
        match self {
            Self::Over(status, _) => Some(status.clone()),
            Self::Endless | Self::Until(_) => None,
        }
    }

    /// As [`Time::poll`] for a body that has a frame to give: only those that go on and on end.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let status = self.poll(cx)?;
        if let Self::Over(_, given) = self {
            *given += 1;
            if *given <= LAST_WORDS {
                return None;
            }
        }
        Some(status)
    }
}

/// Response body that is watched to its end.
pub(super) struct Watched {
    inner: Body,
    time: Time,
    report: Option<Report>,
    ended: bool,
}

impl Watched {
    /// Ends a body with the status of `stop` when it is not over by then.
    pub(super) fn until(inner: Body, stop: impl Future<Output = Status> + Send + 'static) -> Self {
        Self {
            inner,
            time: Time::Until(Box::pin(stop)),
            report: None,
            ended: false,
        }
    }

    /// Reports the code that a body ends with.
    pub(super) fn reporting(inner: Body, report: impl FnOnce(Code) + Send + 'static) -> Self {
        Self {
            inner,
            time: Time::Endless,
            report: Some(Box::new(report)),
            ended: false,
        }
    }

    fn end(&mut self, code: Code) {
        self.ended = true;
        if let Some(report) = self.report.take() {
            report(code);
        }
    }

    fn end_with(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.end(status.code());
        let mut trailers = HeaderMap::new();
        Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(unwritable) => Err(unwritable),
        })
    }
}

/// The code in trailers or in the headers of an answer without a body.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    let value = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(value.as_bytes()))
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
            Pin::new(&mut this.inner).poll_frame(cx)
        }));
        let frame = match polled {
            Ok(Poll::Ready(frame)) => frame,
            Ok(Poll::Pending) => {
                return match this.time.poll(cx) {
                    Some(status) => Poll::Ready(this.end_with(&status)),
                    None => Poll::Pending,
                };
            }
            Err(panic) => return Poll::Ready(this.end_with(&status::panicked(panic.as_ref()))),
        };
        match &frame {
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => this.end(code(trailers).unwrap_or(Code::Unknown)),
                None => {
                    if let Some(status) = this.time.poll_ready(cx) {
                        return Poll::Ready(this.end_with(&status));
                    }
                }
            },
            Some(Err(error)) => this.end(error.code()),
            None => this.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}
