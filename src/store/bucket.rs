//! Buckets by URL: which one, how it is reached, and with which credentials.
//!
//! Invariant: a URL and its settings are checked before anything is opened, and a bucket of a kind that this program was built without is refused;
//! secrets are never printed.

mod client;
#[cfg(feature = "s3")]
mod rotated;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use secrecy::SecretString;

use super::Error;
#[cfg(feature = "bucket")]
pub(super) use client::install_provider;

/// Service that keeps a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Amazon S3, or a server with its API.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Kind {
    /// Returns the name of the cargo feature that the kind needs.
    fn feature(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
        }
    }

    fn is_built(self) -> bool {
        match self {
            Self::S3 => cfg!(feature = "s3"),
            Self::Gcs => cfg!(feature = "gcs"),
            Self::Azure => cfg!(feature = "azure"),
        }
    }

    /// Prefixes of the variables of all kinds.
    pub const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

    /// Returns the prefix of the environment variables that the platform's own tools read for this kind.
    fn variables(self) -> &'static str {
        match self {
            Self::S3 => "AWS_",
            Self::Gcs => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }
}

/// Bucket and prefix that `objects_url` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    kind: Kind,
    bucket: String,
    prefix: Path,
}

/// Reason why a text names no bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The text is no URL, or one of another kind.
    #[error("expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX, got {0:?}")]
    Form(String),
    /// The prefix has empty parts, dots or characters that keys must not have.
    #[error("the prefix {0:?} is not a path of plain names")]
    Prefix(String),
    /// The program was built without this kind of bucket.
    #[error("this program was built without the feature {0}")]
    Feature(&'static str),
    /// The endpoint is no URL.
    #[error("expected http://HOST:PORT or https://HOST:PORT, got {0:?}")]
    Endpoint(String),
}

/// Returns a text as a message may quote it: without a name and a password before a host.
fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("...@{rest}"),
        None => text.into(),
    }
}

impl FromStr for Url {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let form = || Invalid::Form(shown(text));
        let url: Uri = text.parse().map_err(|_| form())?;
        let kind = match url.scheme_str() {
            Some("s3") => Kind::S3,
            Some("gs") => Kind::Gcs,
            Some("az") => Kind::Azure,
            Some(_) | None => return Err(form()),
        };
        let bucket = url.authority().ok_or_else(form)?.as_str();
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if bucket.is_empty() || !bucket.chars().all(is_name) || url.query().is_some() {
            return Err(form());
        }
        let prefix = url.path().trim_matches('/');
        let prefix = Path::parse(prefix).map_err(|_| Invalid::Prefix(prefix.into()))?;
        if !kind.is_built() {
            return Err(Invalid::Feature(kind.feature()));
        }
        Ok(Self {
            kind,
            bucket: bucket.into(),
            prefix,
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::S3 => "s3",
            Kind::Gcs => "gs",
            Kind::Azure => "az",
        };
        write!(f, "{scheme}://{}", self.bucket)?;
        if self.prefix.as_ref().is_empty() {
            return Ok(());
        }
        write!(f, "/{}", self.prefix)
    }
}

/// Bucket with everything that is needed to reach it.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Bucket and prefix.
    pub url: Url,
    /// URL of a self-hosted server; the platform's own when not set.
    pub endpoint: Option<String>,
    /// File with static credentials, `NAME = VALUE` a line; the platform's workload identity when not set.
    pub credentials: Option<PathBuf>,
    /// Variables of the environment that the platform's tools read, without those of other platforms.
    pub variables: Vec<(String, SecretString)>,
}

impl Bucket {
    /// Creates the description of a bucket from its settings and the whole environment, of which only the platform's variables are kept.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn new(
        url: Url,
        endpoint: Option<String>,
        credentials: Option<PathBuf>,
        environment: &[(String, SecretString)],
    ) -> Result<Self, Invalid> {
        if let Some(text) = &endpoint {
            let parsed = text.parse::<Uri>().ok();
            let is_good = parsed.is_some_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https"))
                    && url.host().is_some()
                    && url.query().is_none()
            });
            if !is_good || text.contains('@') {
                return Err(Invalid::Endpoint(shown(text)));
            }
        }
        let prefix = url.kind.variables();
        let variables = environment
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .cloned()
            .collect();
        Ok(Self {
            url,
            endpoint,
            credentials,
            variables,
        })
    }

    /// Creates the client of the bucket, whose keys begin after the prefix. Nothing is sent yet.
    pub(super) fn open(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Bucket {
            url: self.url.to_string(),
            source,
        };
        let store = client::build(self).map_err(failed)?;
        Ok(Arc::new(PrefixStore::new(store, self.url.prefix.clone())))
    }

    /// Creates the client of the bucket, and returns the path of the object that the whole URL names. Nothing is sent yet.
    #[cfg(feature = "bucket")]
    pub(super) fn object(
        &self,
    ) -> Result<(Arc<dyn ObjectStore>, Path), Box<dyn std::error::Error + Send + Sync>> {
        Ok((client::build(self)?, self.url.prefix.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_by_a_plain_url() {
        for (text, is_built) in [
            ("s3://videos/a/b", cfg!(feature = "s3")),
            ("gs://videos", cfg!(feature = "gcs")),
            ("az://videos/x", cfg!(feature = "azure")),
        ] {
            match text.parse::<Url>() {
                Ok(url) => assert!(is_built && url.to_string() == text, "{url}"),
                Err(error) => assert!(
                    !is_built && matches!(error, Invalid::Feature(_)),
                    "{text}: {error}"
                ),
            }
        }
        for wrong in [
            "",
            "videos",
            "file:///x",
            "http://host/x",
            "s3://",
            "s3://me:secret@videos/x",
            "s3://videos:80/x",
            "s3://videos/x?versionId=1",
        ] {
            let error = wrong.parse::<Url>().expect_err(wrong);
            assert!(matches!(error, Invalid::Form(_)), "{wrong}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for wrong in ["s3://videos/a//b", "s3://videos/../b"] {
            let error = wrong.parse::<Url>().expect_err(wrong);
            assert!(matches!(error, Invalid::Prefix(_)), "{wrong}: {error}");
        }
    }

    #[cfg(feature = "s3")]
    #[test]
    fn only_the_platforms_own_variables_are_kept_and_never_shown() {
        let environment = [
            ("AWS_SECRET_ACCESS_KEY", "very-secret"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "other"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), SecretString::from(value)));
        let url: Url = "s3://videos".parse().expect("a URL");
        let bucket = Bucket::new(url.clone(), None, None, &environment).expect("a bucket");
        let names: Vec<&str> = bucket.variables.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["AWS_SECRET_ACCESS_KEY"]);
        assert!(!format!("{bucket:?}").contains("very-secret"));
        for wrong in ["minio:9000", "ftp://x", "http://a:b@host", "https://h/?x=1"] {
            let made = Bucket::new(url.clone(), Some(wrong.into()), None, &[]);
            assert!(matches!(made, Err(Invalid::Endpoint(_))), "{wrong}");
        }
    }
}
