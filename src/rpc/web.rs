//! gRPC-Web, for browsers: a translation of its requests and answers, and which pages may read the answers.
//!
//! Invariant: without origins there is neither; the layers of the stack see the same requests as those of other clients. Cookies are no credentials here,
//! so that a page that is not on the list can do nothing in its visitor's name.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tonic_web::GrpcWebLayer;
use tower::layer::util::Identity;
use tower::util::{Either, option_layer};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::tenancy::HEADER;

/// Time for which a browser does not ask again what it may send.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// What a page may send beside what every page may.
const SENT: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static(HEADER),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-user-agent"),
];

/// What a page may read of an answer beside what every page may.
const READ: [HeaderName; 4] = [
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("x-request-id"),
];

/// Tells browsers which pages may call.
pub(super) fn origins(origins: &[HeaderValue]) -> Either<CorsLayer, Identity> {
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::POST])
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(REMEMBERED);
    option_layer((!origins.is_empty()).then_some(cors))
}

/// Translates calls of gRPC-Web.
pub(super) fn translation(origins: &[HeaderValue]) -> Either<GrpcWebLayer, Identity> {
    option_layer((!origins.is_empty()).then(GrpcWebLayer::new))
}
