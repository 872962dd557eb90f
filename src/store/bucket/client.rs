//! Clients of the kinds of buckets: time limits, retries and credentials.
//!
//! Invariant: every request ends within [`REQUEST`], no further try begins [`TRYING`] after the first, and a key is written by one writer with one
//! content, so that a repeated request is harmless.

use std::sync::Arc;
#[cfg(feature = "bucket")]
use std::time::Duration;

use object_store::ObjectStore;
#[cfg(feature = "bucket")]
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
#[cfg(feature = "bucket")]
use secrecy::ExposeSecret;

use super::Bucket;
#[cfg(feature = "bucket")]
use super::Kind;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Longest time to open a connection.
#[cfg(feature = "bucket")]
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time of one request, which moves 8 MiB at most.
#[cfg(feature = "bucket")]
const REQUEST: Duration = Duration::from_secs(30);
/// Time after which a failed request is not tried again.
#[cfg(feature = "bucket")]
const TRYING: Duration = Duration::from_secs(45);
/// Repetitions of a failed request.
#[cfg(feature = "bucket")]
const RETRIES: usize = 3;

pub(super) fn build(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, Cause> {
    match bucket.url.kind {
        #[cfg(feature = "s3")]
        Kind::S3 => s3(bucket),
        #[cfg(feature = "gcs")]
        Kind::Gcs => gcs(bucket),
        #[cfg(feature = "azure")]
        Kind::Azure => azure(bucket),
        #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
        kind => Err(super::Invalid::Feature(kind.feature()).into()),
    }
}

/// Chooses the TLS provider that HTTP clients of the process take; one that is there already is the same.
#[cfg(feature = "bucket")]
pub(in crate::store) fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(feature = "bucket")]
fn options(bucket: &Bucket) -> ClientOptions {
    install_provider();
    let endpoint = bucket.endpoint.as_deref();
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
        .with_allow_http(is_plain)
}

#[cfg(feature = "bucket")]
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 3.0,
        },
        max_retries: RETRIES,
        retry_timeout: TRYING,
    }
}

/// Returns the settings of a bucket's environment and credentials file, with names in lower case; the file's come last, so that they win.
#[cfg(feature = "bucket")]
fn values(bucket: &Bucket) -> Result<Vec<(String, String)>, Cause> {
    let own = bucket.variables.iter().map(|(name, value)| {
        let value = value.expose_secret().to_owned();
        (name.to_ascii_lowercase(), value)
    });
    let mut values: Vec<(String, String)> = own.collect();
    if let Some(path) = &bucket.credentials {
        values.extend(file::read(path)?);
    }
    Ok(values)
}

#[cfg(feature = "s3")]
fn s3(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, Cause> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    let mut builder = AmazonS3Builder::new();
    for (name, value) in values(bucket)? {
        if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_bucket_name(&bucket.url.bucket)
        // Not every server has the request that deletes many objects at once.
        .with_disable_bulk_delete(true)
        .with_client_options(options(bucket))
        .with_retry(retry());
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(path) = &bucket.credentials {
        builder = builder.with_credentials(super::rotated::keys(path)?);
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(feature = "gcs")]
fn gcs(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, Cause> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in values(bucket)? {
        if let Ok(key) = name.parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let builder = builder
        .with_bucket_name(&bucket.url.bucket)
        .with_client_options(options(bucket))
        .with_retry(retry());
    Ok(Arc::new(builder.build()?))
}

#[cfg(feature = "azure")]
fn azure(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, Cause> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in values(bucket)? {
        if let Ok(key) = name.parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let builder = builder
        .with_container_name(&bucket.url.bucket)
        .with_client_options(options(bucket))
        .with_retry(retry());
    Ok(Arc::new(builder.build()?))
}

/// Files with credentials.
#[cfg(feature = "bucket")]
pub(super) mod file {
    use std::io::{Error, ErrorKind, Read};
    use std::path::Path;

    /// Largest file, in bytes.
    const LARGEST: u64 = 64 << 10;

    /// Reads `NAME = VALUE` lines; empty lines, comments and `[profile]` lines say nothing. Names are in lower case.
    pub(in super::super) fn read(path: &Path) -> std::io::Result<Vec<(String, String)>> {
        let named = |error: Error| {
            let text = format!("the credentials file {}: {error}", path.display());
            Error::new(error.kind(), text)
        };
        let mut text = String::new();
        let mut file = std::fs::File::open(path).map_err(named)?.take(LARGEST + 1);
        file.read_to_string(&mut text).map_err(named)?;
        if text.len() as u64 > LARGEST {
            return Err(named(Error::new(ErrorKind::InvalidData, "it is too large")));
        }
        let lines = text.lines().map(str::trim).enumerate();
        let says = |line: &str| !line.is_empty() && !line.starts_with(['#', ';', '[']);
        let lines = lines.filter(|(_, line)| says(line));
        let pairs = lines.map(|(number, line)| {
            // The line itself may be a secret, so that only its number is said.
            let (name, value) = line.split_once('=').ok_or_else(|| {
                let problem = format!("line {} is not NAME = VALUE", number + 1);
                named(Error::new(ErrorKind::InvalidData, problem))
            })?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        pairs.collect()
    }
}

#[cfg(all(test, feature = "bucket"))]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_has_names_and_values_and_a_wrong_line_is_named_by_its_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let good = "[default]\n# ours\nAWS_ACCESS_KEY_ID = a\naws_secret_access_key=b=c\n\n";
        std::fs::write(&path, good).expect("written");
        let pairs = file::read(&path).expect("read");
        let expected = [("aws_access_key_id", "a"), ("aws_secret_access_key", "b=c")];
        assert_eq!(
            pairs,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
        std::fs::write(&path, "a = b\nthe-secret-itself\n").expect("written");
        let error = file::read(&path).expect_err("not a pair").to_string();
        assert!(
            error.contains("line 2") && !error.contains("secret"),
            "{error}"
        );
        std::fs::write(&path, "a".repeat(100_000)).expect("written");
        assert!(file::read(&path).is_err());
        assert!(file::read(&folder.path().join("nothing")).is_err());
    }
}
