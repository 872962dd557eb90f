//! Verifies credentials: which caller a bearer's key stands for.
//!
//! Invariant: a key that was revoked, has expired, or belongs to a suspended tenant is refused at the latest when the change feed was read; a refusal
//! tells its reason to the audit log only. While the database is away, keys that were good stay so for a stated time, and never past their own end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::cache::{Cache, Verified};
use super::hash::{FileError, Hasher, Match, Presented};
use super::key::Key;
use super::{Caller, Config, Method, Principal};
use crate::ids::KeyId;
use crate::metadata::{
    self, AccessChange, Cursor, KeyRecord, KnownKey, MetadataStore, TenantState, Timestamp, Topic,
};
use crate::shutdown::Signal;
use crate::telemetry;

/// Changes that are read at once.
const PAGE: u32 = 1000;
/// Microseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// Time for which changes of tenants and keys stay in the audit log.
const AUDIT: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// Most keys whose use waits to be noted.
const USES: usize = 10_000;

/// Why a credential is refused. Callers get one answer for all but the last two.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("no credential")]
    Missing,
    /// There are several, and guessing which one counts would be a way around one of them.
    #[error("several credentials")]
    Several,
    /// The credential is no key.
    #[error("malformed credential")]
    Malformed,
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
    /// The key is good, but its tenant is suspended.
    #[error("suspended tenant")]
    Suspended,
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
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Verifies credentials. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    hasher: Hasher,
    metadata: Arc<dyn MetadataStore>,
    /// A plain mutex, because it is held for look-ups in memory and never across an await.
    cache: Mutex<Cache>,
    /// Days of uses that are not on record yet.
    uses: Mutex<HashMap<KeyId, i64>>,
    hint: Notify,
}

impl Credentials {
    /// Credentials that are on record in `metadata`.
    ///
    /// # Errors
    /// When the pepper's file cannot be used.
    pub fn new(config: Config, metadata: Arc<dyn MetadataStore>) -> Result<Self, FileError> {
        Ok(Self(Arc::new(Inner {
            hasher: Hasher::new(config.pepper_file.as_deref())?,
            config,
            metadata,
            cache: Mutex::default(),
            uses: Mutex::default(),
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

    /// The caller that a bearer's credential stands for, and the id of its key, known or not, for the audit log.
    ///
    /// # Errors
    /// When the credential is refused.
    pub async fn verify(&self, bearer: &str) -> Result<Caller, (Option<KeyId>, Refused)> {
        let accepts_keys = self.0.config.methods.contains(&Method::Keys);
        let Some(key) = Key::parse(bearer).filter(|_| accepts_keys) else {
            return Err((None, Refused::Malformed));
        };
        let verified = self.verify_key(&key).await;
        verified.map_err(|refused| (Some(key.id().clone()), refused))
    }

    async fn verify_key(&self, key: &Key) -> Result<Caller, Refused> {
        let presented = self.0.hasher.presented(key);
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
                None if cache.is_absent(id, now) => {
                    drop(cache);
                    // The same work as for an id that exists.
                    presented.compare(None);
                    return Err(Refused::Unknown);
                }
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
                        if matches!(refused, Refused::Unknown) {
                            cache.keep_absent(ticket, id, now);
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

    /// Notes a use, to be put on record when the feed is read next.
    fn used(&self, id: &KeyId, presented: [u8; 32], noted: Option<i64>, wall: Timestamp) {
        let today = wall.div_euclid(DAY);
        if noted.is_some_and(|noted| noted >= today) {
            return;
        }
        {
            let mut uses = self.uses();
            if uses.len() < USES || uses.contains_key(id) {
                uses.insert(id.clone(), today);
            }
        }
        self.cache().noted(id, presented, today);
    }

    /// Forgets what is known of a key that this process changed, and has the feed read soon.
    pub(super) fn changed(&self, change: &AccessChange) {
        self.apply(change);
        self.0.metadata.tell(Topic::Access);
        self.0.hint.notify_one();
    }

    /// Has the feed read soon, since another process has changed something.
    pub fn look(&self) {
        self.0.hint.notify_one();
    }

    fn apply(&self, change: &AccessChange) {
        let mut cache = self.cache();
        match change {
            AccessChange::Key(key) => cache.forget_key(key),
            AccessChange::Tenant(tenant) => cache.forget_tenant(tenant),
        }
    }

    /// Follows the change feed until the drain, and puts uses of keys on record.
    ///
    /// # Errors
    /// Never: while the database is unavailable, the feed waits for it.
    pub async fn follow(self, drain: Signal) -> Result<(), Infallible> {
        let mut cursor = None;
        let mut is_up = true;
        let mut pruned = None;
        loop {
            let today = telemetry::now_micros().div_euclid(DAY);
            if is_up && pruned != Some(today) {
                pruned = Some(today);
                self.prune().await;
            }
            let caught_up = self.catch_up(&mut cursor).await;
            match (&caught_up, is_up) {
                (Err(error), true) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, "changes of keys cannot be read");
                }
                (Ok(()), false) => tracing::info!("changes of keys can be read again"),
                (Ok(()), true) | (Err(_), false) => {}
            }
            is_up = caught_up.is_ok();
            tokio::select! {
                () = drain.draining() => {
                    self.note_uses().await;
                    return Ok(());
                }
                () = self.0.hint.notified(), if is_up => {}
                () = tokio::time::sleep(self.0.config.feed_poll) => {}
            }
        }
    }

    async fn catch_up(&self, cursor: &mut Option<Cursor>) -> metadata::Result<()> {
        self.note_uses().await;
        loop {
            let page = self.0.metadata.access_changes(*cursor, PAGE).await?;
            if page.is_gap || cursor.is_none() {
                self.cache().clear();
            }
            for change in &page.changes {
                self.apply(change);
            }
            *cursor = Some(page.cursor);
            if page.is_last {
                return Ok(());
            }
        }
    }

    /// Forgets the oldest part of the audit log; what cannot be forgotten today goes tomorrow.
    async fn prune(&self) {
        while let Ok(1..) = self.0.metadata.forget_audit(AUDIT).await {}
    }

    /// Puts uses on record. One that cannot be is noted again by the next use after the credential was looked up anew.
    async fn note_uses(&self) {
        let uses: Vec<(KeyId, i64)> = self.uses().drain().collect();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.0.metadata.note_key_use(&uses).await {
            tracing::debug!(%error, "uses of keys are not on record");
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
    presented: &Presented,
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
    }
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
