//! Tenants and keys as the API shows them.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Status;

use super::names;
use super::spec::{of_time, signed};
use crate::metadata::{AuditRecord, KeyRecord, Quotas, TenantRecord, TenantState};
use crate::proto::v1;
use crate::rpc::status;
use crate::spec::Scopes;
use crate::tenancy::admin::KeyRequest;

/// Microseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// A tenant.
pub(in crate::rpc) fn of_tenant(record: TenantRecord) -> v1::Tenant {
    let state = match record.state {
        TenantState::Active => v1::TenantState::Active,
        TenantState::Suspended => v1::TenantState::Suspended,
    };
    v1::Tenant {
        name: format!("tenants/{}", record.id),
        display_name: record.display_name,
        state: state.into(),
        etag: record.etag,
        create_time: Some(of_time(record.create_time)),
        quotas: Some(of_quotas(record.quotas)),
        usage: Some(v1::Usage {
            videos: signed(record.stored.videos),
            bytes: signed(record.stored.bytes),
            tasks: signed(record.stored.tasks),
            versions: signed(record.stored.versions),
            unfinished_jobs: signed(record.stored.jobs),
        }),
    }
}

fn of_quotas(quotas: Quotas) -> v1::Quotas {
    v1::Quotas {
        videos: quotas.videos.map(signed),
        bytes: quotas.bytes.map(signed),
        tasks: quotas.tasks.map(signed),
        versions: quotas.versions.map(signed),
        unfinished_jobs: quotas.jobs.map(i64::from),
    }
}

/// Limits that a tenant is to have.
pub(in crate::rpc) fn quotas(given: Option<v1::Quotas>) -> Result<Quotas, Status> {
    let given = given.unwrap_or_default();
    let limit = |limit: Option<i64>, field: &str| {
        let limit = limit.map(u64::try_from).transpose();
        limit.map_err(|_| status::invalid(field, "expected 0 or more"))
    };
    let jobs = given.unfinished_jobs.map(u32::try_from).transpose();
    Ok(Quotas {
        videos: limit(given.videos, "tenant.quotas.videos")?,
        bytes: limit(given.bytes, "tenant.quotas.bytes")?,
        tasks: limit(given.tasks, "tenant.quotas.tasks")?,
        versions: limit(given.versions, "tenant.quotas.versions")?,
        jobs: jobs.map_err(|_| {
            let problem = "expected 0 or more, and less than 2^32";
            status::invalid("tenant.quotas.unfinished_jobs", problem)
        })?,
    })
}

/// A state that a tenant is to have.
pub(in crate::rpc) fn state(number: i32, field: &str) -> Result<TenantState, Status> {
    match v1::TenantState::try_from(number) {
        Ok(v1::TenantState::Active) => Ok(TenantState::Active),
        Ok(v1::TenantState::Suspended) => Ok(TenantState::Suspended),
        Ok(v1::TenantState::Unspecified) | Err(_) => {
            Err(status::invalid(field, "expected ACTIVE or SUSPENDED"))
        }
    }
}

/// A key; of its secrets, when the one before ends.
pub(in crate::rpc) fn of_key(record: KeyRecord) -> v1::ApiKey {
    let tenant = record.tenant.map(|tenant| format!("tenants/{tenant}"));
    let tasks = record.tasks.unwrap_or_default();
    v1::ApiKey {
        name: format!("keys/{}", record.id),
        tenant: tenant.unwrap_or_default(),
        display_name: record.display_name,
        scopes: of_scopes(record.scopes),
        tasks: tasks.iter().map(|task| format!("tasks/{task}")).collect(),
        created_by: record.created_by,
        create_time: Some(of_time(record.create_time)),
        expire_time: record.expire_time.map(of_time),
        revoke_time: record.revoke_time.map(of_time),
        previous_secret_end_time: record.previous.map(|previous| of_time(previous.end)),
        last_use_time: record.last_use.map(|day| of_time(day.saturating_mul(DAY))),
    }
}

/// A change of a tenant or a key.
pub(in crate::rpc) fn of_event(record: AuditRecord) -> v1::AuditEvent {
    let tenant = record.tenant.map(|tenant| format!("tenants/{tenant}"));
    v1::AuditEvent {
        time: Some(of_time(record.time)),
        tenant: tenant.unwrap_or_default(),
        principal: record.actor.principal,
        source: record.actor.source,
        method: record.method,
        resource: record.resource,
        detail: record.detail,
        request_id: record.actor.request_id,
    }
}

/// The names of scopes.
pub(in crate::rpc) fn of_scopes(scopes: Scopes) -> Vec<String> {
    scopes.iter().map(|scope| scope.to_string()).collect()
}

/// A key that is to be created.
pub(in crate::rpc) fn wanted(
    key: v1::ApiKey,
    lifetime: Option<Duration>,
) -> Result<KeyRequest, Status> {
    let tenant = match key.tenant.as_str() {
        "" => None,
        name => Some(names::tenant(name, "key.tenant")?),
    };
    names::display(&key.display_name, "key.display_name")?;
    let scopes = key.scopes.iter().enumerate().map(|(place, name)| {
        let wrong = |error: crate::spec::UnknownScope| {
            status::invalid(&format!("key.scopes[{place}]"), error.to_string())
        };
        name.parse().map_err(wrong)
    });
    let scopes = scopes.collect::<Result<Scopes, Status>>()?;
    let tasks = key.tasks.iter().enumerate();
    let tasks = tasks.map(|(place, name)| names::task(name, &format!("key.tasks[{place}]")));
    Ok(KeyRequest {
        tenant,
        display_name: key.display_name,
        scopes,
        tasks: tasks.collect::<Result<BTreeSet<_>, Status>>()?,
        lifetime,
    })
}

/// A duration that is not negative.
pub(in crate::rpc) fn duration(
    given: prost_types::Duration,
    field: &str,
) -> Result<Duration, Status> {
    given
        .try_into()
        .map_err(|_| status::invalid(field, "expected a duration that is not negative"))
}
