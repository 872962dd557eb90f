//! While the server drains, ends the streams that would never end by themselves, and takes no new calls of the API once its grace is over; other calls in
//! flight finish.
//!
//! Invariant: every call is counted from its head to the end of its answer.

use http::{Request, Response};
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::body::Watched;
use super::{Concern, Inner, answer};
use crate::rpc::status;
use crate::shutdown::Signal;

/// Methods whose answers may go on for longer than a drain: as long as their caller likes, a video is long, or a data set is large.
const ENDLESS: [&str; 8] = [
    "/frameshift.v1.ClassificationService/ClassifyFrames",
    "/frameshift.v1.ClassificationService/ClassifyWindows",
    "/frameshift.v1.ClassificationService/ClassifyWindowsUpload",
    "/frameshift.v1.FineTuningService/WatchJob",
    "/frameshift.v1.TaskService/EvaluateVersion",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The steps of a drain, as calls notice them.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Steps {
    /// Signal at which endless streams end.
    pub(in crate::rpc) began: Signal,
    /// Signal from which new calls are refused.
    pub(in crate::rpc) refuses: Signal,
    /// Calls that have not ended.
    pub(in crate::rpc) calls: TaskTracker,
}

/// Watches for the drain.
#[derive(Debug, Clone)]
pub(super) struct Drained {
    steps: Steps,
}

impl Drained {
    pub(super) fn new(steps: Steps) -> Self {
        Self { steps }
    }
}

impl Concern for Drained {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let path = request.uri().path();
        // Health is asked while draining, too: that is how balancers learn of it.
        if self.steps.refuses.is_draining() && path.starts_with("/frameshift.") {
            return status::draining().into_http();
        }
        let counted = self.steps.calls.token();
        let endless = ENDLESS.contains(&path);
        let response = answer(next, request).await;
        let began = self.steps.began.clone();
        response.map(|body| {
            let body = match endless {
                true => Body::new(Watched::until(body, async move {
                    began.draining().await;
                    status::draining()
                })),
                false => body,
            };
            Body::new(Watched::reporting(body, move |_| drop(counted)))
        })
    }
}
