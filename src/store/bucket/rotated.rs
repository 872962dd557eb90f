//! Static keys of S3 in a file that is read again when it changes.
//!
//! Invariant: requests go on with the last keys that could be read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::client::file;
use crate::blocking::blocking_io;

/// Time after which the file is read again.
const AGE: Duration = Duration::from_secs(10);

/// Keys from a file.
#[derive(Debug)]
struct Keys {
    path: PathBuf,
    /// The keys, and when they were read. Held for a look only, never across an await.
    last: Mutex<(Arc<AwsCredential>, Instant)>,
}

/// Reads the keys in a file, and again later while they are in use.
pub(super) fn keys(
    path: &Path,
) -> std::io::Result<Arc<dyn CredentialProvider<Credential = AwsCredential>>> {
    let first = (Arc::new(read(path)?), Instant::now());
    Ok(Arc::new(Keys {
        path: path.into(),
        last: Mutex::new(first),
    }))
}

fn read(path: &Path) -> std::io::Result<AwsCredential> {
    let pairs = file::read(path)?;
    let find = |name: &str| {
        let found = pairs.iter().find(|(key, _)| {
            key == name || key.strip_prefix("aws_").is_some_and(|key| key == name)
        });
        found.map(|(_, value)| value.clone())
    };
    let needed = |name: &str| {
        find(name).ok_or_else(|| {
            let problem = format!("the credentials file {} has no {name}", path.display());
            std::io::Error::new(std::io::ErrorKind::InvalidData, problem)
        })
    };
    Ok(AwsCredential {
        key_id: needed("access_key_id")?,
        secret_key: needed("secret_access_key")?,
        token: find("session_token"),
    })
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let (last, at) = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if at.elapsed() < AGE {
            return Ok(last);
        }
        let path = self.path.clone();
        let again = blocking_io(move || read(&path)).await;
        let keys = match again {
            Ok(keys) => Arc::new(keys),
            Err(error) => {
                tracing::warn!(%error, "the bucket's credentials cannot be read again; the last ones stay in use");
                last
            }
        };
        let now = (Arc::clone(&keys), Instant::now());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_are_needed_and_a_token_is_taken_when_it_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        std::fs::write(&path, "aws_access_key_id = a\n").expect("written");
        let error = read(&path).expect_err("one is missing").to_string();
        assert!(error.contains("secret_access_key"), "{error}");
        let all = "access_key_id=a\nsecret_access_key=b\nAWS_SESSION_TOKEN=c\n";
        std::fs::write(&path, all).expect("written");
        let keys = read(&path).expect("read");
        let token = keys.token.as_deref();
        assert_eq!(
            (&*keys.key_id, &*keys.secret_key, token),
            ("a", "b", Some("c"))
        );
    }
}
