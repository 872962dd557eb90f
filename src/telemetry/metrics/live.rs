//! Metrics of live streams: how many there are, and what becomes of their frames and windows.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::names::{Names, seconds};
use super::{Counts, Metrics};

const OUTCOME: &str = "outcome";

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiveFrame {
    /// The frame was decoded for a window.
    Used,
    /// The frame came faster than frames could be looked at.
    Dropped,
    /// The frame was earlier than the one before it.
    Late,
    /// The frame had the time of the one before it.
    Duplicate,
    /// The frame cannot be read.
    Bad,
}

impl LiveFrame {
    fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Dropped => "dropped",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::Bad => "bad",
        }
    }
}

/// What became of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiveWindow {
    /// The window was classified.
    Answered,
    /// A later window ended with the same frame.
    Several,
    /// The stream's earlier windows were not classified yet.
    Busy,
    /// The queue had no room.
    QueueFull,
    /// The tenant's clip frames of the second were spent.
    RateExceeded,
    /// What waited before the window took longer than the time that the stream's deadline left.
    Unreachable,
    /// The caller did not read the answers of earlier ones.
    Unread,
    /// None of its frames could be read.
    Empty,
}

impl LiveWindow {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Several => "several",
            Self::Busy => "busy",
            Self::QueueFull => "queue_full",
            Self::RateExceeded => "rate_exceeded",
            Self::Unreachable => "deadline_unreachable",
            Self::Unread => "unread",
            Self::Empty => "empty",
        }
    }
}

/// Live streams.
pub(super) struct Live {
    streams: Gauge,
    frames: Counts,
    windows: Counts,
    seconds: Histogram,
}

impl Live {
    pub(super) fn new(names: &mut Names) -> Self {
        Self {
            streams: names.gauge("live_streams", "Live streams that are open"),
            frames: names.counts("live_frames", "Frames of live streams, by outcome"),
            windows: names.counts("live_windows", "Windows of live streams, by outcome"),
            seconds: names.histogram(
                "live_window_seconds",
                "Time from the arrival of a window's last frame to its answer",
                seconds,
            ),
        }
    }
}

impl Metrics {
    /// So many live streams more, or fewer, are open.
    pub fn live_streams(&self, change: i64) {
        self.0.live.streams.inc_by(change);
    }

    /// Frames of a live stream came to this end.
    pub fn live_frames(&self, what: LiveFrame, count: u64) {
        if count > 0 {
            let labels = vec![(OUTCOME, what.as_str().to_owned())];
            self.0.live.frames.get_or_create(&labels).inc_by(count);
        }
    }

    /// Windows of a live stream came to this end.
    pub fn live_windows(&self, what: LiveWindow, count: u64) {
        if count > 0 {
            let labels = vec![(OUTCOME, what.as_str().to_owned())];
            self.0.live.windows.get_or_create(&labels).inc_by(count);
        }
    }

    /// Records the time from a window's last frame to its answer.
    pub fn live_window_took(&self, time: Duration) {
        self.0.live.seconds.observe(time.as_secs_f64());
    }
}
