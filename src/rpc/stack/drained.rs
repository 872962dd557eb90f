//! While the server drains, takes no new calls of the API and ends the streams that would never end by themselves; other calls in flight finish.

use http::{Request, Response};
use tonic::body::Body;

use super::body::Watched;
use super::{Concern, Inner, answer};
use crate::rpc::status;
use crate::shutdown::Signal;

/// Methods whose answers go on for as long as their caller likes.
const ENDLESS: [&str; 4] = [
    "/frameshift.v1.FineTuningService/WatchJob",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Watches for the drain.
#[derive(Debug, Clone)]
pub(super) struct Drained {
    signal: Signal,
}

impl Drained {
    pub(super) fn new(signal: Signal) -> Self {
        Self { signal }
    }
}

impl Concern for Drained {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let path = request.uri().path();
        // Health is asked while draining, too: that is how balancers learn of it.
        if self.signal.is_draining() && path.starts_with("/frameshift.") {
            return status::draining().into_http();
        }
        let endless = ENDLESS.contains(&path);
        let response = answer(next, request).await;
        if !endless {
            return response;
        }
        let mut signal = self.signal.clone();
        let drain = async move {
            signal.draining().await;
            status::draining()
        };
        response.map(|body| Body::new(Watched::until(body, drain)))
    }
}
