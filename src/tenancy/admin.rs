//! What administrators do: tenants and keys.
//!
//! Invariant: nobody gives a key more than the caller has; a tenant's administrator sees the keys of that tenant alone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::credentials::Credentials;
use super::key::{Key, NoRandomness};
use super::{Caller, Principal, Tenants};
use crate::ids::{KeyId, TaskId, TenantId};
use crate::metadata::{
    self, AccessChange, Actor, AuditRecord, ErasureRecord, KeyOwner, KeyRecord, NewKey, Page,
    PageRequest, ReplicaRecord, TenantRecord, TenantUpdate, Topic, UsageQuery, UsageRecord,
    check_display_name,
};
use crate::spec::{Invalid, Scope, Scopes};

/// Longest time for which a replaced secret may stay good.
const LONGEST_OVERLAP: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Longest time for which a key with an end may be good: ten years.
const LONGEST_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// Most tasks of a key's list.
const TASKS: usize = 1000;

/// Why an administrator's call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller administers only its own tenant.
    #[error("the caller administers its own tenant alone")]
    OtherTenant,
    /// The key would be able to do what the caller cannot.
    #[error("a key cannot have scopes that its creator lacks: {0}")]
    TooWide(Scopes),
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The records.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
}

/// A key to create, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// Tenant of the key; `None` for an operator's key.
    pub tenant: Option<TenantId>,
    /// Name of the key for people.
    pub display_name: String,
    /// What its callers may do.
    pub scopes: Scopes,
    /// Tasks that its callers may classify with; none for all.
    pub tasks: BTreeSet<TaskId>,
    /// Time for which the key is accepted; `None` means without end.
    pub lifetime: Option<Duration>,
}

/// An administrator's call: who makes it, and what the audit log keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Caller of the method.
    pub caller: Caller,
    /// Address that the call came from; empty when it came from none.
    pub source: String,
    /// Id of the call; empty when it has none.
    pub request_id: String,
}

impl Call {
    /// A call of somebody with access to the server's files.
    pub fn operator() -> Self {
        Self {
            caller: Caller {
                principal: Principal::Operator,
                tenant: None,
                scopes: Scopes::of(&[Scope::FleetAdmin]),
                tasks: None,
            },
            source: String::new(),
            request_id: String::new(),
        }
    }

    pub(super) fn actor(&self) -> Actor {
        Actor {
            principal: self.caller.principal.to_string(),
            source: self.source.clone(),
            request_id: self.request_id.clone(),
        }
    }
}

/// The use cases of administrators. Clones share the credentials.
#[derive(Debug, Clone)]
pub struct Admin(Credentials, Tenants);

impl Admin {
    /// Administration of these credentials and tenants.
    pub fn new(credentials: Credentials, tenants: Tenants) -> Self {
        Self(credentials, tenants)
    }

    /// Creates a tenant.
    ///
    /// # Errors
    /// When it exists, its name is not valid, or it cannot be recorded.
    pub async fn create_tenant(
        &self,
        call: &Call,
        tenant: &TenantId,
        display_name: &str,
    ) -> Result<TenantRecord, Error> {
        check_display_name(display_name)?;
        let records = self.0.metadata();
        let record = records
            .create_tenant(tenant, display_name, &call.actor())
            .await?;
        Ok(record)
    }

