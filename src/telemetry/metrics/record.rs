//! The methods that record: one for each thing that happens.
//!
//! Invariant: a method takes compile-time texts and domain values, and bounds whatever of them comes from callers.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::super::labels::OTHER;
use super::super::trace;
use super::{
    Caller, ConnectionEnd, DeviceKind, DeviceMemory, Dropped, Labels, LeaseKind, Metrics, TENANT,
    TlsFailure, Traced,
};
use crate::ids::{TenantId, VersionRef};
use crate::spec::JobState;

const METHOD: &str = "method";
const CODE: &str = "code";
const KIND: &str = "kind";
const REASON: &str = "reason";
const OUTCOME: &str = "outcome";
const STATE: &str = "state";
const TASK: &str = "task";
const VERSION: &str = "version";
const TRACE: &str = "trace_id";

impl Metrics {
    /// Adds to the number of open connections; `change` may be negative.
    pub fn connections(&self, change: i64) {
        self.0.connections.open.inc_by(change);
    }

    /// Adds to the number of connections that are read slowly; `change` may be negative.
    pub fn slow_connections(&self, change: i64) {
        self.0.connections.slow.inc_by(change);
        if change > 0 {
            self.0.connections.slowed.inc();
        }
    }

    /// The server ended a connection.
    pub fn connection_ended(&self, reason: ConnectionEnd) {
        let labels = vec![(REASON, reason.as_str().to_owned())];
        self.0.connections.ended.get_or_create(&labels).inc();
    }

    /// No connection was taken for a while, for want of descriptors or memory.
    pub fn accept_paused(&self) {
        self.0.connections.accept_pauses.inc();
    }

    /// What runs here: the program's version, the backbone's digest, the device and the precision.
    pub fn build_info(&self, version: &str, backbone: &str, device: &str, precision: &str) {
        let labels = vec![
            ("version", version.to_owned()),
            ("backbone", backbone.to_owned()),
            ("device", device.to_owned()),
            ("precision", precision.to_owned()),
        ];
        self.0.build_info.get_or_create(&labels).set(1);
    }

    /// Counts a classification that a version answered, and the time that it took in the queue and on the device.
    pub fn classified(&self, version: &VersionRef, took: Duration) {
        let labels = self.version(version);
        let seconds = self.0.classified_seconds.get_or_create(&labels);
        seconds.inc_by(took.as_secs_f64());
        self.0.classified.get_or_create(&labels).inc();
    }

    /// A classification failed with a version, whether or not another version answered it then.
    pub fn classification_failed(&self, version: &VersionRef) {
        let labels = self.version(version);
        self.0.classify_failures.get_or_create(&labels).inc();
    }

    /// Counts a request that a shadow version ran on; `outcome` is `agreed`, `disagreed`, `failed`, `dropped` or `not_resident`.
    pub fn shadowed(&self, version: &VersionRef, outcome: &'static str) {
        let mut labels = self.version(version);
        labels.push((OUTCOME, outcome.to_owned()));
        self.0.shadow.requests.get_or_create(&labels).inc();
    }

    /// Adds the device time of one request with a shadow version, and with the one that answered.
    pub fn shadow_device(&self, version: &VersionRef, own: Duration, answer: Duration) {
        let labels = self.version(version);
        let seconds = self.0.shadow.seconds.get_or_create(&labels);
        seconds.inc_by(own.as_secs_f64());
        let seconds = self.0.shadow.answer_seconds.get_or_create(&labels);
        seconds.inc_by(answer.as_secs_f64());
    }

    /// Tenant, task and number of a version, as long as there are not too many.
    fn version(&self, version: &VersionRef) -> Labels {
        let VersionRef {
            tenant,
            task,
            version: number,
        } = version;
        let whole = format!("{tenant}/{version}");
        let has_label = self.0.versions.label(&whole) == whole;
        let own = |text: String| match has_label {
            true => text,
            false => OTHER.to_owned(),
        };
        vec![
            (TENANT, own(tenant.to_string())),
            (TASK, own(task.to_string())),
            (VERSION, own(number.to_string())),
        ]
    }

