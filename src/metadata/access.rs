//! The use cases of tenants and API keys.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    AccessChanges, Actor, AuditRecord, Cursor, KeyOwner, KeyRecord, KnownKey, NewKey, Page,
    PageRequest, RefusedRecord, Result, SecretHash, TenantRecord, TenantUpdate, Terms,
};
use crate::ids::{KeyId, TenantId};
use crate::spec::Digest;

/// Time for which the audit log keeps an event.
pub const AUDIT_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Tenants, and the keys that callers prove themselves with. Every change is in the audit log in the transaction that makes it.
#[async_trait]
pub trait Access {
    /// Creates a tenant; one that exists is [`super::Error::AlreadyExists`].
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        display_name: &str,
        actor: &Actor,
    ) -> Result<TenantRecord>;
    /// Reads a tenant.
    async fn get_tenant(&self, tenant: &TenantId) -> Result<TenantRecord>;
    /// Lists tenants by id.
    async fn list_tenants(&self, page: &PageRequest) -> Result<Page<TenantRecord>>;
    /// Changes a tenant, if `etag` is absent or current.
    async fn update_tenant(
        &self,
        tenant: &TenantId,
        update: TenantUpdate,
        etag: Option<&str>,
        actor: &Actor,
    ) -> Result<TenantRecord>;
    /// What servers keep in memory of tenants, by id, those after one, at most `limit`; tenants that are erased or being erased among them.
    async fn list_terms(
        &self,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, Terms)>>;
    /// What servers keep in memory of a tenant; `None` of one that nobody created.
    async fn get_terms(&self, tenant: &TenantId) -> Result<Option<Terms>>;
    /// Creates a key; its tenant has to exist.
    async fn create_key(&self, key: NewKey, actor: &Actor) -> Result<KeyRecord>;
    /// Creates an operator's key unless there is one that is neither revoked nor expired. Returns whether it was created.
    async fn bootstrap_key(&self, key: NewKey, actor: &Actor) -> Result<bool>;
    /// Reads a key, to check a credential.
    async fn find_key(&self, key: &KeyId) -> Result<Option<KnownKey>>;
    /// Lists keys by id.
    async fn list_keys(&self, owner: &KeyOwner, page: &PageRequest) -> Result<Page<KeyRecord>>;
    /// Gives a key another secret. The one before is accepted for the time `overlap`, any older one no longer. A key that was revoked or has expired is
    /// [`super::Error::KeyEnded`].
    async fn rotate_key(
        &self,
        owner: &KeyOwner,
        key: &KeyId,
        hash: SecretHash,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<KeyRecord>;
    /// Ends a key for ever; one that was revoked stays as it is.
    async fn revoke_key(&self, owner: &KeyOwner, key: &KeyId, actor: &Actor) -> Result<KeyRecord>;
    /// Lists changes of tenants, keys and tenants' resources, newest first.
    async fn list_audit(&self, owner: &KeyOwner, page: &PageRequest) -> Result<Page<AuditRecord>>;
    /// Forgets some changes that were so long ago. Returns how many; 0 when none is left, or this process may only add to the audit log.
    async fn forget_audit(&self, age: Duration) -> Result<u64>;
    /// Notes refused credentials in the audit log.
    async fn note_refused(&self, refused: &[RefusedRecord]) -> Result<()>;
    /// Notes on which day keys were used last.
    async fn note_key_use(&self, used: &[(KeyId, i64)]) -> Result<()>;
    /// The key that all servers of these records seal page tokens with: the first one that was proposed.
    async fn page_key(&self, proposed: Digest) -> Result<Digest>;
    /// Keys and tenants that changed after a place in the feed, as [`super::Changes::changes_since`] tells of tasks.
    async fn access_changes(&self, after: Option<Cursor>, limit: u32) -> Result<AccessChanges>;
}
