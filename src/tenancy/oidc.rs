//! Tokens of OpenID Connect issuers: whom a token stands for.
//!
//! Invariant: a token is believed only by the keys of the issuer that it names, by an algorithm of our own list, for an audience of ours, and within its
//! time; what was verified is remembered for a minute at most, and never past the token's end. What verifies signatures is a library; ours are the
//! order of the checks and the cache.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Principal;
use super::credentials::Refused;
use super::identities::file::{ByClaim, Granted};
use super::identities::rules::{self, Grant, Identity, Rule, Standing};
use crate::ids::TenantId;
use crate::metadata::Timestamp;
use crate::spec::{Scope, Scopes};
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

#[cfg(feature = "oidc")]
mod fetch;
mod keys;
mod source;
pub(in crate::tenancy) mod token;

use keys::Keys;
use token::Claims;
pub use token::Flaw;

/// Longest token in bytes: the headers of a request have 16 KiB together.
const TOKEN: usize = 12 << 10;
/// Most tokens that are remembered: some 400 bytes each.
const TOKENS: usize = 20_000;
/// Longest time for which a token is remembered, in microseconds.
const REMEMBERED: i64 = 60_000_000;
/// Most tenants that a token can name.
const TENANTS: usize = 100;

/// An issuer of tokens, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) struct Issuer {
    /// The issuer's URL, which its tokens name exactly.
    pub(in crate::tenancy) url: Arc<str>,
    /// Audiences of which a token has to name one.
    pub(in crate::tenancy) audiences: BTreeSet<String>,
    /// PEM file with the authorities of the issuer's certificate; the system's when absent.
    pub(in crate::tenancy) ca_file: Option<PathBuf>,
    /// File with a bearer token for the issuer's own endpoints, as those of a Kubernetes cluster want one.
    pub(in crate::tenancy) token_file: Option<PathBuf>,
    pub(in crate::tenancy) by_claim: Option<ByClaim>,
    pub(in crate::tenancy) rules: Vec<Rule>,
}

/// When keys are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tenancy) struct Timing {
    /// Age at which keys are fetched anew.
    pub(in crate::tenancy) refresh: Duration,
    /// Shortest time between two fetches because of a key that is not known.
    pub(in crate::tenancy) unknown: Duration,
    /// Shortest time between two fetches while there are no keys at all.
    pub(in crate::tenancy) retry: Duration,
    /// Age at which keys are no longer used.
    pub(in crate::tenancy) stale_limit: Duration,
}

impl Timing {
    pub(in crate::tenancy) fn with_stale_limit(stale_limit: Duration) -> Self {
        Self {
            refresh: Duration::from_secs(5 * 60),
            unknown: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            stale_limit,
        }
    }
}

/// The issuers, and the tokens that were verified a moment ago.
#[derive(Debug)]
pub(in crate::tenancy) struct Issuers {
    issuers: Vec<(Issuer, Arc<Keys>)>,
    timing: Timing,
    metrics: Metrics,
    /// A plain mutex, because it is held for look-ups in memory and never across an await.
    tokens: Mutex<HashMap<[u8; 32], Verified>>,
}

#[derive(Debug)]
struct Verified {
    identity: Arc<Identity>,
    until: Timestamp,
}

impl Issuers {
    pub(in crate::tenancy) fn new(issuers: Vec<Issuer>, timing: Timing, metrics: Metrics) -> Self {
        let with_keys = |issuer: Issuer| {
            let keys = Arc::new(Keys::new(&issuer, timing, metrics.clone()));
            (issuer, keys)
        };
        Self {
            issuers: issuers.into_iter().map(with_keys).collect(),
            timing,
            metrics: metrics.clone(),
            tokens: Mutex::default(),
        }
    }

    /// Other issuers, of which those that are fetched in the same way keep their keys.
    pub(in crate::tenancy) fn renewed(&self, issuers: Vec<Issuer>) -> Self {
        let mut new = Self::new(issuers, self.timing, self.metrics.clone());
        for (issuer, keys) in &mut new.issuers {
            let mut before = self.issuers.iter();
            if let Some((_, known)) = before.find(|(_, known)| known.are_of(issuer)) {
                *keys = Arc::clone(known);
            }
        }
        new
    }