    /// A request ended with a gRPC code; `method` is one that the server knows, never a caller's text. `trace` is the id of its trace when its spans
    /// are recorded.
    pub fn request(
        &self,
        caller: &Caller,
        method: &'static str,
        code: &'static str,
        took: Duration,
        trace: Option<String>,
    ) {
        let of_method = vec![(METHOD, method.to_owned())];
        let seconds = self.0.request_seconds.get_or_create(&of_method);
        observe(&seconds, took, trace);
        drop(seconds);
        let mut of_whom = match caller {
            Caller::Tenant(tenant) => self.tenant(tenant),
            Caller::Malformed | Caller::Unproven | Caller::Operator | Caller::Nobody => {
                (TENANT, caller.to_string())
            }
        };
        let combined = format!("{method} {code} {}", of_whom.1);
        if matches!(caller, Caller::Tenant(_)) && self.0.requested.label(&combined) != combined {
            of_whom.1 = OTHER.to_owned();
        }
        let labels = vec![
            (METHOD, method.to_owned()),
            (CODE, code.to_owned()),
            of_whom,
        ];
        self.0.requests.get_or_create(&labels).inc();
    }

    /// A credential was not accepted.
    pub fn credential_refused(&self, reason: &'static str) {
        let labels = vec![(REASON, reason.to_owned())];
        self.0.callers.refused.get_or_create(&labels).inc();
    }

    /// Sets the seconds until the server's certificate expires, negative once it has.
    pub fn certificate_expiry(&self, seconds: i64) {
        self.0.callers.expiry.set(seconds);
    }

    /// Sets the seconds until the lists of revoked certificates should have been followed by new ones, negative once they should have; 0 without any.
    pub fn revocations_expiry(&self, seconds: i64) {
        self.0.callers.revocations.set(seconds);
    }

    /// An address has tried many different credentials.
    pub fn credentials_guessed(&self) {
        self.0.callers.guessed.inc();
    }

    /// An issuer's keys were asked for, and came or did not.
    pub fn issuer_keys_fetched(&self, have_come: bool) {
        let outcome = if have_come { "fetched" } else { "failed" };
        let labels = vec![(OUTCOME, outcome.to_owned())];
        self.0.callers.issuer_keys.get_or_create(&labels).inc();
    }

    /// The file of identities had changed, and is in force or cannot be used.
    pub fn identities_reloaded(&self, is_used: bool) {
        let outcome = if is_used { "used" } else { "refused" };
        let labels = vec![(OUTCOME, outcome.to_owned())];
        self.0.callers.identities.get_or_create(&labels).inc();
    }

    /// A TLS handshake failed.
    pub fn tls_failed(&self, reason: TlsFailure) {
        let labels = vec![(REASON, reason.as_str().to_owned())];
        self.0.callers.failures.get_or_create(&labels).inc();
    }

    /// The files of TLS had changed, and are in use or cannot be used.
    pub fn certificates_reloaded(&self, are_used: bool) {
        let outcome = if are_used { "used" } else { "refused" };
        let labels = vec![(OUTCOME, outcome.to_owned())];
        self.0.callers.reloads.get_or_create(&labels).inc();
    }

    /// A classification was dropped before the device.
    pub fn dropped(&self, tenant: &TenantId, reason: Dropped) {
        let labels = vec![(REASON, reason.as_str().to_owned()), self.tenant(tenant)];
        self.0.dropped.get_or_create(&labels).inc();
    }

    /// Sets the clips that admitted requests hold.
    pub fn admission_used(&self, clips: usize) {
        self.0.admission_used.set(gauge(clips as u64));
    }

    /// Sets the clips that may be admitted at a time.
    pub fn admission_capacity(&self, clips: usize) {
        self.0.admission_capacity.set(gauge(clips as u64));
    }

    /// So many clips wait for a batch now.
    pub fn queue_clips(&self, clips: usize) {
        self.0.queue_clips.set(gauge(clips as u64));
    }

