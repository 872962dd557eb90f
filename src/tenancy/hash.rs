//! Hashes of secrets, and their comparison in constant time.
//!
//! A secret is 256 random bits, so that a slow hash would add nothing but work that strangers can ask for.

use std::fmt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::key::Key;
use crate::metadata::{HashKind, KeyRecord, SecretHash, Timestamp};
use crate::spec::Digest;

/// Fewest bytes of a pepper: as many as the hash has.
const LEAST_PEPPER: usize = 32;

/// A file with a secret, or with identities, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The pepper is too short to keep guesses out.
    #[error("{}: a pepper has at least {LEAST_PEPPER} bytes, this one has {bytes}", path.display())]
    ShortPepper {
        /// Path of the file.
        path: PathBuf,
        /// Bytes of the file, without white space at its end.
        bytes: usize,
    },
    /// The file does not hold a key.
    #[error("{}: expected a key (fsk_…), as `frameshift keys bootstrap` prints one", path.display())]
    NoKey {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file of identities cannot be used.
    #[error(transparent)]
    Identities(#[from] super::identities::Error),
}

/// Hashes secrets.
pub struct Hasher {
    pepper: Option<SecretBox<[u8]>>,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_pepper = self.pepper.is_some();
        f.debug_struct("Hasher")
            .field("has_pepper", &has_pepper)
            .finish()
    }
}

/// What a presented secret hashes to, in every way that a record may have it.
pub(super) struct Presented {
    /// SHA-256 of the secret.
    pub(super) sha256: [u8; 32],
    hmac: Option<[u8; 32]>,
}

impl Hasher {
    /// A hasher with the pepper of a file, or without one.
    ///
    /// # Errors
    /// When the file cannot be read or is too short.
    pub fn new(pepper: Option<&Path>) -> Result<Self, FileError> {
        let Some(path) = pepper else {
            return Ok(Self { pepper: None });
        };
        let bytes = read(path)?;
        let bytes = bytes.trim_ascii_end();
        if bytes.len() < LEAST_PEPPER {
            return Err(FileError::ShortPepper {
                path: path.into(),
                bytes: bytes.len(),
            });
        }
        let pepper = Some(SecretBox::new(bytes.into()));
        Ok(Self { pepper })
    }

    /// The hash under which a new secret is stored.
    pub fn stored(&self, key: &Key) -> SecretHash {
        let presented = self.presented(key);
        match presented.hmac {
            Some(digest) => SecretHash {
                kind: HashKind::HmacSha256,
                digest: Digest(digest),
            },
            None => SecretHash {
                kind: HashKind::Sha256,
                digest: Digest(presented.sha256),
            },
        }
    }

    pub(super) fn presented(&self, key: &Key) -> Presented {
        let secret = key.secret().as_bytes();
        let hmac = self.pepper.as_ref().and_then(|pepper| {
            // HMAC takes a key of any length.
            let mut mac = Hmac::<Sha256>::new_from_slice(pepper.expose_secret()).ok()?;
            mac.update(secret);
            Some(mac.finalize().into_bytes().into())
        });
        Presented {
            sha256: Sha256::digest(secret).into(),
            hmac,
        }
    }
}

/// A hash that no secret has to have: what a key that does not exist is compared with, so that its refusal takes the same work.
const NOBODY: SecretHash = SecretHash {
    kind: HashKind::Sha256,
    digest: Digest([0; 32]),
};

/// Which secret of a key was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// The newest.
    Newest,
    /// The one before, good until then.
    Previous(Timestamp),
    /// None of them.
    None,
}

impl Presented {
    /// Compares with both secrets of a key, whether it has them or exists at all.
    pub(super) fn compare(&self, key: Option<&KeyRecord>) -> Match {
        let newest = key.map_or(NOBODY, |key| key.hash);
        let previous = key.and_then(|key| key.previous);
        let is_newest = self.equals(&newest) & Choice::from(u8::from(key.is_some()));
        let is_previous = self.equals(&previous.map_or(NOBODY, |previous| previous.hash))
            & Choice::from(u8::from(previous.is_some()));
        match (bool::from(is_newest), bool::from(is_previous), previous) {
            (true, _, _) => Match::Newest,
            (false, true, Some(previous)) => Match::Previous(previous.end),
            (false, _, _) => Match::None,
        }
    }

    fn equals(&self, stored: &SecretHash) -> Choice {
        let (own, is_known) = match stored.kind {
            HashKind::Sha256 => (self.sha256, true),
            // Without the pepper nothing is equal.
            HashKind::HmacSha256 => (self.hmac.unwrap_or_default(), self.hmac.is_some()),
        };
        own.ct_eq(&stored.digest.0) & Choice::from(u8::from(is_known))
    }
}

/// The bytes of a file with a secret.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Read {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Scopes;

    fn record(hash: SecretHash, previous: Option<SecretHash>) -> KeyRecord {
        KeyRecord {
            id: "k".parse().unwrap(),
            tenant: None,
            display_name: String::new(),
            scopes: Scopes::default(),
            tasks: None,
            hash,
            previous: previous.map(|hash| crate::metadata::PreviousSecret { hash, end: 7 }),
            created_by: String::new(),
            create_time: 0,
            expire_time: None,
            revoke_time: None,
            last_use: None,
        }
    }

    fn peppered(text: &str) -> Hasher {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pepper");
        std::fs::write(&path, text).unwrap();
        Hasher::new(Some(&path)).unwrap()
    }

    #[test]
    fn a_secret_equals_its_own_hash_only() {
        for hasher in [Hasher { pepper: None }, peppered(&"p".repeat(32))] {
            let (own, other) = (Key::generate().unwrap(), Key::generate().unwrap());
            let key = record(hasher.stored(&own), Some(hasher.stored(&other)));
            assert_eq!(hasher.presented(&own).compare(Some(&key)), Match::Newest);
            assert_eq!(
                hasher.presented(&other).compare(Some(&key)),
                Match::Previous(7)
            );
            let stranger = Key::generate().unwrap();
            assert_eq!(hasher.presented(&stranger).compare(Some(&key)), Match::None);
            assert_eq!(hasher.presented(&own).compare(None), Match::None);
        }
    }

    #[test]
    fn with_a_pepper_a_stolen_hash_verifies_nothing_without_it() {
        let (right, wrong) = (peppered(&"p".repeat(32)), peppered(&"q".repeat(32)));
        let secret = Key::generate().unwrap();
        let key = record(right.stored(&secret), None);
        for hasher in [wrong, Hasher { pepper: None }] {
            assert_eq!(hasher.presented(&secret).compare(Some(&key)), Match::None);
        }
        // Keys from before the pepper stay good.
        let old = record(Hasher { pepper: None }.stored(&secret), None);
        assert_eq!(right.presented(&secret).compare(Some(&old)), Match::Newest);
    }

    #[test]
    fn a_short_pepper_is_refused_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pepper");
        std::fs::write(&path, "short\n").unwrap();
        let error = Hasher::new(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("this one has 5"), "{error}");
        assert!(Hasher::new(Some(&folder.path().join("absent"))).is_err());
    }
}
