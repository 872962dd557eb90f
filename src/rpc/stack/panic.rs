//! Turns a handler's panic into INTERNAL, so that the connection and its other requests live on.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use http::{Request, Response};
use tonic::body::Body;

use super::{Concern, Inner, answer};
use crate::rpc::status;

/// Catches panics.
#[derive(Debug, Clone)]
pub(super) struct Caught;

impl Concern for Caught {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        // A handler owns its state and shares only handles, which hold no lock across an await, so nothing half-changed is seen after the unwind.
        match AssertUnwindSafe(answer(next, request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => status::panicked(panic.as_ref()).into_http(),
        }
    }
}