    /// Records the time that a request waited for its last batch.
    pub fn queued(&self, time: Duration) {
        observe(&self.0.queue_seconds, time, trace::current_id());
    }

    /// A batch was formed.
    pub fn batch(&self, clips: usize, sets: usize) {
        self.0.batch_clips.observe(clips as f64);
        self.0.batch_sets.observe(sets as f64);
    }

    /// So many frames of a batch went on from tokens that an earlier batch kept.
    pub fn frames_resumed(&self, frames: usize) {
        self.0.frames_resumed.inc_by(frames as u64);
    }

    /// The device ran one slice.
    pub fn slice(&self, kind: DeviceKind, took: Duration) {
        let labels = vec![(KIND, kind.as_str().to_owned())];
        self.0
            .device
            .seconds
            .get_or_create(&labels)
            .inc_by(took.as_secs_f64());
        self.0.device.slices.get_or_create(&labels).inc();
    }

    /// A slice panicked and its work was dropped.
    pub fn device_panic(&self) {
        self.0.device.panics.inc();
    }

    /// The accelerator has so much memory now, and spent so much time on uploads.
    pub fn device(&self, now: DeviceMemory) {
        let kinds = [
            ("total", now.total),
            ("reserved", now.reserved),
            ("used", now.used),
        ];
        for (kind, bytes) in kinds {
            self.0
                .device
                .memory
                .get_or_create(&vec![(KIND, kind.to_owned())])
                .set(gauge(bytes));
        }
        let seconds = now.uploading.as_secs_f64();
        self.0.device.upload_seconds.set(seconds);
    }

    /// The device had no room for a batch.
    pub fn batch_halved(&self) {
        self.0.device.halved.inc();
    }

    /// Sets the bytes of a tenant's resident adapter sets.
    pub fn residency_bytes(&self, tenant: &TenantId, bytes: u64) {
        // Tenants that share the label `other` would overwrite one another, so that label counts nothing.
        let label = self.tenant(tenant);
        if label.1 == OTHER && tenant.as_str() != OTHER {
            return;
        }
        self.0
            .sets
            .bytes
            .get_or_create(&vec![label])
            .set(gauge(bytes));
    }

    /// An adapter set became resident.
    pub fn adapter_loaded(&self, tenant: &TenantId, took: Duration) {
        self.0
            .sets
            .loads
            .get_or_create(&vec![self.tenant(tenant)])
            .inc();
        self.0.sets.load_seconds.observe(took.as_secs_f64());
    }

    /// An adapter set could not be made resident.
    pub fn adapter_load_failed(&self, tenant: &TenantId, reason: &'static str) {
        let labels = vec![(REASON, reason.to_owned()), self.tenant(tenant)];
        self.0.sets.load_failures.get_or_create(&labels).inc();
    }

    /// An adapter set made room.
    pub fn adapter_evicted(&self) {
        self.0.sets.evictions.inc();
    }

    /// The engine tried to move a task's serving version; `outcome` is `moved`, `refused` or `retried`.
    pub fn serving_move(&self, outcome: &'static str) {
        self.0
            .sets
            .moves
            .get_or_create(&vec![(OUTCOME, outcome.to_owned())])
            .inc();
    }

    /// A video was decoded, or not: `outcome` is `ok`, `rejected`, `cancelled` or `failed`.
    pub fn decoded(&self, outcome: &'static str, took: Duration) {
        self.0
            .decodes
            .get_or_create(&vec![(OUTCOME, outcome.to_owned())])
            .inc();
        observe(&self.0.decode_seconds, took, trace::current_id());
    }

    /// A window of a video was answered.
    pub fn window(&self) {
        self.0.windows.inc();
    }

    /// So many frames of a video were decoded for windows.
    pub fn window_frames(&self, frames: usize) {
        self.0.window_frames.inc_by(frames as u64);
    }

    /// So many bytes of a video were stored.
    pub fn uploaded(&self, tenant: &TenantId, bytes: u64) {
        self.0
            .upload_bytes
            .get_or_create(&vec![self.tenant(tenant)])
            .inc_by(bytes);
    }

