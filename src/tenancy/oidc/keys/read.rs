//! Keys as issuers publish them: JSON Web Keys, of which those that sign tokens by an accepted algorithm are used.
//!
//! Invariant: no key is used that is weak, secret, or for something else than signatures.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Key, Set};

/// Fewest bits of an RSA key.
const RSA_BITS: usize = 2048;
/// Most keys of a set.
const KEYS: usize = 100;

impl Key {
    /// Reads a key, if it is one that signs tokens by an accepted algorithm.
    fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        // The list of kinds may grow.
        #[allow(clippy::wildcard_enum_match_arm)]
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
                match bits(&modulus) >= RSA_BITS {
                    true => &[Algorithm::RS256, Algorithm::PS256],
                    false => return None,
                }
            }
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // Secrets, other curves, and kinds that are yet to come.
            _ => return None,
        };
        let is_said = |algorithm: &&Algorithm| {
            let said = common.key_algorithm;
            said.is_none_or(|said| said == KeyAlgorithm::from(**algorithm))
        };
        let algorithms: Vec<Algorithm> = fitting.iter().filter(is_said).copied().collect();
        if !for_signatures || algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: common.key_id.clone(),
            algorithms,
            decoding: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

impl Set {
    /// Reads a key set. Keys that cannot be used are left out, since issuers have keys for other purposes, too.
    pub(in super::super) fn of(keys: &[Value]) -> Self {
        let read = keys.iter().take(KEYS);
        let read = read.filter_map(|key| Key::of(&Jwk::deserialize(key).ok()?));
        Self(read.map(Arc::new).collect())
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bits of a number.
fn bits(bytes: &[u8]) -> usize {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let rest = bytes.get(zeros..).unwrap_or_default();
    let first = rest.first().map_or(0, |first| first.leading_zeros());
    rest.len() * 8 - first as usize
}