    /// Reads a tenant; a tenant's administrator reads the own one only.
    ///
    /// # Errors
    /// When it does not exist, or is not the caller's.
    pub async fn get_tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
    ) -> Result<TenantRecord, Error> {
        match owner(caller) {
            KeyOwner::Tenant(own) if own != *tenant => Err(Error::OtherTenant),
            KeyOwner::Any | KeyOwner::Tenant(_) => Ok(self.0.metadata().get_tenant(tenant).await?),
        }
    }

    /// Lists tenants by id.
    ///
    /// # Errors
    /// When the records cannot be read, or the page is not one of this listing.
    pub async fn list_tenants(&self, page: &PageRequest) -> Result<Page<TenantRecord>, Error> {
        Ok(self.0.metadata().list_tenants(page).await?)
    }

    /// Lists the processes that share the records, by name.
    ///
    /// # Errors
    /// When the records cannot be read, or the page is not one of this listing.
    pub async fn list_replicas(&self, page: &PageRequest) -> Result<Page<ReplicaRecord>, Error> {
        Ok(self.0.metadata().list_replicas(page).await?)
    }

    /// Asks a process to drain and end.
    ///
    /// # Errors
    /// When there is no such process on record, or that cannot be recorded.
    pub async fn drain_replica(&self, call: &Call, name: &str) -> Result<(), Error> {
        let records = self.0.metadata();
        records.drain_replica(name, &call.actor()).await?;
        records.tell(Topic::Replicas);
        Ok(())
    }

    /// Whether this process has the records alone.
    pub fn is_exclusive(&self) -> bool {
        self.0.metadata().is_exclusive()
    }

    /// Changes a tenant, if `etag` is absent or current.
    ///
    /// # Errors
    /// When it does not exist, its name is not valid, or it was changed meanwhile.
    pub async fn update_tenant(
        &self,
        call: &Call,
        tenant: &TenantId,
        update: TenantUpdate,
        etag: Option<&str>,
    ) -> Result<TenantRecord, Error> {
        if let Some(name) = &update.display_name {
            check_display_name(name)?;
        }
        let records = self.0.metadata();
        let changed = records
            .update_tenant(tenant, update, etag, &call.actor())
            .await?;
        self.0.changed(&AccessChange::Tenant(tenant.clone()));
        self.1.refresh(tenant).await;
        Ok(changed)
    }

    /// Begins to erase a tenant, or returns how far that is.
    ///
    /// # Errors
    /// When it does not exist, or that cannot be recorded.
    pub async fn erase_tenant(
        &self,
        call: &Call,
        tenant: &TenantId,
    ) -> Result<ErasureRecord, Error> {
        let records = self.0.metadata();
        let erasure = records.begin_erasure(tenant, &call.actor()).await?;
        self.0.changed(&AccessChange::Tenant(tenant.clone()));
        self.1.refresh(tenant).await;
        Ok(erasure)
    }

    /// Reads how far an erasure is.
    ///
    /// # Errors
    /// When the tenant was never erased, or the records cannot be read.
    pub async fn get_erasure(&self, tenant: &TenantId) -> Result<ErasureRecord, Error> {
        Ok(self.0.metadata().get_erasure(tenant).await?)
    }

    /// Lists what tenants used: all for an operator, the own one's for a tenant's administrator.
    ///
    /// # Errors
    /// When the records cannot be read, the page is not one of this listing, or the tenant is not the caller's.
    pub async fn list_usage(
        &self,
        caller: &Caller,
        mut ask: UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageRecord>, Error> {
        if let KeyOwner::Tenant(own) = owner(caller) {
            if ask.tenant.as_ref().is_some_and(|tenant| *tenant != own) {
                return Err(Error::OtherTenant);
            }
            ask.tenant = Some(own);
        }
        Ok(self.0.metadata().list_usage(&ask, page).await?)
    }

    /// Creates a key. It is returned with its secret, which is shown this once.
    ///
    /// # Errors
    /// When a field is wrong, the caller has not what the key would have, or the tenant does not exist.
    pub async fn create_key(
        &self,
        call: &Call,
        wanted: KeyRequest,
    ) -> Result<(KeyRecord, Key), Error> {
        check(&call.caller, &wanted)?;
        let key = Key::generate()?;
        let tasks = Some(wanted.tasks).filter(|tasks| !tasks.is_empty());
        let new = NewKey {
            id: key.id().clone(),
            tenant: wanted.tenant,
            display_name: wanted.display_name,
            scopes: wanted.scopes,
            tasks,
            hash: self.0.hasher().stored(&key),
            created_by: call.caller.principal.to_string(),
            lifetime: wanted.lifetime,
        };
        let record = self.0.metadata().create_key(new, &call.actor()).await?;
        self.0.changed(&AccessChange::Key(record.id.clone()));
        Ok((record, key))
    }

    /// Lists keys by id: all for an operator, those of the own tenant for its administrator. An operator may ask for those of one tenant.
    ///
    /// # Errors
    /// When the records cannot be read, the page is not one of this listing, or the tenant is not the caller's.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        tenant: Option<TenantId>,
        page: &PageRequest,
    ) -> Result<Page<KeyRecord>, Error> {
        let owner = match (owner(caller), tenant) {
            (KeyOwner::Tenant(own), Some(tenant)) if own != tenant => {
                return Err(Error::OtherTenant);
            }
            (KeyOwner::Any, Some(tenant)) => KeyOwner::Tenant(tenant),
            (owner, _) => owner,
        };
        Ok(self.0.metadata().list_keys(&owner, page).await?)
    }

    /// Gives a key another secret; the one before stays good for a while.
    ///
    /// # Errors
    /// When the key does not exist for the caller, has ended, has more scopes than the caller, or the time is too long.
    pub async fn rotate_key(
        &self,
        call: &Call,
        key: &KeyId,
        overlap: Duration,
    ) -> Result<(KeyRecord, Key), Error> {
        if overlap > LONGEST_OVERLAP {
            return Err(Invalid::new("overlap", "expected at most 90 days").into());
        }
        self.may_handle(&call.caller, key).await?;
        let fresh = Key::with_id(key.clone())?;
        let hash = self.0.hasher().stored(&fresh);
        let records = self.0.metadata();
        let rotated = records
            .rotate_key(&owner(&call.caller), key, hash, overlap, &call.actor())
            .await?;
        self.0.changed(&AccessChange::Key(key.clone()));
        Ok((rotated, fresh))
    }

    /// Revokes a key at once; it is never accepted again.
    ///
    /// # Errors
    /// When the key does not exist for the caller.
    pub async fn revoke_key(&self, call: &Call, key: &KeyId) -> Result<KeyRecord, Error> {
        let records = self.0.metadata();
        let revoked = records
            .revoke_key(&owner(&call.caller), key, &call.actor())
            .await?;
        self.0.changed(&AccessChange::Key(key.clone()));
        Ok(revoked)
    }

    /// Lists changes of tenants, keys and tenants' resources, newest first: all for an operator, those of the own tenant for its administrator.
    ///
    /// # Errors
    /// When the records cannot be read, or the page is not one of this listing.
    pub async fn list_audit(
        &self,
        caller: &Caller,
        page: &PageRequest,
    ) -> Result<Page<AuditRecord>, Error> {
        Ok(self.0.metadata().list_audit(&owner(caller), page).await?)
    }

    /// Refuses to hand out the secret of a key that can do more than the caller. What is missing, the rotation itself says.
    async fn may_handle(&self, caller: &Caller, key: &KeyId) -> Result<(), Error> {
        let KeyOwner::Tenant(tenant) = owner(caller) else {
            return Ok(());
        };
        let known = self.0.metadata().find_key(key).await?;
        match known {
            Some(known) if known.key.tenant == Some(tenant) => within(caller, known.key.scopes),
            Some(_) | None => Ok(()),
        }
    }
}

