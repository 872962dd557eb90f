//! Every metric of the server: its name, its labels and the method that records it, once.
//!
//! Invariant: label values are bounded: they are compile-time texts, or tenants, of which at most [`TENANT_LABELS`] have their own label.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::labels::Bounded;
use crate::ids::TenantId;
use crate::spec::JobState;

/// Tenants with a label of their own; the others share `other`.
pub const TENANT_LABELS: usize = 1000;

const METHOD: &str = "method";
const CODE: &str = "code";
const TENANT: &str = "tenant";
const KIND: &str = "kind";
const REASON: &str = "reason";
const OUTCOME: &str = "outcome";
const STATE: &str = "state";

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, std::sync::atomic::AtomicU64>>;
type Gauges = Family<Labels, Gauge>;
type Times = Family<Labels, Histogram, fn() -> Histogram>;

/// On whose behalf the device ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Classification, and the warming of adapter sets.
    Serving,
    /// Fine-tuning and its evaluation.
    Training,
}

impl DeviceKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Training => "training",
        }
    }
}

/// Why a request left the queue without a batch, or never entered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Its deadline passed.
    Expired,
    /// Its caller left.
    Cancelled,
    /// The queue was full, or the tenant's share of it.
    QueueFull,
}

impl Dropped {
    fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
        }
    }
}

/// Why the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionEnd {
    /// There were as many as there may be.
    Refused,
    /// It did not speak HTTP/2 in time.
    Silent,
    /// The server drained.
    Drained,
}

impl ConnectionEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Drained => "drained",
        }
    }
}

/// The server's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    tenants: Bounded,
    connections: Gauge,
    connections_ended: Counts,
    accept_pauses: Counter,
    requests: Counts,
    request_seconds: Times,
    dropped: Counts,
    queue_clips: Gauge,
    queue_seconds: Histogram,
    batch_clips: Histogram,
    batch_sets: Histogram,
    device_seconds: Seconds,
    device_slices: Counts,
    device_panics: Counter,
    residency_bytes: Gauges,
    loads: Counts,
    load_failures: Counts,
    load_seconds: Histogram,
    evictions: Counter,
    moves: Counts,
    decodes: Counts,
    decode_seconds: Histogram,
    upload_bytes: Counts,
    unfinished: Unfinished,
    job_steps: Counts,
    job_clips: Counts,
    jobs: Gauges,
    jobs_waiting: Gauge,
    jobs_finished: Counts,
    writes_failing: Gauge,
    view: View,
}

/// What is known of tasks without asking the database.
struct View {
    database_up: Gauge,
    age: Gauge,
    unservable: Gauge,
}

