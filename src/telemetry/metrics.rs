//! Every metric of the server: its name, its labels and the method that records it, once.
//!
//! Invariant: label values are bounded: they are compile-time texts, or tenants, of which at most [`TENANT_LABELS`] have their own label.

mod decoded;
mod groups;
mod holding;
mod live;
mod names;
mod objects;
mod record;
mod values;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::Bounded;
use crate::ids::TenantId;
use decoded::Decoded;
use groups::{Callers, Connections, Device, Jobs, Losses, Sets, Shadow, Unfinished, View};
use live::Live;
use names::{Names, sizes};
use objects::Objects;

pub use decoded::DecodedUse;
pub use holding::Holding;
pub use live::{LiveFrame, LiveWindow};
pub use objects::CacheUse;
pub use values::{Caller, ConnectionEnd, DeviceKind, DeviceMemory, Dropped, LeaseKind, TlsFailure};

/// Tenants with a label of their own; the others share `other`.
pub const TENANT_LABELS: usize = 100;

/// Versions whose classifications have labels of their own; the others share `other`.
pub const VERSION_LABELS: usize = 300;

/// Combinations of method, code and tenant whose requests are counted apart; the others are counted for the tenant `other`.
pub const REQUEST_LABELS: usize = 700;

const TENANT: &str = "tenant";

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, std::sync::atomic::AtomicU64>>;
type Gauges = Family<Labels, Gauge>;
/// A latency whose buckets each name the trace of a request that fell into them, when it was traced.
type Traced = HistogramWithExemplars<Labels>;
type Times = Family<Labels, Traced, fn() -> Traced>;

/// The server's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    tenants: Bounded,
    versions: Bounded,
    requested: Bounded,
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
    admission_used: Gauge,
    admission_capacity: Gauge,
    queue_seconds: Traced,
    batch_clips: Histogram,
    batch_sets: Histogram,
    frames_resumed: Counter,
    device: Device,
    sets: Sets,
    decodes: Counts,
    decode_seconds: Traced,
    windows: Counter,
    window_frames: Counter,
    upload_bytes: Counts,
    unfinished: Unfinished,
    jobs: Jobs,
    losses: Losses,
    writes_failing: Gauge,
    view: View,
    live: Live,
    objects: Objects,
    decoded: Decoded,
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
            requested: Bounded::new(REQUEST_LABELS),
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
            admission_used: n.gauge(
                "admission_used_clips",
                "Clips of requests that were admitted and are not answered",
            ),
            admission_capacity: n.gauge(
                "admission_capacity_clips",
                "Clips that may be admitted at a time",
            ),
            queue_seconds: n.traced("queue_seconds", "Time of a request in the queue"),
            batch_clips: n.histogram("batch_clips", "Clips in a batch", sizes),
            batch_sets: n.histogram("batch_adapter_sets", "Adapter sets in a batch", sizes),
            frames_resumed: n.count(
                "frames_resumed",
                "Frames of batches that went on from tokens kept of an earlier batch",
            ),
            device: Device::new(n),
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
            jobs: Jobs::new(n),
            losses: Losses::new(n),
            writes_failing: n.gauge("database_writes_failing", "1 while writes fail, else 0"),
            view: View::new(n),
            live: Live::new(n),
            objects: Objects::new(n),
            decoded: Decoded::new(n),
        };
        inner.registry = names.0;
        let metrics = Self(Arc::new(inner));
        metrics.no_lease_lost();
        metrics
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