/// Which keys the caller administers.
fn owner(caller: &Caller) -> KeyOwner {
    match &caller.tenant {
        Some(tenant) => KeyOwner::Tenant(tenant.clone()),
        None => KeyOwner::Any,
    }
}

/// Refuses what no key may be, and what the caller may not give.
fn check(caller: &Caller, wanted: &KeyRequest) -> Result<(), Error> {
    check_display_name(&wanted.display_name)?;
    let refuse = |field, problem: &str| Err(Error::Invalid(Invalid::new(field, problem)));
    let is_fleet = wanted.scopes.contains(Scope::FleetAdmin);
    if wanted.scopes.is_empty() {
        return refuse("scopes", "expected at least one");
    }
    if is_fleet && wanted.scopes != Scopes::of(&[Scope::FleetAdmin]) {
        return refuse(
            "scopes",
            "fleet-admin stands alone: an operator's key opens no tenant's data",
        );
    }
    if is_fleet != wanted.tenant.is_none() {
        return refuse(
            "tenant",
            "required, unless the scope is fleet-admin, which has none",
        );
    }
    let is_classify = wanted.scopes == Scopes::of(&[Scope::Classify]);
    if !wanted.tasks.is_empty() && !is_classify {
        return refuse(
            "tasks",
            "a key with a list of tasks has the scope classify alone",
        );
    }
    if wanted.tasks.len() > TASKS {
        return refuse("tasks", "expected at most 1000");
    }
    if wanted
        .lifetime
        .is_some_and(|time| time.is_zero() || time > LONGEST_LIFETIME)
    {
        return refuse("lifetime", "expected more than 0 and at most 3650 days");
    }
    match owner(caller) {
        // An operator gives keys to every tenant.
        KeyOwner::Any => Ok(()),
        KeyOwner::Tenant(own) if wanted.tenant.as_ref() != Some(&own) => Err(Error::OtherTenant),
        KeyOwner::Tenant(_) => within(caller, wanted.scopes),
    }
}

/// Refuses scopes that the caller lacks.
fn within(caller: &Caller, scopes: Scopes) -> Result<(), Error> {
    if scopes.is_within(caller.scopes) {
        return Ok(());
    }
    let missing = scopes
        .iter()
        .filter(|scope| !caller.scopes.contains(*scope));
    Err(Error::TooWide(missing.collect()))
}
