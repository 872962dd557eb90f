//! Credentials that were verified a moment ago, and those that were wrong.
//!
//! Invariant: memory is bounded, whatever strangers present; what changed while a credential was looked up is not kept.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Caller;
use crate::ids::{KeyId, TenantId};
use crate::metadata::{TenantState, Timestamp};

/// Most verified credentials: some 300 bytes each.
const VERIFIED: usize = 20_000;
/// Most wrong credentials: some 150 bytes each.
const WRONG: usize = 20_000;
/// Time for which a wrong credential is not looked up again.
const WRONG_FOR: Duration = Duration::from_secs(5);
/// Most tenants whose state is remembered: some 100 bytes each.
const TENANTS: usize = 20_000;

/// A credential that was verified.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    pub(super) caller: Caller,
    /// When the database was asked.
    pub(super) asked: Instant,
    /// Time at which the key or its secret expires.
    pub(super) ends: Option<Timestamp>,
    /// Day of the newest use that is on record.
    pub(super) noted: Option<i64>,
}

/// What is wrong with a credential that the records do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// There is no key of that id.
    Id,
    /// The key of that id has another secret.
    Secret,
}

/// State of the cache before a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// What is remembered of credentials: by id and by what was presented, so that a wrong secret never meets a right one's entry.
#[derive(Debug, Default)]
pub(super) struct Cache {
    verified: HashMap<(KeyId, [u8; 32]), Verified>,
    /// Wrong credentials of either kind, so that the time of a refusal does not tell which ids exist; and until when they are known.
    wrong: HashMap<(KeyId, [u8; 32]), (Wrong, Instant)>,
    /// States of tenants, none for one that does not exist, and when the database was asked.
    tenants: HashMap<TenantId, (Option<TenantState>, Instant)>,
    changes: u64,
}