    /// Sets the number of unfinished uploads and their bytes, and adds those that expired since the last call.
    pub fn unfinished_uploads(&self, uploads: u64, bytes: u64, expired: u64) {
        self.0.unfinished.uploads.set(gauge(uploads));
        self.0.unfinished.bytes.set(gauge(bytes));
        self.0.unfinished.expired.inc_by(expired);
    }

    /// Counts an optimiser step of a job, and its clips.
    pub fn job_step(&self, tenant: &TenantId, clips: usize) {
        let labels = vec![self.tenant(tenant)];
        self.0.jobs.steps.get_or_create(&labels).inc();
        self.0
            .jobs
            .clips
            .get_or_create(&labels)
            .inc_by(clips as u64);
    }

    /// A job that this process works on went from one state to another; `None` is before its claim or after its end here.
    pub fn job_moved(&self, from: Option<JobState>, to: Option<JobState>) {
        if let Some(state) = from {
            self.0.jobs.by_state.get_or_create(&job_labels(state)).dec();
        }
        if let Some(state) = to {
            self.0.jobs.by_state.get_or_create(&job_labels(state)).inc();
        }
    }

    /// The database stopped taking writes, or takes them again.
    pub fn database_writes_failing(&self, failing: bool) {
        self.0.writes_failing.set(i64::from(failing));
    }

    /// So many jobs wait for a worker.
    pub fn jobs_waiting(&self, jobs: u64) {
        self.0.jobs.waiting.set(gauge(jobs));
    }

    /// A job ended.
    pub fn job_finished(&self, tenant: &TenantId, state: JobState) {
        let mut labels = job_labels(state);
        labels.push(self.tenant(tenant));
        self.0.jobs.finished.get_or_create(&labels).inc();
    }
}

impl Metrics {
    /// A lease that this process used ran out or went to another.
    pub fn lease_lost(&self, kind: LeaseKind) {
        self.leases_lost(kind).inc();
    }

    /// Makes the counts of lost leases be there from the start on: an alert sees no rise in a series that begins with 1.
    pub(super) fn no_lease_lost(&self) {
        for kind in LeaseKind::ALL {
            drop(self.leases_lost(kind));
        }
    }

    fn leases_lost(&self, kind: LeaseKind) -> impl std::ops::Deref<Target = Counter> + '_ {
        let labels = vec![(KIND, kind.as_str().to_owned())];
        self.0.losses.leases.get_or_create(&labels)
    }

    /// So many video workers were lost since the start for this reason, such as `sandbox_violation`. One caller tells of a reason.
    pub fn video_workers_lost(&self, reason: &str, workers: u64) {
        let labels = vec![(REASON, reason.to_owned())];
        let count = self.0.losses.workers.get_or_create(&labels);
        count.inc_by(workers.saturating_sub(count.get()));
    }
}

impl Metrics {
    /// The change feed could be read, or could not.
    pub fn database_up(&self, is_up: bool) {
        self.0.view.database_up.set(i64::from(is_up));
    }

    /// Sets the time since the database last confirmed what classification knows of tasks.
    pub fn view_age(&self, age: Duration) {
        self.0.view.age.set(gauge(age.as_secs()));
    }

    /// So many tasks have a serving version of another backbone.
    pub fn unservable_tasks(&self, tasks: u64) {
        self.0.view.unservable.set(gauge(tasks));
    }
}

/// Counts a time, with the trace of the request as an exemplar when there is one.
fn observe(times: &Traced, took: Duration, trace: Option<String>) {
    let exemplar = trace.map(|id| (vec![(TRACE, id)], super::super::now()));
    let (labels, at) = exemplar.unzip();
    times.observe(took.as_secs_f64(), labels, at);
}

fn job_labels(state: JobState) -> Labels {
    let name = match state {
        JobState::Queued => "queued",
        JobState::Validating => "validating",
        JobState::Running => "running",
        JobState::Evaluating => "evaluating",
        JobState::Publishing => "publishing",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    };
    vec![(STATE, name.to_owned())]
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
