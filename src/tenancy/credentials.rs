//! Verifies credentials: which caller a bearer's key or token, or a client's certificate, stands for.
//!
//! Invariant: a key that was revoked, has expired, or belongs to a suspended tenant is refused at the latest when the change feed was read; a refusal
//! tells its reason to the audit log only. While the database is away, keys that were good stay so for a stated time, and never past their own end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::cache::{Cache, Verified, Wrong};
use super::hash::{FileError, Hasher, Match};
use super::identities::{Identities, Identity};
use super::key::Key;
use super::oidc::Flaw;
use super::tls::Certificate;
use super::{Caller, Config, Error, Method, Principal, Source, hash};
use crate::ids::{KeyId, TenantId};
use crate::metadata::{
    self, KeyRecord, KnownKey, MetadataStore, RefusedRecord, TenantState, Timestamp,
};
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

mod feed;
mod untold;

/// Why a credential is refused. Callers get one answer for all but the last five.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("no credential")]
    Missing,
    /// There are several, and guessing which one counts would be a way around one of them.
    #[error("several credentials")]
    Several,
    /// The credential is none of the accepted kinds.
    #[error("malformed credential")]
    Malformed,
    /// The token is not accepted.
    #[error("token: {0}")]
    Token(Flaw),
    /// Nobody is known by the name of the token or certificate.
    #[error("no rule for this subject or certificate")]
    Unmapped,
    /// No key has the id.
    #[error("unknown key")]
    Unknown,
    /// The secret is not that of the key.
    #[error("wrong secret")]
    WrongSecret,
    /// The key, or the secret that a rotation replaced, has ended.
    #[error("expired key")]
    Expired,
    /// The key was revoked.
    #[error("revoked key")]
    Revoked,
    /// The credential is good, but its tenant is suspended.
    #[error("suspended tenant")]
    Suspended,
    /// Too many credentials from the same address were refused.
    #[error("too many refused credentials")]
    Crowded,
    /// The issuer's keys cannot be fetched.
    #[error("the issuer is away")]
    IssuerAway,
    /// The key is good, but its tenant is being erased.
    #[error("erased tenant")]
    Erased,
    /// The database cannot be asked.
    #[error("the database is away")]
    Unavailable(#[source] metadata::Error),
}

impl Refused {
    /// The reason as a label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Several => "several",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Token(flaw) => flaw.label(),
            Self::Unmapped => "unmapped",
            Self::Crowded => "crowded",
            Self::IssuerAway => "issuer_away",
            Self::Erased => "erased",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl Refused {
    /// Whether it was the credential's own fault, so that it counts as an attempt.
    pub(crate) fn is_wrong(&self) -> bool {
        match self {
            Self::Missing | Self::Several | Self::Malformed => false,
            Self::Suspended | Self::Erased => false,
            Self::Crowded | Self::IssuerAway | Self::Unavailable(_) => false,
            Self::Unknown | Self::WrongSecret | Self::Expired | Self::Revoked => true,
            Self::Token(_) | Self::Unmapped => true,
        }
    }
}

/// What a request shows of its caller.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Credential of the bearer, if there is one.
    pub bearer: Option<&'a str>,
    /// Certificate of the connection, if the client has shown one.
    pub certificate: Option<&'a Certificate>,
    /// Address of the connection.
    pub source: Source,
}

/// Who a credential proves its bearer to be.
#[derive(Debug, Clone)]
pub enum Proven {
    /// A key's caller, with its tenant.
    Caller(Caller),
    /// Somebody whom others vouch for, who has yet to choose a tenant.
    Identity(Arc<Identity>),
}

/// Why somebody who is proven cannot call for a tenant.
#[derive(Debug, thiserror::Error)]
pub enum Turned {
    /// The tenant is not the caller's, or none is chosen.
    #[error(transparent)]
    Tenant(#[from] Error),
    /// The tenant is not served, or cannot be looked up.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Verifies credentials. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    hasher: Hasher,
    identities: Option<Identities>,
    attempts: Attempts,
    metrics: Metrics,
    metadata: Arc<dyn MetadataStore>,
    /// A plain mutex, because it is held for look-ups in memory and never across an await.
    cache: Mutex<Cache>,
    /// Days of uses that are not on record yet.
    uses: Mutex<HashMap<KeyId, i64>>,
    /// Refusals that the audit log has yet to be told of.
    refused: Mutex<untold::Untold>,
    hint: Notify,
}

impl Credentials {
    /// Credentials that are on record in `metadata`.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used.
    pub fn new(
        config: Config,
        metadata: Arc<dyn MetadataStore>,
        metrics: Metrics,
    ) -> Result<Self, FileError> {
        let identities = config.identities.clone();
        let identities = identities.map(|config| Identities::load(config, metrics.clone()));
        Ok(Self(Arc::new(Inner {
            hasher: Hasher::new(config.pepper_file.as_deref())?,
            identities: identities.transpose()?,
            attempts: Attempts::new(config.attempts),
            config,
            metrics,
            metadata,
            cache: Mutex::default(),
            uses: Mutex::default(),
            refused: Mutex::default(),
            hint: Notify::new(),
        })))
    }

