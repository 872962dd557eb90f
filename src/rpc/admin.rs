//! AdminService: tenants and API keys.

use std::time::Duration;

use secrecy::ExposeSecret;
use tonic::{Request, Response, Status};

use super::convert::{access, names, page};
use super::{auth, status};
use crate::ids::TenantId;
use crate::metadata::TenantUpdate;
use crate::proto::v1;
use crate::proto::v1::admin_service_server::AdminService;
use crate::tenancy::Admin;
use crate::tenancy::pages::Pages;

/// Time for which a key is good when its creator does not say.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Time for which the secret before a rotation stays good when the caller does not say.
const OVERLAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Handlers of the administrators' API.
#[derive(Debug, Clone)]
pub(super) struct AdminApi(pub(super) Admin, pub(super) Pages);

#[tonic::async_trait]
impl AdminService for AdminApi {
    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let call = auth::call(&request)?;
        let create = request.into_inner();
        let id: TenantId = names::chosen(&create.tenant_id, "tenant_id")?;
        let display_name = create.tenant.unwrap_or_default().display_name;
        names::display(&display_name, "tenant.display_name")?;
        let tenant = self.0.create_tenant(&call, &id, &display_name).await?;
        Ok(Response::new(access::of_tenant(tenant)))
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let caller = auth::caller(&request)?;
        let id = names::tenant(&request.get_ref().name, "name")?;
        let tenant = self.0.get_tenant(&caller, &id).await?;
        Ok(Response::new(access::of_tenant(tenant)))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let own = (&self.1, caller.tenant.as_ref());
        let page = page(own, list.page_size, &list.page_token)?;
        let tenants = self.0.list_tenants(&page).await?;
        Ok(Response::new(v1::ListTenantsResponse {
            tenants: tenants.items.into_iter().map(access::of_tenant).collect(),
            next_page_token: self.1.seal(caller.tenant.as_ref(), &tenants.next),
        }))
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let call = auth::call(&request)?;
        let update = request.into_inner();
        let tenant = update
            .tenant
            .ok_or_else(|| status::invalid("tenant", "required"))?;
        let id = names::tenant(&tenant.name, "tenant.name")?;
        let mask = update.update_mask.unwrap_or_default();
        let mut changes = TenantUpdate::default();
        for path in &mask.paths {
            match path.as_str() {
                "display_name" => {
                    names::display(&tenant.display_name, "tenant.display_name")?;
                    changes.display_name = Some(tenant.display_name.clone());
                }
                "quotas" => changes.quotas = Some(access::quotas(tenant.quotas)?),
                "weight" => changes.weight = Some(access::weight(tenant.weight)?),
                "retention" => changes.stay = Some(access::stay(tenant.retention)?),
                "state" => changes.state = Some(access::state(tenant.state, "tenant.state")?),
                _ => {
                    let shown: String = path.chars().take(80).collect();
                    let problem = format!(
                        "{shown:?} cannot change; display_name, state, quotas, weight and retention can"
                    );
                    return Err(status::invalid("update_mask", problem));
                }
            }
        }
        if changes == TenantUpdate::default() {
            return Err(status::invalid("update_mask", "names no field"));
        }
        let etag = Some(tenant.etag.as_str()).filter(|etag| !etag.is_empty());
        let tenant = self.0.update_tenant(&call, &id, changes, etag).await?;
        Ok(Response::new(access::of_tenant(tenant)))
    }

    async fn erase_tenant(
        &self,
        request: Request<v1::EraseTenantRequest>,
    ) -> Result<Response<v1::Erasure>, Status> {
        let call = auth::call(&request)?;
        let id = names::tenant(&request.get_ref().name, "name")?;
        let erasure = self.0.erase_tenant(&call, &id).await?;
        Ok(Response::new(access::of_erasure(erasure)))
    }

    async fn get_erasure(
        &self,
        request: Request<v1::GetErasureRequest>,
    ) -> Result<Response<v1::Erasure>, Status> {
        let id = names::tenant(&request.get_ref().name, "name")?;
        let erasure = self.0.get_erasure(&id).await?;
        Ok(Response::new(access::of_erasure(erasure)))
    }

    async fn list_usage(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let ask = access::usage_query(&list)?;
        let own = (&self.1, caller.tenant.as_ref());
        let page = page(own, list.page_size, &list.page_token)?;
        let used = self.0.list_usage(&caller, ask, &page).await?;
        Ok(Response::new(v1::ListUsageResponse {
            records: used.items.into_iter().map(access::of_usage).collect(),
            next_page_token: self.1.seal(caller.tenant.as_ref(), &used.next),
        }))
    }

    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let call = auth::call(&request)?;
        let create = request.into_inner();
        let key = create
            .key
            .ok_or_else(|| status::invalid("key", "required"))?;
        let lifetime = match (create.lifetime, create.never_expires) {
            (None, true) => None,
            (None, false) => Some(LIFETIME),
            (Some(lifetime), false) => Some(access::duration(lifetime, "lifetime")?),
            (Some(_), true) => {
                return Err(status::invalid(
                    "lifetime",
                    "not together with never_expires",
                ));
            }
        };
        let wanted = access::wanted(key, lifetime)?;
        let (record, key) = self.0.create_key(&call, wanted).await?;
        Ok(Response::new(v1::CreateKeyResponse {
            key: Some(access::of_key(record)),
            secret: key.reveal().expose_secret().to_owned(),
        }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let tenant = match list.tenant.as_str() {
            "" => None,
            name => Some(names::tenant(name, "tenant")?),
        };
        let own = (&self.1, caller.tenant.as_ref());
        let page = page(own, list.page_size, &list.page_token)?;
        let keys = self.0.list_keys(&caller, tenant, &page).await?;
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.items.into_iter().map(access::of_key).collect(),
            next_page_token: self.1.seal(caller.tenant.as_ref(), &keys.next),
        }))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        let call = auth::call(&request)?;
        let rotate = request.into_inner();
        let id = names::key(&rotate.name, "name")?;
        let overlap = match rotate.overlap {
            Some(overlap) => access::duration(overlap, "overlap")?,
            None => OVERLAP,
        };
        let (record, key) = self.0.rotate_key(&call, &id, overlap).await?;
        Ok(Response::new(v1::RotateKeyResponse {
            key: Some(access::of_key(record)),
            secret: key.reveal().expose_secret().to_owned(),
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        let call = auth::call(&request)?;
        let id = names::key(&request.get_ref().name, "name")?;
        let revoked = self.0.revoke_key(&call, &id).await?;
        Ok(Response::new(access::of_key(revoked)))
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let own = (&self.1, caller.tenant.as_ref());
        let page = page(own, list.page_size, &list.page_token)?;
        let replicas = self.0.list_replicas(&page).await?;
        let is_exclusive = self.0.is_exclusive();
        let shown = replicas.items.into_iter();
        Ok(Response::new(v1::ListReplicasResponse {
            replicas: shown
                .map(|own| access::of_replica(own, is_exclusive))
                .collect(),
            next_page_token: self.1.seal(caller.tenant.as_ref(), &replicas.next),
        }))
    }

    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let own = (&self.1, caller.tenant.as_ref());
        let page = page(own, list.page_size, &list.page_token)?;
        let events = self.0.list_audit(&caller, &page).await?;
        Ok(Response::new(v1::ListAuditEventsResponse {
            events: events.items.into_iter().map(access::of_event).collect(),
            next_page_token: self.1.seal(caller.tenant.as_ref(), &events.next),
        }))
    }
}
