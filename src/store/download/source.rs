//! Where a file comes from: a server's URL, or an object of a bucket.
//!
//! Invariant: bytes are handed on from the place where the server says that they begin.

use bytes::Bytes;
use futures::stream::BoxStream;

#[cfg(feature = "bucket")]
use std::sync::Arc;
#[cfg(feature = "bucket")]
use std::time::Duration;

#[cfg(feature = "bucket")]
use super::super::bucket::install_provider;
#[cfg(feature = "bucket")]
use futures::{StreamExt, TryStreamExt, stream};
#[cfg(feature = "bucket")]
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, path::Path};
#[cfg(feature = "bucket")]
use reqwest::{StatusCode, header};

use super::super::bucket::{Bucket, Invalid, Url};
use super::{Broken, Cause, Error};

/// Longest time to open a connection.
#[cfg(feature = "bucket")]
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of a file from a place on.
pub(super) struct Opened {
    pub(super) from: u64,
    pub(super) bytes: BoxStream<'static, Result<Bytes, Cause>>,
}

/// Where a file comes from.
pub(super) enum Source {
    /// A server that speaks HTTP.
    #[cfg(feature = "bucket")]
    Server(reqwest::Client, reqwest::Url),
    /// An object of a bucket.
    #[cfg(feature = "bucket")]
    Object(Arc<dyn ObjectStore>, Path),
}

#[cfg(not(feature = "bucket"))]
impl Source {
    pub(super) fn of(
        _url: &str,
        _bucket: impl FnOnce(Url) -> Result<Bucket, Invalid>,
    ) -> Result<Self, Error> {
        Err(Error::Feature)
    }

    #[allow(clippy::unused_async)]
    pub(super) async fn open(&self, _from: u64) -> Result<Opened, Broken> {
        match *self {}
    }
}

#[cfg(feature = "bucket")]
impl Source {
    pub(super) fn of(
        url: &str,
        bucket: impl FnOnce(Url) -> Result<Bucket, Invalid>,
    ) -> Result<Self, Error> {
        if !url.starts_with("https://") && !url.starts_with("http://") {
            let named: Url = url.parse().map_err(|invalid| match invalid {
                Invalid::Form(_) => Error::Url,
                other @ (Invalid::Prefix(_) | Invalid::Feature(_) | Invalid::Endpoint(_)) => {
                    Error::Bucket(other)
                }
            })?;
            let (store, path) = bucket(named)?.object().map_err(Error::Away)?;
            return Ok(Self::Object(store, path));
        }
        let url = reqwest::Url::parse(url).map_err(|_| Error::Url)?;
        install_provider();
        let client = reqwest::Client::builder().connect_timeout(CONNECT).build();
        let client = client.map_err(|error| Error::Away(error.into()))?;
        Ok(Self::Server(client, url))
    }

    /// Asks for the bytes from a place on.
    pub(super) async fn open(&self, from: u64) -> Result<Opened, Broken> {
        match self {
            Self::Server(client, url) => served(client, url, from).await,
            Self::Object(store, path) => stored(store.as_ref(), path, from).await,
        }
    }
}

#[cfg(feature = "bucket")]
fn away(error: impl Into<Cause>) -> Broken {
    Broken::Away(error.into())
}

#[cfg(feature = "bucket")]
fn refused(what: impl ToString) -> Broken {
    Broken::Final(Error::Refused(what.to_string()))
}

/// Asks a server.
#[cfg(feature = "bucket")]
async fn served(client: &reqwest::Client, url: &reqwest::Url, from: u64) -> Result<Opened, Broken> {
    let mut request = client.get(url.clone());
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    // A URL may have a signature in it, which is no part of a message.
    let answer = request.send().await;
    let answer = answer.map_err(|error| away(error.without_url()))?;
    let status = answer.status();
    let from = match status {
        StatusCode::PARTIAL_CONTENT if begins_at(&answer, from) => from,
        StatusCode::OK => 0,
        // Everything is there, or more than the file has: its digest tells.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let bytes = stream::empty().boxed();
            return Ok(Opened { from, bytes });
        }
        _ if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT =>
        {
            return Err(away(status.to_string()));
        }
        _ => return Err(refused(status)),
    };
    let bytes = stream::try_unfold(answer, async |mut answer| {
        let piece = answer.chunk().await;
        let piece = piece.map_err(|error| Cause::from(error.without_url()))?;
        Ok(piece.map(|piece| (piece, answer)))
    });
    Ok(Opened {
        from,
        bytes: bytes.boxed(),
    })
}

/// Whether the answer begins where it was asked to.
#[cfg(feature = "bucket")]
fn begins_at(answer: &reqwest::Response, from: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    let begin = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    begin.and_then(|begin| begin.parse().ok()) == Some(from)
}

/// Asks a bucket.
#[cfg(feature = "bucket")]
async fn stored(store: &dyn ObjectStore, path: &Path, from: u64) -> Result<Opened, Broken> {
    let failed = |error: object_store::Error| {
        let is_final = matches!(
            error,
            object_store::Error::NotFound { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
        );
        match is_final {
            true => refused(error),
            false => away(error),
        }
    };
    let size = store.head(path).await.map_err(failed)?.size;
    if from >= size {
        let bytes = stream::empty().boxed();
        return Ok(Opened { from, bytes });
    }
    let options = GetOptions {
        range: (from > 0).then_some(GetRange::Bounded(from..size)),
        ..GetOptions::default()
    };
    let found = store.get_opts(path, options).await.map_err(failed)?;
    let bytes = found.into_stream().map_err(Cause::from).boxed();
    Ok(Opened { from, bytes })
}