    /// Whether callers have to prove who they are.
    pub fn are_required(&self) -> bool {
        !self.0.config.methods.is_empty()
    }

    pub(super) fn hasher(&self) -> &Hasher {
        &self.0.hasher
    }

    pub(super) fn metadata(&self) -> &dyn MetadataStore {
        &*self.0.metadata
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Identities that others vouch for, when there are any.
    pub fn identities(&self) -> Option<Identities> {
        self.0.identities.clone()
    }

    /// Who a request's credential proves its caller to be. A bearer's credential counts; a certificate is the caller's when there is no bearer.
    ///
    /// # Errors
    /// When the credential is refused; with the id of its key, known or not, for the audit log.
    pub async fn prove(
        &self,
        presented: Presented<'_>,
    ) -> Result<Proven, (Option<KeyId>, Refused)> {
        let accepts = |method: Method| self.0.config.methods.contains(&method);
        let Some(bearer) = presented.bearer else {
            return match (presented.certificate, &self.0.identities) {
                (Some(certificate), Some(identities)) if accepts(Method::Mtls) => {
                    certified(identities, certificate).map_err(|refused| (None, refused))
                }
                (Some(_) | None, _) => Err((None, Refused::Missing)),
            };
        };
        let source = presented.source;
        if Key::is_one(bearer) {
            let Some(key) = Key::parse(bearer).filter(|_| accepts(Method::Keys)) else {
                return Err((None, Refused::Malformed));
            };
            let hashed = self.0.hasher.presented(&key);
            // One that was good when it was looked up last is looked up again, whatever others at its address do.
            let is_known = self.cache().verified(key.id(), hashed.sha256).is_some();
            let verified = match is_known || self.0.attempts.may(source) {
                true => self.verify_key(&key, hashed).await,
                false => Err(Refused::Crowded),
            };
            let verified = verified.map_err(|refused| {
                self.count(&refused, source, bearer);
                (Some(key.id().clone()), refused)
            });
            return verified.map(Proven::Caller);
        }
        let verified = match &self.0.identities {
            Some(identities) if accepts(Method::Oidc) => {
                if let Some(known) = identities.known_token(bearer) {
                    return Ok(Proven::Identity(known));
                }
                match self.0.attempts.may(source) {
                    true => identities.of_token(bearer).await,
                    false => Err(Refused::Crowded),
                }
            }
            Some(_) | None => Err(Refused::Malformed),
        };
        let verified = verified.map_err(|refused| {
            self.count(&refused, source, bearer);
            (None, refused)
        });
        verified.map(Proven::Identity)
    }

    /// Notes a refused credential of an address, and tells the audit log of an address that tries many.
    fn count(&self, refused: &Refused, source: Source, bearer: &str) {
        let is_crowded = matches!(refused, Refused::Crowded);
        if !is_crowded && !refused.is_wrong() {
            return;
        }
        if let Some(different) = self.0.attempts.failed(source, bearer) {
            self.0.metrics.credentials_guessed();
            tracing::warn!(
                target: "audit",
                %source, different, "an address tries many credentials"
            );
            self.refusal(RefusedRecord {
                source: source.to_string(),
                called: String::new(),
                detail: format!("different={different}"),
            });
        }
    }

    /// The caller of a request whose credential was accepted, for the tenant that its header names.
    ///
    /// # Errors
    /// When the tenant is not the caller's, is not chosen, does not exist, or is not served.
    pub async fn caller<'a>(
        &self,
        proven: Proven,
        tenants: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Caller, Turned> {
        let identity = match proven {
            Proven::Caller(caller) => return Ok(caller.within(tenants)?),
            Proven::Identity(identity) => identity,
        };
        let caller = identity.choose(super::named(tenants)?)?;
        let Some(tenant) = &caller.tenant else {
            return Ok(caller);
        };
        match self.state(tenant).await? {
            Some(TenantState::Active) => Ok(caller),
            // To its callers a tenant that does not exist is as one that is another's.
            None => Err(Error::Foreign.into()),
            Some(TenantState::Suspended) => Err(Refused::Suspended.into()),
            Some(TenantState::Erasing) => Err(Refused::Erased.into()),
        }
    }

    /// Whether a tenant's callers are served; `None` for one that does not exist. What was known stays so while the database is away, for a time.
    async fn state(&self, tenant: &TenantId) -> Result<Option<TenantState>, Refused> {
        let now = Instant::now();
        let (ticket, older) = {
            let cache = self.cache();
            match cache.state(tenant) {
                Some((state, asked)) if now.duration_since(asked) < self.0.config.fresh => {
                    return Ok(state);
                }
                older => (cache.ticket(), older),
            }
        };
        // Its row alone: what it stores is not counted for a caller. A tenant that is erased is so after its row is gone, too.
        let state = match self.0.metadata.get_terms(tenant).await {
            Ok(terms) => terms.map(|terms| terms.state),
            Err(error) => {
                return match older {
                    Some((state, asked))
                        if error.is_temporary()
                            && now.duration_since(asked) < self.0.config.stale_limit =>
                    {
                        Ok(state)
                    }
                    Some(_) | None => Err(Refused::Unavailable(error)),
                };
            }
        };
        self.cache().keep_state(ticket, tenant, state, now);
        Ok(state)
    }

    /// The caller that a key stands for, and the id of the key, known or not.
    #[cfg(test)]
    async fn verify(&self, bearer: &str) -> Result<Caller, (Option<KeyId>, Refused)> {
        let presented = Presented {
            bearer: Some(bearer),
            certificate: None,
            source: Source::Others,
        };
        match self.prove(presented).await? {
            Proven::Caller(caller) => Ok(caller),
            Proven::Identity(_) => Err((None, Refused::Malformed)),
        }
    }

    async fn verify_key(&self, key: &Key, presented: hash::Presented) -> Result<Caller, Refused> {
        let (id, now, wall) = (key.id(), Instant::now(), telemetry::now_micros());
        let (ticket, older) = {
            let cache = self.cache();
            let found = cache.verified(id, presented.sha256).cloned();
            let found = found.filter(|found| found.ends.is_none_or(|end| end > wall));
            match found {
                Some(found) if now.duration_since(found.asked) < self.0.config.fresh => {
                    drop(cache);
                    self.used(id, presented.sha256, found.noted, wall);
                    return Ok(found.caller);
                }
                None => match cache.wrong(id, presented.sha256, now) {
                    Some(wrong) => {
                        drop(cache);
                        // The same work whether the id exists or not.
                        presented.compare(None);
                        return Err(match wrong {
                            Wrong::Id => Refused::Unknown,
                            Wrong::Secret => Refused::WrongSecret,
                        });
                    }
                    None => (cache.ticket(), None),
                },
                found => (cache.ticket(), found),
            }
        };
        match self.0.metadata.find_key(id).await {
            Ok(known) => {
                let decided = decide(&presented, known.as_ref(), wall);
                let mut cache = self.cache();
                match decided {
                    Ok(ends) => {
                        let Some(known) = known else {
                            return Err(Refused::Unknown);
                        };
                        let verified = Verified {
                            caller: caller(&known.key),
                            asked: now,
                            ends,
                            noted: known.key.last_use,
                        };
                        let caller = verified.caller.clone();
                        cache.keep(ticket, (id, presented.sha256), verified);
                        drop(cache);
                        self.used(id, presented.sha256, known.key.last_use, wall);
                        Ok(caller)
                    }
                    Err(refused) => {
                        let is_of_id = matches!(refused, Refused::Unknown);
                        let is_of_secret = matches!(refused, Refused::WrongSecret);
                        let wrong = if is_of_id { Wrong::Id } else { Wrong::Secret };
                        if is_of_id || is_of_secret {
                            cache.keep_wrong(ticket, (id, presented.sha256), wrong, now);
                        }
                        // What was good before must not be so again while the database is away.
                        cache.refuse(id, presented.sha256);
                        Err(refused)
                    }
                }
            }
            Err(error) => match older {
                Some(known)
                    if error.is_temporary()
                        && now.duration_since(known.asked) < self.0.config.stale_limit =>
                {
                    Ok(known.caller)
                }
                Some(_) | None => Err(Refused::Unavailable(error)),
            },
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Every field is whole after every single operation.
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<KeyId, i64>> {
        self.0.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a credential is good, and until when. A key that does not exist takes the same comparisons as one that does.
fn decide(
    presented: &hash::Presented,
    known: Option<&KnownKey>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Refused> {
    let matched = presented.compare(known.map(|known| &known.key));
    let Some(KnownKey { key, state }) = known else {
        return Err(Refused::Unknown);
    };
    let secret_end = match matched {
        Match::None => return Err(Refused::WrongSecret),
        Match::Newest => None,
        Match::Previous(end) => Some(end),
    };
    if key.revoke_time.is_some() {
        return Err(Refused::Revoked);
    }
    let ends = key.expire_time.into_iter().chain(secret_end).min();
    if ends.is_some_and(|end| end <= now) {
        return Err(Refused::Expired);
    }
    match state {
        TenantState::Active => Ok(ends),
        TenantState::Suspended => Err(Refused::Suspended),
        TenantState::Erasing => Err(Refused::Erased),
    }
}

/// Whom a certificate stands for. It was verified in the handshake, and may have ended since.
fn certified(identities: &Identities, certificate: &Certificate) -> Result<Proven, Refused> {
    if certificate.ends <= telemetry::now_micros() / 1_000_000 {
        return Err(Refused::Expired);
    }
    let name = certificate.name.as_ref().ok_or(Refused::Unmapped)?;
    Ok(Proven::Identity(identities.of_certificate(name)?))
}

fn caller(key: &KeyRecord) -> Caller {
    Caller {
        principal: Principal::Key(key.id.clone()),
        tenant: key.tenant.clone(),
        scopes: key.scopes,
        tasks: key.tasks.clone().map(Arc::new),
    }
}

#[cfg(test)]
mod tests;