    /// Begins to fetch the keys that are due.
    pub(in crate::tenancy) fn refresh(&self) {
        for (_, keys) in &self.issuers {
            keys.refresh_if_due();
        }
    }

    /// Whom a token stands for that was verified a moment ago.
    pub(in crate::tenancy) fn known(&self, token: &str) -> Option<Arc<Identity>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let tokens = self.tokens();
        let verified = tokens.get(&digest)?;
        (verified.until > telemetry::now_micros()).then(|| Arc::clone(&verified.identity))
    }

    /// Whom a token stands for.
    pub(in crate::tenancy) async fn verify(&self, token: &str) -> Result<Arc<Identity>, Refused> {
        if token.len() > TOKEN {
            return Err(Refused::Token(Flaw::TooLong));
        }
        let head = token::head(token).map_err(Refused::Token)?;
        let named = |(issuer, _): &&(Issuer, Arc<Keys>)| *issuer.url == *head.issuer;
        let Some((issuer, keys)) = self.issuers.iter().find(named) else {
            return Err(Refused::Token(Flaw::Issuer));
        };
        let key = keys.find(&head).await?;
        let claims = token::verify(token, &head, &key, (&issuer.url, &issuer.audiences));
        let claims = claims.map_err(Refused::Token)?;
        let standing = standing(issuer, &claims).ok_or(Refused::Unmapped)?;
        let identity = Arc::new(Identity {
            principal: Principal::Subject {
                issuer: Arc::clone(&issuer.url),
                subject: claims.subject.into(),
            },
            standing,
        });
        let now = telemetry::now_micros();
        let end = claims.expires.saturating_mul(1_000_000);
        self.remember(
            token,
            now,
            Verified {
                identity: Arc::clone(&identity),
                until: end.min(now.saturating_add(REMEMBERED)),
            },
        );
        Ok(identity)
    }

    fn remember(&self, token: &str, now: Timestamp, verified: Verified) {
        let mut tokens = self.tokens();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, verified| verified.until > now);
        }
        if tokens.len() >= TOKENS {
            // One look more at the signatures of so many tokens is cheaper than an order by use.
            tokens.clear();
        }
        tokens.insert(Sha256::digest(token).into(), verified);
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token's subject and claims stand for: rules decide first, and claims for tenants of which no rule says anything.
fn standing(issuer: &Issuer, claims: &Claims) -> Option<Standing> {
    let by_rule = rules::standing(&issuer.rules, &claims.subject);
    let mut tenants = match by_rule {
        Some(Standing::Operator) => return Some(Standing::Operator),
        Some(Standing::Of(tenants)) => tenants,
        None => Default::default(),
    };
    if let Some(by_claim) = &issuer.by_claim {
        let scopes = match &by_claim.may {
            Granted::Always(scopes) => *scopes,
            Granted::Claim(claim) => scopes(claims, claim),
        };
        let named = claims.words(&by_claim.tenant);
        let named = named.into_iter().take(TENANTS);
        for tenant in named.filter_map(|name| name.parse::<TenantId>().ok()) {
            let grant = Grant {
                scopes,
                tasks: None,
            };
            tenants.entry(tenant).or_insert(grant);
        }
    }
    tenants.retain(|_, grant| !grant.scopes.is_empty());
    (!tenants.is_empty()).then_some(Standing::Of(tenants))
}

/// The scopes that a claim names. Words of others' meaning are passed over; what is the fleet's is not given by a claim.
fn scopes(claims: &Claims, claim: &str) -> Scopes {
    let words = claims.words(claim);
    let known = words.iter().filter_map(|word| word.parse().ok());
    known.filter(|scope| *scope != Scope::FleetAdmin).collect()
}

#[cfg(test)]
mod tests;
