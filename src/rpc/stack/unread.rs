//! Bodies of requests that were answered before they were read: the rest is read and thrown away.
//!
//! HTTP/2 charges small frames to their connection until somebody reads them, and h2 never gives back the charge of a frame that comes after its body was
//! dropped (its `data_frame_budget`): some two thousand refused calls would end the connection with ENHANCE_YOUR_CALM, for every call that shares it.
//!
//! Invariant: what is thrown away is bounded in bytes and in time; the answer does not wait for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::runtime::Handle;
use tonic::Status;
use tonic::body::Body;

use super::{Concern, Inner, answer};

/// Bytes that are thrown away at most: those of a caller that goes on sending are not asked for.
const BYTES: usize = 64 << 10;
/// Time that the rest of a body has to come in.
const TIME: Duration = Duration::from_secs(1);

/// Reads to its end what a handler, or a layer that refuses, leaves of a request.
#[derive(Debug, Clone)]
pub(super) struct ReadOn;

impl Concern for ReadOn {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let request = request.map(|inner| match inner.is_end_stream() {
            true => inner,
            false => Body::new(Kept {
                inner,
                is_over: false,
            }),
        });
        answer(next, request).await
    }
}

/// A request's body that is read on when it is dropped before its end.
struct Kept {
    inner: Body,
    is_over: bool,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.is_over |= !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_over || self.inner.is_end_stream() {
            return;
        }
        // Without a runtime the connection is gone as well.
        if let Ok(runtime) = Handle::try_current() {
            let rest = std::mem::take(&mut self.inner);
            let mut rest = Box::pin(thrown_away(rest));
            // The small body of a unary call has mostly come by now, and needs no worker.
            if rest.as_mut().now_or_never().is_none() {
                runtime.spawn(tokio::time::timeout(TIME, rest));
            }
        }
    }
}

/// Reads a body until it ends or has had too many bytes.
async fn thrown_away(mut body: Body) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
