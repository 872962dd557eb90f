//! Every metric of the server: its name, its labels and the method that records it, once.
//!
//! Invariant: label values are bounded: they are compile-time texts, or tenants, of which at most [`TENANT_LABELS`] have their own label.

mod live;
mod record;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::labels::Bounded;
use crate::ids::TenantId;
use live::Live;

pub use live::{LiveFrame, LiveWindow};

/// Tenants with a label of their own; the others share `other`.
pub const TENANT_LABELS: usize = 1000;

/// Versions whose classifications have labels of their own; the others share `other`.
pub const VERSION_LABELS: usize = 2000;

const TENANT: &str = "tenant";

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, std::sync::atomic::AtomicU64>>;
type Gauges = Family<Labels, Gauge>;
/// A latency whose buckets each name the trace of a request that fell into them, when it was traced.
type Traced = HistogramWithExemplars<Labels>;
type Times = Family<Labels, Traced, fn() -> Traced>;

/// Who made a request, as far as the stack knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A caller of this tenant.
    Tenant(TenantId),
    /// A caller whose tenant cannot be read; it is refused.
    Malformed,
    /// A caller whose credential is missing or not accepted.
    Unproven,
    /// An operator, who has no tenant.
    Operator,
    /// A caller of a method that knows no tenants: health, reflection, or no method of the server.
    Nobody,
}

impl Caller {
    /// What stands for callers without a tenant; no tenant's name begins with an underscore.
    const MALFORMED: &str = "_malformed";
    const UNPROVEN: &str = "_unproven";
    const OPERATOR: &str = "_operator";
    const NOBODY: &str = "_none";
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => tenant.fmt(f),
            Self::Malformed => f.write_str(Self::MALFORMED),
            Self::Unproven => f.write_str(Self::UNPROVEN),
            Self::Operator => f.write_str(Self::OPERATOR),
            Self::Nobody => f.write_str(Self::NOBODY),
        }
    }
}

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
    /// The queue was too long for its deadline.
    Unreachable,
}

impl Dropped {
    fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
            Self::Unreachable => "deadline_unreachable",
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

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The client's certificate was not accepted, or there was none.
    Certificate,
    /// It took too long.
    Slow,
    /// There were too many, and it was the oldest.
    Crowded,
    /// Anything else: no TLS, an old version, a client that left.
    Broken,
}

impl TlsFailure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Broken => "broken",
        }
    }
}

/// The server's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    tenants: Bounded,
    versions: Bounded,
    build_info: Gauges,
    classified: Counts,
    classified_seconds: Seconds,
    classify_failures: Counts,
    shadow: Shadow,
    connections: Connections,
    callers: Callers,
    requests: Counts,
    request_seconds: Times,
    dropped: Counts,
    queue_clips: Gauge,
    queue_seconds: Traced,
    batch_clips: Histogram,
    batch_sets: Histogram,
    device_seconds: Seconds,
    device_slices: Counts,
    device_panics: Counter,
    sets: Sets,
    decodes: Counts,
    decode_seconds: Traced,
    windows: Counter,
    window_frames: Counter,
    upload_bytes: Counts,
    unfinished: Unfinished,
    job_steps: Counts,
    job_clips: Counts,
    jobs: Gauges,
    jobs_waiting: Gauge,
    jobs_finished: Counts,
    writes_failing: Gauge,
    view: View,
    live: Live,
}

/// Adapter sets in memory.
struct Sets {
    bytes: Gauges,
    loads: Counts,
    load_failures: Counts,
    load_seconds: Histogram,
    evictions: Counter,
    moves: Counts,
}

impl Sets {
    fn new(n: &mut Names) -> Self {
        Self {
            bytes: n.gauges(
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
        }
    }
}

/// Connections of the API.
struct Connections {
    open: Gauge,
    ended: Counts,
    accept_pauses: Counter,
}

impl Connections {
    fn new(names: &mut Names) -> Self {
        Self {
            open: names.gauge("connections", "Open connections of the API"),
            ended: names.counts(
                "connections_ended",
                "Connections that the server ended, by reason",
            ),
            accept_pauses: names.count(
                "accept_pauses",
                "Times that no connection was taken for want of descriptors or memory",
            ),
        }
    }
}

/// What callers prove, and what the server shows them.
struct Callers {
    refused: Counts,
    expiry: Gauge,
    failures: Counts,
    reloads: Counts,
}

impl Callers {
    fn new(names: &mut Names) -> Self {
        Self {
            refused: names.counts(
                "credentials_refused",
                "Credentials that were not accepted, by reason",
            ),
            expiry: names.gauge(
                "tls_certificate_expiry_seconds",
                "Time until the server's certificate expires, 0 without TLS",
            ),
            failures: names.counts(
                "tls_handshakes_failed",
                "TLS handshakes that failed, by reason",
            ),
            reloads: names.counts(
                "tls_reloads",
                "Times that the files of TLS had changed, by outcome",
            ),
        }
    }
}

/// Versions that watch requests and are compared with those that answer.
struct Shadow {
    requests: Counts,
    seconds: Seconds,
    answer_seconds: Seconds,
}

impl Shadow {
    fn new(names: &mut Names) -> Self {
        Self {
            requests: names.counts(
                "shadow_requests",
                "Requests for versions that watch, by outcome, tenant, task and version",
            ),
            seconds: names.seconds(
                "shadow_device_seconds",
                "Device time of compared requests with the version that watches, by tenant, task and version",
            ),
            answer_seconds: names.seconds(
                "shadow_answer_device_seconds",
                "Device time of compared requests with the version that answered, by the version that watches",
            ),
        }
    }
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

/// 1 ms to 65 s.
fn traced() -> Traced {
    Traced::new(exponential_buckets(0.001, 2.0, 17))
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
        let metric = Times::new_with_constructor(traced as fn() -> Traced);
        self.0.register(name, help, metric.clone());
        metric
    }

    fn traced(&mut self, name: &str, help: &str) -> Traced {
        let metric = traced();
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
            versions: Bounded::new(VERSION_LABELS),
            build_info: n.gauges(
                "build_info",
                "1, with the program's version, and the backbone, device and precision that it serves with",
            ),
            classified: n.counts(
                "classifications",
                "Classifications that were answered, by tenant, task and version",
            ),
            classified_seconds: n.seconds(
                "classification_seconds",
                "Time of answered classifications in the queue and on the device, by tenant, task and version",
            ),
            classify_failures: n.counts(
                "classification_failures",
                "Classifications that failed with a version, by tenant, task and version",
            ),
            shadow: Shadow::new(n),
            connections: Connections::new(n),
            callers: Callers::new(n),
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
            queue_seconds: n.traced("queue_seconds", "Time of a request in the queue"),
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
            sets: Sets::new(n),
            decodes: n.counts("decodes", "Videos decoded, by outcome"),
            decode_seconds: n.traced(
                "decode_seconds",
                "Time to decode and transform one video's clip",
            ),
            windows: n.count("windows", "Windows of videos that were answered"),
            window_frames: n.count(
                "window_frames",
                "Frames that were decoded for windows of videos",
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
            live: Live::new(n),
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
}

#[cfg(test)]
mod tests;
