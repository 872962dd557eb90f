//! Gives the statuses that tonic makes by itself the details that every status of this server has.

use http::{Request, Response};
use tonic::body::Body;

use super::{Concern, Inner, answer};
use crate::rpc::status;

/// Header by which tonic tells a caller what it may compress messages with.
const ACCEPTS: &str = "grpc-accept-encoding";

/// Explains statuses.
#[derive(Debug, Clone)]
pub(super) struct Explained;

impl Concern for Explained {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let response = answer(next, request).await;
        let Some(status) = status::explained(response.headers(), &path) else {
            return response;
        };
        let mut explained: Response<Body> = status.into_http();
        if let Some(accepts) = response.headers().get(ACCEPTS) {
            explained.headers_mut().insert(ACCEPTS, accepts.clone());
        }
        explained
    }
}
