//! Tokens as strangers present them: their header is looked at, then their signature, then their claims.
//!
//! Invariant: nothing of a token decides by what it is verified, except which of the issuer's keys; a claim is read after the signature was checked.

use std::collections::BTreeSet;
use std::fmt;

use jsonwebtoken::{Algorithm, Validation, errors};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::Key;
use crate::tenancy::identities::rules::is_name;

/// Algorithms that are accepted: public keys alone, so that no key set can be used as a secret.
pub(super) const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];
/// Difference of clocks that is tolerated, in seconds.
const LEEWAY: u64 = 30;
/// Longest subject in bytes; OpenID Connect allows 255 characters of ASCII.
const SUBJECT: usize = 255;

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is no token.
    Malformed,
    /// It has more bytes than any token should.
    TooLong,
    /// No issuer of the configuration has its `iss`.
    Issuer,
    /// Its `alg` is none of the accepted ones.
    Algorithm,
    /// Its `typ` is that of something else.
    Type,
    /// The issuer has no key of its `kid` for its `alg`.
    Key,
    /// The signature is not that of the key.
    Signature,
    /// It is for somebody else.
    Audience,
    /// It has ended.
    Expired,
    /// Its time has not come.
    Immature,
    /// It has no subject, or one that cannot be a name.
    Subject,
}

impl Flaw {
    /// The flaw as a label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "token_too_long",
            Self::Issuer => "token_issuer",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::Key => "token_key",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Expired => "expired",
            Self::Immature => "token_immature",
            Self::Subject => "token_subject",
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a token says of itself before it is believed: where its key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) issuer: String,
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

/// The part of the payload that names the issuer.
#[derive(Deserialize)]
struct Peek {
    iss: String,
}

/// Reads what has to be known to find a token's key.
pub(super) fn head(token: &str) -> Result<Head, Flaw> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| of(&error))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Flaw::Algorithm);
    }
    // Access tokens say what they are (RFC 9068); a logout token or an encrypted one is for something else.
    let kind = header.typ.as_deref().unwrap_or("JWT");
    let kind = kind.strip_prefix("application/").unwrap_or(kind);
    if !["jwt", "at+jwt"]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(kind))
    {
        return Err(Flaw::Type);
    }
    // Only to find the key: the claims are read again from what the signature covers.
    let peek: Peek =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Flaw::Malformed)?;
    Ok(Head {
        issuer: peek.iss,
        algorithm: header.alg,
        key_id: header.kid,
    })
}

/// Claims of a token that was verified.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claims {
    pub(super) subject: String,
    /// End of the token, in seconds since the Unix epoch.
    pub(super) expires: i64,
    others: Map<String, Value>,
}

impl Claims {
    /// The words of a claim: a text is split at its spaces, a list has one in each place. Empty for anything else.
    pub(super) fn words(&self, claim: &str) -> Vec<&str> {
        match self.others.get(claim) {
            Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(_) | None => Vec::new(),
        }
    }
}

/// The payload. A claim that is there twice is refused where it decides something.
#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    exp: f64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Verifies a token with the key that its head names.
pub(super) fn verify(
    token: &str,
    head: &Head,
    key: &Key,
    (issuer, audiences): (&str, &BTreeSet<String>),
) -> Result<Claims, Flaw> {
    let mut validation = Validation::new(head.algorithm);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.aud = Some(audiences.iter().cloned().collect());
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let verified = jsonwebtoken::decode::<Payload>(token, key.decoding(), &validation);
    let Payload {
        iss,
        sub,
        exp,
        others,
    } = verified.map_err(|error| of(&error))?.claims;
    // The library accepts a list that has the issuer in it.
    if iss != issuer {
        return Err(Flaw::Issuer);
    }
    if sub.len() > SUBJECT || !is_name(&sub) {
        return Err(Flaw::Subject);
    }
    Ok(Claims {
        subject: sub,
        // Seconds; a number that is larger than any time saturates.
        expires: exp as i64,
        others,
    })
}

fn of(error: &errors::Error) -> Flaw {
    use errors::ErrorKind;
    #[allow(clippy::wildcard_enum_match_arm)]
    match error.kind() {
        ErrorKind::InvalidSignature => Flaw::Signature,
        ErrorKind::ExpiredSignature => Flaw::Expired,
        ErrorKind::ImmatureSignature => Flaw::Immature,
        ErrorKind::InvalidIssuer => Flaw::Issuer,
        ErrorKind::InvalidAudience => Flaw::Audience,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm => Flaw::Algorithm,
        // The list of kinds may grow.
        _ => Flaw::Malformed,
    }
}

/// Feeds a stranger's bytes to the reader of tokens; for fuzzing.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(head) = head(text) else { return };
    let key = Key::for_fuzzing(head.algorithm);
    let audiences = BTreeSet::from(["frameshift".to_owned()]);
    let issuer = head.issuer.clone();
    let verified = verify(text, &head, &key, (&issuer, &audiences));
    assert!(verified.is_err(), "nobody has this key's private half");
}
