//! Registers metrics under the server's prefix, and chooses the buckets of histograms.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Counts, Gauges, Seconds, Times, Traced};

/// 1 ms to 65 s.
pub(super) fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// 1 ms to 65 s.
pub(super) fn traced() -> Traced {
    Traced::new(exponential_buckets(0.001, 2.0, 17))
}

/// 1 to 256.
pub(super) fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 9))
}

/// Registers metrics under the server's prefix.
pub(super) struct Names(pub(super) Registry);

impl Names {
    pub(super) fn counts(&mut self, name: &str, help: &str) -> Counts {
        let metric = Counts::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        let metric = Seconds::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn count(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn gauges(&mut self, name: &str, help: &str) -> Gauges {
        let metric = Gauges::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn fraction(
        &mut self,
        name: &str,
        help: &str,
    ) -> Gauge<f64, std::sync::atomic::AtomicU64> {
        let metric = Gauge::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        new: fn() -> Histogram,
    ) -> Histogram {
        let metric = new();
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn times(&mut self, name: &str, help: &str) -> Times {
        let metric = Times::new_with_constructor(traced as fn() -> Traced);
        self.0.register(name, help, metric.clone());
        metric
    }

    pub(super) fn traced(&mut self, name: &str, help: &str) -> Traced {
        let metric = traced();
        self.0.register(name, help, metric.clone());
        metric
    }
}