impl View {
    fn new(names: &mut Names) -> Self {
        Self {
            database_up: names.gauge(
                "database_up",
                "Whether the change feed could be read when it was last asked",
            ),
            age: names.gauge(
                "view_age_seconds",
                "Time since what classification knows of tasks was last confirmed by the database",
            ),
            unservable: names.gauge(
                "unservable_tasks",
                "Tasks whose serving version was trained on another backbone when the server started",
            ),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// 1 ms to 65 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// 1 to 256.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 9))
}

/// Registers metrics under the server's prefix.
struct Names(Registry);

impl Names {
    fn counts(&mut self, name: &str, help: &str) -> Counts {
        let metric = Counts::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        let metric = Seconds::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn count(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn gauges(&mut self, name: &str, help: &str) -> Gauges {
        let metric = Gauges::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn histogram(&mut self, name: &str, help: &str, new: fn() -> Histogram) -> Histogram {
        let metric = new();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn times(&mut self, name: &str, help: &str) -> Times {
        let metric = Times::new_with_constructor(seconds as fn() -> Histogram);
        self.0.register(name, help, metric.clone());
        metric
    }
}

/// What is known of uploads that are not finished.
struct Unfinished {
    uploads: Gauge,
    bytes: Gauge,
    expired: Counter,
}

impl Unfinished {
    fn new(names: &mut Names) -> Self {
        Self {
            uploads: names.gauge(
                "unfinished_uploads",
                "Resumable uploads that are not finished, of all tenants",
            ),
            bytes: names.gauge(
                "unfinished_upload_bytes",
                "Durable bytes of the uploads that are not finished",
            ),
            expired: names.count(
                "uploads_expired",
                "Resumable uploads that were removed because nobody wrote to them",
            ),
        }
    }
}

impl Metrics {
    /// New metrics, all zero.
    pub fn new() -> Self {
        let mut names = Names(Registry::with_prefix("frameshift"));
        let n = &mut names;
        // The encoder appends `_total` to counters and a full stop to each help text.
        let mut inner = Inner {
            registry: Registry::default(),
            tenants: Bounded::new(TENANT_LABELS),
            connections: n.gauge("connections", "Open connections of the API"),
            connections_ended: n.counts(
                "connections_ended",
                "Connections that the server ended, by reason",
            ),
            accept_pauses: n.count(
                "accept_pauses",
                "Times that no connection was taken for want of descriptors or memory",
            ),
            requests: n.counts("requests", "Requests by method, gRPC code and tenant"),
            request_seconds: n.times(
                "request_seconds",
                "Time from a request's head to its status",
            ),
            dropped: n.counts(
                "requests_dropped",
                "Classifications dropped before the device, by reason and tenant",
            ),
            queue_clips: n.gauge("queue_clips", "Clips that wait for a batch"),
            queue_seconds: n.histogram("queue_seconds", "Time of a request in the queue", seconds),
            batch_clips: n.histogram("batch_clips", "Clips in a batch", sizes),
            batch_sets: n.histogram("batch_adapter_sets", "Adapter sets in a batch", sizes),
            device_seconds: n.seconds(
                "device_seconds",
                "Time that the device thread ran slices, by kind",
            ),
            device_slices: n.counts(
                "device_slices",
                "Slices that the device thread ran, by kind",
            ),
            device_panics: n.count(
                "device_panics",
                "Works that were dropped because a slice panicked",
            ),
            residency_bytes: n.gauges(
                "residency_bytes",
                "Bytes of resident adapter sets by tenant",
            ),
            loads: n.counts("adapter_loads", "Adapter sets made resident, by tenant"),
            load_failures: n.counts(
                "adapter_load_failures",
                "Adapter sets that could not be made resident, by reason and tenant",
            ),
            load_seconds: n.histogram(
                "adapter_load_seconds",
                "Time to load and warm an adapter set",
                seconds,
            ),
            evictions: n.count(
                "adapter_evictions",
                "Adapter sets that made room for others",
            ),
            moves: n.counts(
                "serving_moves",
                "Attempts to move a task's serving version, by outcome",
            ),
            decodes: n.counts("decodes", "Videos decoded, by outcome"),
            decode_seconds: n.histogram(
                "decode_seconds",
                "Time to decode and transform one video's clip",
                seconds,
            ),
            upload_bytes: n.counts("upload_bytes", "Bytes of videos stored, by tenant"),
            unfinished: Unfinished::new(n),
            job_steps: n.counts("job_steps", "Optimiser steps by tenant"),
            job_clips: n.counts("job_clips", "Clips trained on, by tenant"),
            jobs: n.gauges("jobs", "Jobs that this process works on, by state"),
            jobs_waiting: n.gauge("jobs_waiting", "Jobs that wait for a worker"),
            jobs_finished: n.counts("jobs_finished", "Jobs that ended, by state and tenant"),
            writes_failing: n.gauge("database_writes_failing", "1 while writes fail, else 0"),
            view: View::new(n),
        };
        inner.registry = names.0;
        Self(Arc::new(inner))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a `String` never fails.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    fn tenant(&self, tenant: &TenantId) -> (&'static str, String) {
        (TENANT, self.0.tenants.label(tenant.as_str()))
    }

    /// So many connections more, or fewer, are open.
    pub fn connections(&self, change: i64) {
        self.0.connections.inc_by(change);
    }

    /// The server ended a connection.
    pub fn connection_ended(&self, reason: ConnectionEnd) {
        let labels = vec![(REASON, reason.as_str().to_owned())];
        self.0.connections_ended.get_or_create(&labels).inc();
    }

    /// No connection was taken for a while, for want of descriptors or memory.
    pub fn accept_paused(&self) {
        self.0.accept_pauses.inc();
    }

    /// A request ended with a gRPC code; `method` is one that the server knows, never a caller's text.
    pub fn request(
        &self,
        tenant: &TenantId,
        method: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        let of_method = vec![(METHOD, method.to_owned())];
        self.0
            .request_seconds
            .get_or_create(&of_method)
            .observe(took.as_secs_f64());
        let labels = vec![
            (METHOD, method.to_owned()),
            (CODE, code.to_owned()),
            self.tenant(tenant),
        ];
        self.0.requests.get_or_create(&labels).inc();
    }

    /// A classification was dropped before the device.
    pub fn dropped(&self, tenant: &TenantId, reason: Dropped) {
        let labels = vec![(REASON, reason.as_str().to_owned()), self.tenant(tenant)];
        self.0.dropped.get_or_create(&labels).inc();
    }

    /// So many clips wait for a batch now.
    pub fn queue_clips(&self, clips: usize) {
        self.0.queue_clips.set(gauge(clips as u64));
    }

    /// A request waited so long for its last batch.
    pub fn queued(&self, time: Duration) {
        self.0.queue_seconds.observe(time.as_secs_f64());
    }

    /// A batch was formed.
    pub fn batch(&self, clips: usize, sets: usize) {
        self.0.batch_clips.observe(clips as f64);
        self.0.batch_sets.observe(sets as f64);
    }

    /// The device ran one slice.
    pub fn slice(&self, kind: DeviceKind, took: Duration) {
        let labels = vec![(KIND, kind.as_str().to_owned())];
        self.0
            .device_seconds
            .get_or_create(&labels)
            .inc_by(took.as_secs_f64());
        self.0.device_slices.get_or_create(&labels).inc();
    }

    /// A slice panicked and its work was dropped.
    pub fn device_panic(&self) {
        self.0.device_panics.inc();
    }

    /// A tenant's resident adapter sets take so many bytes now.
    pub fn residency_bytes(&self, tenant: &TenantId, bytes: u64) {
        // Tenants that share the label `other` would overwrite one another, so that label counts nothing.
        let label = self.tenant(tenant);
        if label.1 == super::labels::OTHER && tenant.as_str() != super::labels::OTHER {
            return;
        }
        self.0
            .residency_bytes
            .get_or_create(&vec![label])
            .set(gauge(bytes));
    }

    /// An adapter set became resident.
    pub fn adapter_loaded(&self, tenant: &TenantId, took: Duration) {
        self.0.loads.get_or_create(&vec![self.tenant(tenant)]).inc();
        self.0.load_seconds.observe(took.as_secs_f64());
    }

    /// An adapter set could not be made resident.
    pub fn adapter_load_failed(&self, tenant: &TenantId, reason: &'static str) {
        let labels = vec![(REASON, reason.to_owned()), self.tenant(tenant)];
        self.0.load_failures.get_or_create(&labels).inc();
    }

    /// An adapter set made room.
    pub fn adapter_evicted(&self) {
        self.0.evictions.inc();
    }

    /// The engine tried to move a task's serving version; `outcome` is `moved`, `refused` or `retried`.
    pub fn serving_move(&self, outcome: &'static str) {
        self.0
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
        self.0.decode_seconds.observe(took.as_secs_f64());
    }

    /// So many bytes of a video were stored.
    pub fn uploaded(&self, tenant: &TenantId, bytes: u64) {
        self.0
            .upload_bytes
            .get_or_create(&vec![self.tenant(tenant)])
            .inc_by(bytes);
    }

    /// So many uploads are unfinished now, with so many bytes, and so many expired since this was said last.
    pub fn unfinished_uploads(&self, uploads: u64, bytes: u64, expired: u64) {
        self.0.unfinished.uploads.set(gauge(uploads));
        self.0.unfinished.bytes.set(gauge(bytes));
        self.0.unfinished.expired.inc_by(expired);
    }

    /// A job made one optimiser step over so many clips.
    pub fn job_step(&self, tenant: &TenantId, clips: usize) {
        let labels = vec![self.tenant(tenant)];
        self.0.job_steps.get_or_create(&labels).inc();
        self.0.job_clips.get_or_create(&labels).inc_by(clips as u64);
    }

    /// A job that this process works on went from one state to another; `None` is before its claim or after its end here.
    pub fn job_moved(&self, from: Option<JobState>, to: Option<JobState>) {
        if let Some(state) = from {
            self.0.jobs.get_or_create(&job_labels(state)).dec();
        }
        if let Some(state) = to {
            self.0.jobs.get_or_create(&job_labels(state)).inc();
        }
    }

    /// The database stopped taking writes, or takes them again.
    pub fn database_writes_failing(&self, failing: bool) {
        self.0.writes_failing.set(i64::from(failing));
    }

    /// So many jobs wait for a worker.
    pub fn jobs_waiting(&self, jobs: u64) {
        self.0.jobs_waiting.set(gauge(jobs));
    }

    /// A job ended.
    pub fn job_finished(&self, tenant: &TenantId, state: JobState) {
        let mut labels = job_labels(state);
        labels.push(self.tenant(tenant));
        self.0.jobs_finished.get_or_create(&labels).inc();
    }
}

impl Metrics {
    /// The change feed could be read, or could not.
    pub fn database_up(&self, is_up: bool) {
        self.0.view.database_up.set(i64::from(is_up));
    }

    /// What classification knows of tasks was confirmed so long ago.
    pub fn view_age(&self, age: Duration) {
        self.0.view.age.set(gauge(age.as_secs()));
    }

    /// So many tasks have a serving version of another backbone.
    pub fn unservable_tasks(&self, tasks: u64) {
        self.0.view.unservable.set(gauge(tasks));
    }
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

#[cfg(test)]
mod tests;