impl Cache {
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.changes)
    }

    pub(super) fn verified(&self, id: &KeyId, presented: [u8; 32]) -> Option<&Verified> {
        self.verified.get(&(id.clone(), presented))
    }

    /// Notes that the use of a credential is on record for a day.
    pub(super) fn noted(&mut self, id: &KeyId, presented: [u8; 32], day: i64) {
        if let Some(verified) = self.verified.get_mut(&(id.clone(), presented)) {
            verified.noted = Some(day);
        }
    }

    /// What was wrong with a credential a moment ago, if anything was.
    pub(super) fn wrong(&self, id: &KeyId, presented: [u8; 32], now: Instant) -> Option<Wrong> {
        let found = self.wrong.get(&(id.clone(), presented));
        found.filter(|own| own.1 > now).map(|own| own.0)
    }

    /// Remembers a credential, unless something changed since the ticket was taken.
    pub(super) fn keep(
        &mut self,
        ticket: Ticket,
        (id, presented): (&KeyId, [u8; 32]),
        verified: Verified,
    ) {
        if ticket != self.ticket() {
            return;
        }
        let key = (id.clone(), presented);
        if self.verified.len() >= VERIFIED && !self.verified.contains_key(&key) {
            // Only operators make this many keys; a look at the database more for each is cheaper than an order by use.
            self.verified.clear();
        }
        self.verified.insert(key, verified);
    }

    /// Remembers that a credential is wrong, unless something changed since the ticket was taken.
    pub(super) fn keep_wrong(
        &mut self,
        ticket: Ticket,
        (id, presented): (&KeyId, [u8; 32]),
        wrong: Wrong,
        now: Instant,
    ) {
        if ticket != self.ticket() {
            return;
        }
        if self.wrong.len() >= WRONG {
            self.wrong.retain(|_, own| own.1 > now);
        }
        if self.wrong.len() >= WRONG {
            self.wrong.clear();
        }
        let until = now + WRONG_FOR;
        self.wrong.insert((id.clone(), presented), (wrong, until));
    }

    /// The state of a tenant, and when the database was asked.
    pub(super) fn state(&self, tenant: &TenantId) -> Option<(Option<TenantState>, Instant)> {
        self.tenants.get(tenant).copied()
    }

    /// Remembers the state of a tenant, unless something changed since the ticket was taken.
    pub(super) fn keep_state(
        &mut self,
        ticket: Ticket,
        tenant: &TenantId,
        state: Option<TenantState>,
        now: Instant,
    ) {
        if ticket != self.ticket() {
            return;
        }
        if self.tenants.len() >= TENANTS && !self.tenants.contains_key(tenant) {
            self.tenants.clear();
        }
        self.tenants.insert(tenant.clone(), (state, now));
    }

    /// Forgets a credential that the database refused: a look-up that began before does not bring it back. One that is not here changes nothing.
    pub(super) fn refuse(&mut self, id: &KeyId, presented: [u8; 32]) {
        if self.verified.remove(&(id.clone(), presented)).is_some() {
            self.changes += 1;
        }
    }

    /// Forgets what is known of a key.
    pub(super) fn forget_key(&mut self, id: &KeyId) {
        self.changes += 1;
        self.verified.retain(|(key, _), _| key != id);
        self.wrong.retain(|(key, _), _| key != id);
    }

    /// Forgets what is known of a tenant's keys.
    pub(super) fn forget_tenant(&mut self, tenant: &TenantId) {
        self.changes += 1;
        self.tenants.remove(tenant);
        let is_other = |verified: &Verified| verified.caller.tenant.as_ref() != Some(tenant);
        self.verified.retain(|_, verified| is_other(verified));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self {
            changes: self.changes + 1,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(tenant: &str) -> Verified {
        Verified {
            caller: Caller::anonymous(tenant.parse().unwrap()),
            asked: Instant::now(),
            ends: None,
            noted: None,
        }
    }

    fn id(text: &str) -> KeyId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn what_changed_during_a_look_up_is_not_kept() {
        let mut cache = Cache::default();
        let before = cache.ticket();
        cache.forget_key(&id("other"));
        cache.keep(before, (&id("a"), [1; 32]), verified("acme"));
        let now = Instant::now();
        cache.keep_wrong(before, (&id("b"), [1; 32]), Wrong::Id, now);
        assert!(cache.verified(&id("a"), [1; 32]).is_none());
        assert_eq!(cache.wrong(&id("b"), [1; 32], now), None);
    }

    #[tokio::test]
    async fn another_secret_of_the_same_key_is_not_known() {
        let mut cache = Cache::default();
        cache.keep(cache.ticket(), (&id("a"), [1; 32]), verified("acme"));
        assert!(cache.verified(&id("a"), [1; 32]).is_some());
        assert!(cache.verified(&id("a"), [2; 32]).is_none());
        cache.forget_tenant(&"globex".parse().unwrap());
        assert!(cache.verified(&id("a"), [1; 32]).is_some());
        cache.forget_tenant(&"acme".parse().unwrap());
        assert!(cache.verified(&id("a"), [1; 32]).is_none());
    }

    #[tokio::test]
    async fn a_refused_credential_is_forgotten_and_no_other() {
        let mut cache = Cache::default();
        for secret in [1, 2] {
            let own = (&id("a"), [secret; 32]);
            cache.keep(cache.ticket(), own, verified("acme"));
        }
        let before = cache.ticket();
        cache.refuse(&id("a"), [3; 32]);
        assert_eq!(cache.ticket(), before, "a wrong secret changes nothing");
        cache.refuse(&id("a"), [1; 32]);
        assert!(cache.verified(&id("a"), [1; 32]).is_none());
        assert!(cache.verified(&id("a"), [2; 32]).is_some());
        // A look-up that began earlier does not bring it back.
        cache.keep(before, (&id("a"), [1; 32]), verified("acme"));
        assert!(cache.verified(&id("a"), [1; 32]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_credential_is_known_for_a_while_and_until_its_key_changes() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for (name, wrong) in [("a", Wrong::Id), ("b", Wrong::Secret)] {
            cache.keep_wrong(cache.ticket(), (&id(name), [1; 32]), wrong, now);
            assert_eq!(cache.wrong(&id(name), [1; 32], now), Some(wrong));
            assert_eq!(cache.wrong(&id(name), [2; 32], now), None);
            assert_eq!(cache.wrong(&id(name), [1; 32], now + WRONG_FOR), None);
        }
        cache.forget_key(&id("a"));
        assert_eq!(cache.wrong(&id("a"), [1; 32], now), None);
        assert_eq!(cache.wrong(&id("b"), [1; 32], now), Some(Wrong::Secret));
    }

    #[tokio::test(start_paused = true)]
    async fn ids_of_strangers_take_bounded_memory() {
        let mut cache = Cache::default();
        for number in 0..3 * WRONG {
            let id = id(&format!("k{number}"));
            let own = (&id, [0; 32]);
            cache.keep_wrong(cache.ticket(), own, Wrong::Id, Instant::now());
        }
        assert!(cache.wrong.len() <= WRONG);
    }
}
