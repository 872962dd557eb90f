//! Page tokens as callers see them: bound to the caller's tenant by an HMAC.
//!
//! Invariant: a token that another tenant was given, or that somebody made up, is refused before anything is looked up by it; a token has nothing in it
//! but a place in the caller's own listing.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

use super::bootstrap;
use crate::ids::TenantId;
use crate::metadata::MetadataStore;
use crate::spec::Digest;

/// Bytes of a token's seal: half of the HMAC, as RFC 2104 recommends at least.
const SEAL: usize = 16;
/// Longest token that is looked at, in bytes.
const TOKEN: usize = 4096;

/// A page token that is not one of the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page_token is not from an answer to this caller")]
pub struct Foreign;

/// Seals page tokens, with one key for all servers of a database. Clones share the key.
#[derive(Clone)]
pub struct Pages(Arc<SecretBox<[u8; 32]>>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    /// Seals with the key that all servers of the same records share; the first of them makes it.
    ///
    /// # Errors
    /// When there are no random numbers, or the records cannot be read.
    pub async fn of(records: &dyn MetadataStore) -> Result<Self, bootstrap::Error> {
        let mut proposed = [0; 32];
        getrandom::fill(&mut proposed)
            .map_err(|error| bootstrap::Error::NoRandomness(error.into()))?;
        Ok(Self::new(records.page_key(Digest(proposed)).await?.0))
    }

    /// Seals with a key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(key))))
    }

    /// The token of a listing as the tenant's callers see it; `None` stands for operators. An empty token, which ends a listing, stays empty.
    pub fn seal(&self, tenant: Option<&TenantId>, token: &str) -> String {
        if token.is_empty() {
            return String::new();
        }
        let seal = self.mac(tenant, token).finalize().into_bytes();
        let mut bytes = seal.get(..SEAL).unwrap_or_default().to_vec();
        bytes.extend_from_slice(token.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The token of a listing that a caller presents. An empty one, which begins a listing, stays empty.
    ///
    /// # Errors
    /// When the token was not sealed for this tenant.
    pub fn open(&self, tenant: Option<&TenantId>, token: &str) -> Result<String, Foreign> {
        if token.is_empty() {
            return Ok(String::new());
        }
        if token.len() > TOKEN {
            return Err(Foreign);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Foreign)?;
        let (seal, inner) = bytes.split_at_checked(SEAL).ok_or(Foreign)?;
        let inner = std::str::from_utf8(inner).map_err(|_| Foreign)?;
        let mac = self.mac(tenant, inner);
        // The comparison takes the same time wherever they differ.
        mac.verify_truncated_left(seal).map_err(|_| Foreign)?;
        Ok(inner.to_owned())
    }

    fn mac(&self, tenant: Option<&TenantId>, token: &str) -> Hmac<Sha256> {
        // A key that is shorter than the hash's block is filled up with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(self.0.expose_secret());
        let mut mac = Hmac::<Sha256>::new(&block.into());
        // A tenant's name has no byte of zero.
        mac.update(b"page token\0");
        mac.update(tenant.map_or("", TenantId::as_str).as_bytes());
        mac.update(&[0]);
        mac.update(token.as_bytes());
        mac
    }
}

/// Feeds a stranger's bytes to the reader of page tokens; for fuzzing.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let pages = Pages::new([7; 32]);
    match pages.open(None, text) {
        Ok(inner) => assert!(text.is_empty() && inner.is_empty(), "nobody has this key"),
        Err(Foreign) => assert!(!text.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_good_for_its_own_tenant_alone() {
        let pages = Pages::new([1; 32]);
        let (acme, globex): (TenantId, TenantId) =
            ("acme".parse().unwrap(), "globex".parse().unwrap());
        let token = pages.seal(Some(&acme), "dmlkZW9zOmE");
        assert_eq!(pages.open(Some(&acme), &token).unwrap(), "dmlkZW9zOmE");
        for other in [Some(&globex), None] {
            assert_eq!(pages.open(other, &token), Err(Foreign));
        }
        let others = Pages::new([2; 32]);
        assert_eq!(others.open(Some(&acme), &token), Err(Foreign));
        assert_eq!(pages.open(Some(&acme), "dmlkZW9zOmE"), Err(Foreign));
        assert_eq!(pages.seal(Some(&acme), ""), "");
        assert_eq!(pages.open(Some(&acme), ""), Ok(String::new()));
        assert!(!format!("{pages:?}").contains('1'));
    }

    #[test]
    fn every_changed_character_is_found() {
        let pages = Pages::new([1; 32]);
        let token = pages.seal(None, "dmlkZW9zOmE");
        for at in 0..token.len() {
            for letter in ['A', 'z', '0', '_', '=', 'é'] {
                let mut wrong: Vec<char> = token.chars().collect();
                wrong[at] = letter;
                let wrong: String = wrong.into_iter().collect();
                if wrong != token {
                    assert_eq!(pages.open(None, &wrong), Err(Foreign), "{wrong}");
                }
            }
        }
        assert_eq!(pages.open(None, &"A".repeat(TOKEN + 4)), Err(Foreign));
    }

    proptest! {
        #![proptest_config(crate::inputs())]

        #[test]
        fn strangers_tokens_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn texts_that_look_like_tokens_are_read_without_a_panic(text in "[A-Za-z0-9_-]{0,120}") {
            fuzz(text.as_bytes());
        }

        #[test]
        fn what_is_sealed_opens_again(key in any::<[u8; 32]>(), token in "[A-Za-z0-9_-]{0,60}") {
            let pages = Pages::new(key);
            prop_assert_eq!(pages.open(None, &pages.seal(None, &token)), Ok(token));
        }
    }
}
