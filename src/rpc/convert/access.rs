//! Tenants and keys as the API shows them.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use tonic::Status;

use super::names;
use super::spec::{of_duration, of_time, signed};
use crate::fair::Weight;
use crate::metadata::{
    AtOnce, AuditRecord, ErasureRecord, KeyRecord, Quotas, Rates, ReplicaRecord, ReplicaRole,
    ReplicaState, Stay, TenantRecord, TenantState, UsageQuery, UsageRecord, UsageSpan,
};
use crate::proto::v1;
use crate::rpc::status;
use crate::spec::Scopes;
use crate::tenancy::admin::KeyRequest;

/// Microseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// Largest weight of a tenant.
const MOST_WEIGHT: u32 = 1000;
/// Shortest and longest time for which what a tenant stores may be told to stay.
const SHORTEST_STAY: Duration = Duration::from_secs(60);
const LONGEST_STAY: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// Converts a tenant's record.
pub(in crate::rpc) fn of_tenant(record: TenantRecord) -> v1::Tenant {
    let state = match record.state {
        TenantState::Active => v1::TenantState::Active,
        TenantState::Suspended => v1::TenantState::Suspended,
        TenantState::Erasing => v1::TenantState::Erasing,
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
            dataset_examples: signed(record.stored.examples),
            open_upload_bytes: signed(record.stored.upload_bytes),
        }),
        weight: record.weight.get(),
        retention: Some(v1::TenantRetention {
            videos: record.stay.videos.and_then(of_stay),
            jobs: record.stay.jobs.and_then(of_stay),
            uploads: record.stay.uploads.and_then(of_stay),
        }),
    }
}

/// A time that was read from a request once, so that it fits.
fn of_stay(stay: Duration) -> Option<prost_types::Duration> {
    stay.try_into().ok()
}

/// How long what a tenant stores is to stay.
pub(in crate::rpc) fn stay(given: Option<v1::TenantRetention>) -> Result<Stay, Status> {
    let given = given.unwrap_or_default();
    let time = |time: Option<prost_types::Duration>, field: &str| {
        let Some(time) = time else { return Ok(None) };
        let time = duration(time, field)?;
        match (SHORTEST_STAY..=LONGEST_STAY).contains(&time) {
            true => Ok(Some(time)),
            false => Err(status::invalid(field, "expected a minute to 36500 days")),
        }
    };
    Ok(Stay {
        videos: time(given.videos, "tenant.retention.videos")?,
        jobs: time(given.jobs, "tenant.retention.jobs")?,
        uploads: time(given.uploads, "tenant.retention.uploads")?,
    })
}

/// A weight that a tenant is to have.
pub(in crate::rpc) fn weight(given: u32) -> Result<Weight, Status> {
    let weight = NonZeroU32::new(given).filter(|weight| weight.get() <= MOST_WEIGHT);
    weight.map(Weight::new).ok_or_else(|| {
        let problem = format!("expected 1 to {MOST_WEIGHT}, got {given}");
        status::invalid("tenant.weight", problem)
    })
}

/// The record of an erasure.
pub(in crate::rpc) fn of_erasure(record: ErasureRecord) -> v1::Erasure {
    v1::Erasure {
        tenant: format!("tenants/{}", record.tenant),
        principal: record.principal,
        begin_time: Some(of_time(record.begin_time)),
        end_time: record.end_time.map(of_time),
        rows: signed(record.rows),
        objects: signed(record.objects),
        bytes: signed(record.bytes),
    }
}

/// Which usage a caller asks for.
pub(in crate::rpc) fn usage_query(list: &v1::ListUsageRequest) -> Result<UsageQuery, Status> {
    let tenant = match list.tenant.as_str() {
        "" => None,
        name => Some(names::tenant(name, "tenant")?),
    };
    let span = match v1::UsageSpan::try_from(list.span) {
        Ok(v1::UsageSpan::Unspecified | v1::UsageSpan::Hour) => UsageSpan::Hour,
        Ok(v1::UsageSpan::Day) => UsageSpan::Day,
        Err(_) => return Err(status::invalid("span", "expected HOUR or DAY")),
    };
    let hour = |time: Option<&prost_types::Timestamp>, none: i64| {
        time.map_or(none, |time| time.seconds.div_euclid(60 * 60))
    };
    let begin = hour(list.start_time.as_ref(), 0).max(0);
    let end = hour(list.end_time.as_ref(), i64::MAX);
    if end < begin {
        return Err(status::invalid("end_time", "is before start_time"));
    }
    Ok(UsageQuery {
        tenant,
        begin,
        end,
        span,
    })
}

/// What a tenant used.
pub(in crate::rpc) fn of_usage(record: UsageRecord) -> v1::UsageRecord {
    let tenant = record.tenant.map(|tenant| format!("tenants/{tenant}"));
    let task = record.task.map(|task| format!("tasks/{task}"));
    v1::UsageRecord {
        tenant: tenant.unwrap_or_default(),
        task: task.unwrap_or_default(),
        start_time: Some(of_time(record.begin)),
        end_time: Some(of_time(record.end)),
        requests: signed(record.amounts.requests),
        clip_frames: signed(record.amounts.clip_frames),
        trained_clip_frames: signed(record.trained_clip_frames),
        byte_hours: signed(record.byte_hours),
        device_time: Some(of_duration(Duration::from_micros(
            record.amounts.device_micros,
        ))),
        decode_time: Some(of_duration(Duration::from_micros(
            record.amounts.decode_micros,
        ))),
        received_bytes: signed(record.amounts.received_bytes),
        sent_bytes: signed(record.amounts.sent_bytes),
    }
}

