//! Gives every request an id, which the log, the answer and the caller share.

use http::{HeaderValue, Request, Response};
use tonic::body::Body;

use super::{Concern, Inner, answer};
use crate::ids::RequestId;

/// Header of the id, in requests and answers.
pub(in crate::rpc) const HEADER: &str = "x-request-id";
const LONGEST: usize = 64;

/// A request's id, in its extensions.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Name(pub(in crate::rpc) HeaderValue);

impl Name {
    /// The id as text.
    pub(in crate::rpc) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Takes the caller's id when it is short and printable, else makes one.
#[derive(Debug, Clone)]
pub(super) struct Named;

impl Concern for Named {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        let given = request.headers().get(HEADER);
        let name = match given.filter(|id| is_clean(id)) {
            Some(id) => id.clone(),
            None => made(),
        };
        request.extensions_mut().insert(Name(name.clone()));
        let mut response = answer(next, request).await;
        response.headers_mut().insert(HEADER, name);
        response
    }
}

fn is_clean(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

fn made() -> HeaderValue {
    // A UUID is ASCII, so the alternative is never taken.
    HeaderValue::from_str(&RequestId::generate().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}
