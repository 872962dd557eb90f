//! Metrics that belong together, with their names and help texts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::names::{Names, seconds};
use super::{Counts, Gauges, Seconds};

/// Adapter sets in memory.
pub(super) struct Sets {
    pub(super) bytes: Gauges,
    pub(super) loads: Counts,
    pub(super) load_failures: Counts,
    pub(super) load_seconds: Histogram,
    pub(super) evictions: Counter,
    pub(super) moves: Counts,
}

impl Sets {
    pub(super) fn new(n: &mut Names) -> Self {
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
pub(super) struct Connections {
    pub(super) open: Gauge,
    pub(super) slow: Gauge,
    pub(super) slowed: Counter,
    pub(super) ended: Counts,
    pub(super) accept_pauses: Counter,
}

impl Connections {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            open: names.gauge("connections", "Open connections of the API"),
            slow: names.gauge(
                "slow_connections",
                "Open connections that are read slowly, since they showed bad credentials alone",
            ),
            slowed: names.count(
                "connections_slowed",
                "Connections that have come to be read slowly",
            ),
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
pub(super) struct Callers {
    pub(super) refused: Counts,
    pub(super) guessed: Counter,
    pub(super) issuer_keys: Counts,
    pub(super) identities: Counts,
    pub(super) expiry: Gauge,
    pub(super) revocations: Gauge,
    pub(super) failures: Counts,
    pub(super) reloads: Counts,
}

impl Callers {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            refused: names.counts(
                "credentials_refused",
                "Credentials that were not accepted, by reason",
            ),
            guessed: names.count(
                "credential_guessing",
                "Times that one address had 100 different credentials refused within 10 minutes",
            ),
            issuer_keys: names.counts(
                "issuer_key_fetches",
                "Fetches of the keys of OpenID Connect issuers, by outcome",
            ),
            identities: names.counts(
                "identities_reloads",
                "Times that the file of identities had changed, by outcome",
            ),
            expiry: names.gauge(
                "tls_certificate_expiry_seconds",
                "Time until the server's certificate expires, 0 without TLS",
            ),
            revocations: names.gauge(
                "tls_revocations_expiry_seconds",
                "Time until the lists of revoked certificates should have been followed by new ones, 0 without any",
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

/// Shadow versions, and how they compare with the versions that answer.
pub(super) struct Shadow {
    pub(super) requests: Counts,
    pub(super) seconds: Seconds,
    pub(super) answer_seconds: Seconds,
}

impl Shadow {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            requests: names.counts(
                "shadow_requests",
                "Requests for shadow versions, by outcome, tenant, task and version",
            ),
            seconds: names.seconds(
                "shadow_device_seconds",
                "Device time of compared requests with the shadow version, by tenant, task and version",
            ),
            answer_seconds: names.seconds(
                "shadow_answer_device_seconds",
                "Device time of compared requests with the version that answered, by the shadow version",
            ),
        }
    }
}

/// What is known of tasks without asking the database.
pub(super) struct View {
    pub(super) database_up: Gauge,
    pub(super) age: Gauge,
    pub(super) unservable: Gauge,
}

impl View {
    pub(super) fn new(names: &mut Names) -> Self {
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

/// What is known of uploads that are not finished.
pub(super) struct Unfinished {
    pub(super) uploads: Gauge,
    pub(super) bytes: Gauge,
    pub(super) expired: Counter,
}

impl Unfinished {
    pub(super) fn new(names: &mut Names) -> Self {
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

/// Work of the device.
pub(super) struct Device {
    pub(super) seconds: Seconds,
    pub(super) slices: Counts,
    pub(super) panics: Counter,
    pub(super) memory: Gauges,
    pub(super) upload_seconds: Gauge<f64, AtomicU64>,
    pub(super) halved: Counter,
}

impl Device {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            seconds: names.seconds(
                "device_seconds",
                "Time that the device thread ran slices, by kind",
            ),
            slices: names.counts(
                "device_slices",
                "Slices that the device thread ran, by kind",
            ),
            memory: names.gauges(
                "device_memory_bytes",
                "Memory of the GPU by kind: total, reserved by this process, used of what is reserved",
            ),
            upload_seconds: names.fraction(
                "device_upload_seconds",
                "Time that uploads of weights to the GPU took since the start",
            ),
            panics: names.count(
                "device_panics",
                "Works that were dropped because a slice panicked",
            ),
            halved: names.count(
                "batches_halved",
                "Batches for which the device had no room, which ran again in halves",
            ),
        }
    }
}

/// Fine-tuning jobs.
pub(super) struct Jobs {
    pub(super) steps: Counts,
    pub(super) clips: Counts,
    pub(super) by_state: Gauges,
    pub(super) waiting: Gauge,
    pub(super) finished: Counts,
}

/// What went wrong so that others took over, or a video was refused.
pub(super) struct Losses {
    pub(super) leases: Counts,
    pub(super) workers: Counts,
}

impl Losses {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            leases: names.counts(
                "leases_lost",
                "Leases that this process lost while it used them, by kind: job, duty",
            ),
            workers: names.counts(
                "video_workers_lost",
                "Video workers that broke a limit or the sandbox, or crashed, by reason",
            ),
        }
    }
}

impl Jobs {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            steps: names.counts("job_steps", "Optimiser steps by tenant"),
            clips: names.counts("job_clips", "Clips trained on, by tenant"),
            by_state: names.gauges("jobs", "Jobs that this process works on, by state"),
            waiting: names.gauge("jobs_waiting", "Jobs that wait for a worker"),
            finished: names.counts("jobs_finished", "Jobs that ended, by state and tenant"),
        }
    }
}
