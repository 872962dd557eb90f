//! Layers that every request passes on its way to a handler, outermost first.
//!
//! Invariant: whatever a handler or a client does, the caller gets one gRPC status with details, by its deadline, with the id of the request, and no more
//! is held of its messages than the budget has.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service, ServiceBuilder};

use super::auth::Callers;
use crate::telemetry::Traces;
use crate::telemetry::metrics::Metrics;

pub(super) mod body;
pub(super) mod budget;
pub(super) mod counted;
pub(super) mod deadline;
pub(super) mod drained;
pub(super) mod explained;
mod framing;
mod metered;
pub(super) mod observe;
pub(super) mod panic;
pub(super) mod request_id;
mod unread;

/// State that the layers share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
    pub(super) steps: drained::Steps,
    pub(super) budget: budget::Budget,
    pub(super) limits: budget::Limits,
    pub(super) callers: Callers,
}

/// The layers around every handler.
pub(super) fn layers<S: Inner>(
    shared: Shared,
) -> impl Layer<
    S,
    Service: Service<
        Request<Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
                 + Send
                 + 'static,
> + Clone {
    let Shared {
        metrics,
        traces,
        steps,
        budget,
        limits,
        callers,
    } = shared;
    let drain = steps.began.clone();
    ServiceBuilder::new()
        .layer(Around(unread::ReadOn))
        .layer(Around(request_id::Named))
        .layer(Around(observe::Observed::new(metrics, traces)))
        .layer(Around(panic::Caught))
        .layer(Around(drained::Drained::new(steps)))
        .layer(Around(deadline::Timed::new(limits.call)))
        .layer(Around(callers))
        .layer(Around(budget::Budgeted::new(budget, drain)))
        .layer(Around(explained::Explained))
}

/// A service that a layer here can stand around: the router, or another layer.
pub(super) trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// One concern around the handlers.
pub(super) trait Concern: Clone + Send + Sync + 'static {
    /// Handles a request with the rest of the stack.
    fn around<S: Inner>(
        &self,
        request: Request<Body>,
        next: S,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Calls the rest of the stack; it is always ready, so there is nothing to wait for first.
pub(super) async fn answer<S: Inner>(mut next: S, request: Request<Body>) -> Response<Body> {
    match next.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Time when a request came in, which the outermost layer sets as soon as it is called, before tonic starts its own timer, whose end would be CANCELLED.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived(pub(super) Instant);

/// Layer of a concern.
#[derive(Debug, Clone)]
struct Around<C>(C);

impl<C: Concern, S: Inner> Layer<S> for Around<C> {
    type Service = Surrounded<C, S>;

    fn layer(&self, inner: S) -> Surrounded<C, S> {
        Surrounded {
            concern: self.0.clone(),
            inner,
        }
    }
}

/// Service that a concern stands around.
#[derive(Debug, Clone)]
struct Surrounded<C, S> {
    concern: C,
    inner: S,
}

impl<C: Concern, S: Inner> Service<Request<Body>> for Surrounded<C, S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let extensions = request.extensions_mut();
        if extensions.get::<Arrived>().is_none() {
            extensions.insert(Arrived(Instant::now()));
        }
        // The clone takes the place of the service that was polled ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let concern = self.concern.clone();
        Box::pin(async move { Ok(concern.around(request, ready).await) })
    }
}

#[cfg(test)]
mod tests;
