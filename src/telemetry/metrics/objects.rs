//! Metrics of the bucket and of the cache before it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{Counts, Metrics, Names};

const OUTCOME: &str = "outcome";

/// What the cache did with a request for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheUse {
    /// The object was there.
    Hit,
    /// The object was fetched and kept.
    Miss,
    /// The object was fetched before it was needed.
    Prefetched,
    /// The object is too large to be kept.
    Large,
    /// The cache's disk is full or fails; the object was not kept.
    Disk,
    /// The object was evicted before it could be opened.
    Evicted,
}

impl CacheUse {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Prefetched => "prefetched",
            Self::Large => "pass_large",
            Self::Disk => "pass_disk",
            Self::Evicted => "pass_evicted",
        }
    }
}

/// The bucket and the cache before it.
pub(super) struct Objects {
    failing: Gauge,
    requests: Counts,
    bytes: Gauge,
    filled: Counter,
    damaged: Counter,
}

impl Objects {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            failing: names.gauge(
                "bucket_failing",
                "1 while calls to the bucket are refused at once because it keeps failing, else 0",
            ),
            requests: names.counts(
                "object_cache_requests",
                "Requests for objects to the cache on the local disk, by outcome",
            ),
            bytes: names.gauge(
                "object_cache_bytes",
                "Bytes of objects in the cache on the local disk",
            ),
            filled: names.count(
                "object_cache_filled_bytes",
                "Bytes of objects that were fetched into the cache on the local disk",
            ),
            damaged: names.count(
                "object_cache_damaged",
                "Copies in the cache on the local disk that were damaged or gone and were dropped",
            ),
        }
    }
}

impl Metrics {
    /// Calls to the bucket begin, or end, to be refused.
    pub fn bucket_failing(&self, fails: bool) {
        self.0.objects.failing.set(i64::from(fails));
    }

    /// The cache was asked for an object.
    pub fn cache_used(&self, what: CacheUse) {
        let labels = vec![(OUTCOME, what.as_str().to_owned())];
        self.0.objects.requests.get_or_create(&labels).inc();
    }

    /// Objects of so many bytes are in the cache.
    pub fn cache_bytes(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.objects.bytes.set(bytes);
    }

    /// An object of so many bytes was put into the cache.
    pub fn cache_filled(&self, bytes: u64) {
        self.0.objects.filled.inc_by(bytes);
    }

    /// A copy in the cache was damaged or gone.
    pub fn cache_damaged(&self) {
        self.0.objects.damaged.inc();
    }
}
