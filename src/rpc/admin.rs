//! AdminService: tenants, API keys, usage, the audit log and the processes of the fleet.

use std::time::Duration;

use secrecy::ExposeSecret;
use tonic::{Request, Response, Status};

use super::convert::{access, names};
use super::listing::{Ask, Listing};
use super::{auth, status};
use crate::ids::TenantId;
use crate::metadata::TenantUpdate;
use crate::proto::v1;
use crate::proto::v1::admin_service_server::AdminService;
use crate::tenancy::pages::Pages;
use crate::tenancy::{Admin, Caller};

/// Time for which a key is good when its creator does not say.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Time for which the secret before a rotation stays good when the caller does not say.
const OVERLAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Handlers of the administrators' API.
#[derive(Debug, Clone)]
pub(super) struct AdminApi(pub(super) Admin, pub(super) Pages);

impl AdminApi {
    /// Returns the caller and the message of a request for a page of a listing, and the listing.
    fn list<T: Ask>(&self, request: Request<T>) -> Result<(Caller, T, Listing), Status> {
        let caller = auth::caller(&request)?;
        let list = request.into_inner();
        let listing = Listing::open(&self.1, caller.tenant.as_ref(), &list)?;
        Ok((caller, list, listing))
    }
}

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
        let (_, _, listing) = self.list(request)?;
        let tenants = self.0.list_tenants(listing.page()).await?;
        let (tenants, next_page_token) = listing.show(tenants, access::of_tenant);
        Ok(Response::new(v1::ListTenantsResponse {
            tenants,
            next_page_token,
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
        let (caller, list, listing) = self.list(request)?;
        let ask = access::usage_query(&list)?;
        let used = self.0.list_usage(&caller, ask, listing.page()).await?;
        let (records, next_page_token) = listing.show(used, access::of_usage);
        Ok(Response::new(v1::ListUsageResponse {
            records,
            next_page_token,
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
        let (caller, list, listing) = self.list(request)?;
        let tenant = match list.tenant.as_str() {
            "" => None,
            name => Some(names::tenant(name, "tenant")?),
        };
        let keys = self.0.list_keys(&caller, tenant, listing.page()).await?;
        let (keys, next_page_token) = listing.show(keys, access::of_key);
        Ok(Response::new(v1::ListKeysResponse {
            keys,
            next_page_token,
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
        let (_, _, listing) = self.list(request)?;
        let replicas = self.0.list_replicas(listing.page()).await?;
        let is_exclusive = self.0.is_exclusive();
        let show = |own| access::of_replica(own, is_exclusive);
        let (replicas, next_page_token) = listing.show(replicas, show);
        Ok(Response::new(v1::ListReplicasResponse {
            replicas,
            next_page_token,
        }))
    }

    async fn drain_replica(
        &self,
        request: Request<v1::DrainReplicaRequest>,
    ) -> Result<Response<v1::DrainReplicaResponse>, Status> {
        let call = auth::call(&request)?;
        let name = names::replica(&request.get_ref().name, "name")?;
        self.0.drain_replica(&call, name).await?;
        Ok(Response::new(v1::DrainReplicaResponse {}))
    }

    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let (caller, _, listing) = self.list(request)?;
        let events = self.0.list_audit(&caller, listing.page()).await?;
        let (events, next_page_token) = listing.show(events, access::of_event);
        Ok(Response::new(v1::ListAuditEventsResponse {
            events,
            next_page_token,
        }))
    }
}
