//! Where an issuer's keys come from, and why they do not come.

use std::path::PathBuf;
use std::sync::Arc;

use super::Issuer;
use super::keys::Set;

/// How an issuer's keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) url: Arc<str>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) token_file: Option<PathBuf>,
}

impl Source {
    pub(super) fn of(issuer: &Issuer) -> Self {
        Self {
            url: Arc::clone(&issuer.url),
            ca_file: issuer.ca_file.clone(),
            token_file: issuer.token_file.clone(),
        }
    }

    /// Fetches the issuer's keys.
    #[cfg(feature = "oidc")]
    pub(super) async fn keys(&self) -> Result<Set, Error> {
        super::fetch::keys(self).await
    }

    /// The configuration refuses issuers where the program has no HTTP client.
    #[cfg(not(feature = "oidc"))]
    #[allow(clippy::unused_async)]
    pub(super) async fn keys(&self) -> Result<Set, Error> {
        Err(Error::Feature)
    }
}

/// Why the keys could not be fetched.
#[cfg_attr(not(feature = "oidc"), allow(dead_code))]
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A file of the configuration cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file of the configuration cannot be used.
    #[error("{}: {problem}", path.display())]
    Unfit { path: PathBuf, problem: String },
    /// The program has no HTTP client.
    #[cfg(not(feature = "oidc"))]
    #[error("this program was built without the cargo feature `oidc`")]
    Feature,
    /// The issuer cannot be asked, or answers something else.
    #[error("{url}: {problem}")]
    Answer { url: String, problem: String },
}
