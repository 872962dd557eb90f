//! Metrics of decoded frames that jobs keep on the disk.

use prometheus_client::metrics::gauge::Gauge;

use super::{Counts, Metrics, Names};

/// What became of a look for decoded frames on the disk, or of a file of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecodedUse {
    /// The frames were there.
    Hit,
    /// A video was decoded and its frames were put there.
    Filled,
    /// A file gave way to others.
    Evicted,
    /// A file was cut, changed or gone, and was removed.
    Damaged,
    /// The frames are too many or too large to be kept.
    Large,
    /// Jobs under way, or other tenants, use all of the room.
    Full,
    /// The disk is full or fails.
    Disk,
}

impl DecodedUse {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Filled => "filled",
            Self::Evicted => "evicted",
            Self::Damaged => "damaged",
            Self::Large => "pass_large",
            Self::Full => "pass_full",
            Self::Disk => "pass_disk",
        }
    }
}

/// Decoded frames on the disk.
pub(super) struct Decoded {
    uses: Counts,
    bytes: Gauge,
}

impl Decoded {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            uses: names.counts(
                "decoded_disk_clips",
                "Looks of jobs for decoded frames on the disk, and files of them, by outcome",
            ),
            bytes: names.gauge(
                "decoded_disk_bytes",
                "Bytes of decoded frames on the disk, those that are being written included",
            ),
        }
    }
}

impl Metrics {
    /// Counts what became of decoded frames on the disk.
    pub fn decoded_used(&self, what: DecodedUse) {
        let labels = vec![("outcome", what.as_str().to_owned())];
        self.0.decoded.uses.get_or_create(&labels).inc();
    }

    /// Sets the bytes of decoded frames on the disk.
    pub fn decoded_bytes(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.decoded.bytes.set(bytes);
    }
}
