//! Bodies whose bytes are counted for the caller's tenant.
//!
//! Invariant: every byte of a body that was passed on is counted once, at the latest when the body is dropped.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::ids::TenantId;
use crate::tenancy::{Tenants, Underway};

/// Bytes after which a long body is counted before its end.
const BYTES: u64 = 1 << 20;
/// Time after which a body that goes on is counted before its end.
const TIME: Duration = Duration::from_secs(10);

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rpc) enum Way {
    /// The body of a request.
    Received,
    /// The body of an answer.
    Sent,
}

/// A body whose bytes are counted.
pub(in crate::rpc) struct Counted {
    inner: Body,
    way: Way,
    tenants: Tenants,
    tenant: TenantId,
    bytes: u64,
    /// When bytes were counted last.
    counted: Instant,
    /// The call's place, which an answer holds to its end.
    _place: Option<Underway>,
}

impl Counted {
    /// Returns the same body with its bytes counted for a tenant, and with the place of its call; an empty one as it is.
    pub(in crate::rpc) fn body(
        inner: Body,
        way: Way,
        (tenants, tenant): (&Tenants, &TenantId),
        place: Option<Underway>,
    ) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        Body::new(Self {
            inner,
            way,
            tenants: tenants.clone(),
            tenant: tenant.clone(),
            bytes: 0,
            counted: Instant::now(),
            _place: place,
        })
    }

    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= BYTES || self.counted.elapsed() >= TIME {
            self.count();
        }
    }

    fn count(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.counted = Instant::now();
        let (received, sent) = match self.way {
            Way::Received => (bytes, 0),
            Way::Sent => (0, bytes),
        };
        if bytes > 0 {
            self.tenants.transferred(&self.tenant, received, sent);
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let bytes = data.remaining();
            self.add(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count();
    }
}