/// Time without a report after which a process counts as lost: three reports are missing.
const LOST: Duration = Duration::from_secs(35);

/// A process; `is_exclusive`: it has the records alone, and reports only what is new.
pub(in crate::rpc) fn of_replica(record: ReplicaRecord, is_exclusive: bool) -> v1::Replica {
    let report = record.report;
    let state = match report.state {
        _ if record.age > LOST && !is_exclusive => v1::ReplicaState::Lost,
        ReplicaState::Ready => v1::ReplicaState::Ready,
        ReplicaState::Draining => v1::ReplicaState::Draining,
    };
    let role = match report.role {
        ReplicaRole::All => v1::ReplicaRole::All,
        ReplicaRole::Serve => v1::ReplicaRole::Serve,
        ReplicaRole::Train => v1::ReplicaRole::Train,
    };
    let sets = report.sets.into_iter().map(|own| v1::ReplicaSet {
        tenant: format!("tenants/{}", own.tenant),
        version: own.version,
        size_bytes: signed(own.bytes),
    });
    v1::Replica {
        name: record.name,
        role: role.into(),
        state: state.into(),
        release: report.release,
        backbone_digest: report.backbone.to_string(),
        precision: report.precision.to_string(),
        start_time: Some(of_time(report.start_time)),
        report_time: Some(of_time(record.report_time)),
        used_clips: signed(report.used_clips),
        clip_capacity: signed(report.clip_capacity),
        resident_sets: signed(report.resident_sets),
        resident_bytes: signed(report.resident_bytes),
        sets: sets.collect(),
        drain_time: record.drain_time.map(of_time),
    }
}

fn of_quotas(quotas: Quotas) -> v1::Quotas {
    v1::Quotas {
        videos: quotas.videos.map(signed),
        bytes: quotas.bytes.map(signed),
        tasks: quotas.tasks.map(signed),
        versions: quotas.versions.map(signed),
        unfinished_jobs: quotas.jobs.map(i64::from),
        clip_frames_per_second: quotas.rates.clip_frames.map(signed),
        requests_per_second: quotas.rates.requests.map(signed),
        dataset_examples: quotas.examples.map(signed),
        open_upload_bytes: quotas.upload_bytes.map(signed),
        concurrent_requests: quotas.at_once.requests.map(i64::from),
        concurrent_streams: quotas.at_once.streams.map(i64::from),
        concurrent_live_streams: quotas.at_once.live_streams.map(i64::from),
        admitted_clips: quotas.at_once.clips.map(i64::from),
    }
}

/// Converts limits that a tenant is to have.
pub(in crate::rpc) fn quotas(given: Option<v1::Quotas>) -> Result<Quotas, Status> {
    let given = given.unwrap_or_default();
    let limit = |limit: Option<i64>, field: &str| {
        let limit = limit.map(u64::try_from).transpose();
        limit.map_err(|_| status::invalid(field, "expected 0 or more"))
    };
    let small = |limit: Option<i64>, field: &str| {
        let limit = limit.map(u32::try_from).transpose();
        limit.map_err(|_| status::invalid(field, "expected 0 or more, and less than 2^32"))
    };
    Ok(Quotas {
        videos: limit(given.videos, "tenant.quotas.videos")?,
        bytes: limit(given.bytes, "tenant.quotas.bytes")?,
        tasks: limit(given.tasks, "tenant.quotas.tasks")?,
        versions: limit(given.versions, "tenant.quotas.versions")?,
        jobs: small(given.unfinished_jobs, "tenant.quotas.unfinished_jobs")?,
        examples: limit(given.dataset_examples, "tenant.quotas.dataset_examples")?,
        upload_bytes: limit(given.open_upload_bytes, "tenant.quotas.open_upload_bytes")?,
        rates: Rates {
            clip_frames: limit(
                given.clip_frames_per_second,
                "tenant.quotas.clip_frames_per_second",
            )?,
            requests: limit(
                given.requests_per_second,
                "tenant.quotas.requests_per_second",
            )?,
        },
        at_once: AtOnce {
            requests: small(
                given.concurrent_requests,
                "tenant.quotas.concurrent_requests",
            )?,
            streams: small(given.concurrent_streams, "tenant.quotas.concurrent_streams")?,
            live_streams: small(
                given.concurrent_live_streams,
                "tenant.quotas.concurrent_live_streams",
            )?,
            clips: small(given.admitted_clips, "tenant.quotas.admitted_clips")?,
        },
    })
}

/// Converts a state that a tenant is to have.
pub(in crate::rpc) fn state(number: i32, field: &str) -> Result<TenantState, Status> {
    match v1::TenantState::try_from(number) {
        Ok(v1::TenantState::Active) => Ok(TenantState::Active),
        Ok(v1::TenantState::Suspended) => Ok(TenantState::Suspended),
        Ok(v1::TenantState::Unspecified | v1::TenantState::Erasing) | Err(_) => {
            Err(status::invalid(field, "expected ACTIVE or SUSPENDED"))
        }
    }
}

/// Converts a key's record; of its secrets, it shows when the one before ends.
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

/// Converts a change of a tenant or a key.
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

/// Returns the names of scopes.
pub(in crate::rpc) fn of_scopes(scopes: Scopes) -> Vec<String> {
    scopes.iter().map(|scope| scope.to_string()).collect()
}

/// Converts a key that is to be created.
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

/// Converts a duration that must not be negative.
pub(in crate::rpc) fn duration(
    given: prost_types::Duration,
    field: &str,
) -> Result<Duration, Status> {
    given
        .try_into()
        .map_err(|_| status::invalid(field, "expected a duration that is not negative"))
}
