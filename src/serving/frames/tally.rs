//! Counts of what became of a stream's frames and windows, for its caller and for the metrics.
//!
//! Invariant: every frame and every window is counted once.

use crate::telemetry::Metrics;
use crate::telemetry::metrics::{LiveFrame, LiveWindow};

/// Frames and windows of a stream since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came.
    pub received: u64,
    /// Frames that were decoded and transformed.
    pub used: u64,
    /// Frames that were left out because they came faster than they could be looked at.
    pub dropped: u64,
    /// Frames with a time before that of the frame before.
    pub late: u64,
    /// Frames with the time of the frame before.
    pub duplicates: u64,
    /// Frames that cannot be read.
    pub bad: u64,
    /// Number of times that windows started over because nothing came for too long.
    pub gaps: u64,
    /// Number of times that windows started over because the source's clock was set back.
    pub clock_resets: u64,
    /// Frames of another size than the frame before.
    pub size_changes: u64,
    /// Windows that were answered.
    pub windows: u64,
    /// Windows that were left out.
    pub windows_skipped: u64,
}

/// Counts for a caller and for the metrics.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    metrics: Metrics,
    size: Option<(u32, u32)>,
}

impl Tally {
    /// Nothing yet; the stream counts as open until this is dropped.
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.live_streams(1);
        Self {
            counts: Counts::default(),
            metrics,
            size: None,
        }
    }

    /// Frames came to this end.
    pub(super) fn frames(&mut self, what: LiveFrame, count: u64) {
        let counts = &mut self.counts;
        let own = match what {
            LiveFrame::Used => &mut counts.used,
            LiveFrame::Dropped => &mut counts.dropped,
            LiveFrame::Late => &mut counts.late,
            LiveFrame::Duplicate => &mut counts.duplicates,
            LiveFrame::Bad => &mut counts.bad,
        };
        *own += count;
        self.metrics.live_frames(what, count);
    }

    /// A frame of this size was used.
    pub(super) fn used(&mut self, size: (u32, u32)) {
        if self.size.is_some_and(|own| own != size) {
            self.counts.size_changes += 1;
        }
        self.size = Some(size);
        self.frames(LiveFrame::Used, 1);
    }

    /// Windows came to this end.
    pub(super) fn windows(&mut self, what: LiveWindow, count: u64) {
        match what {
            LiveWindow::Answered => self.counts.windows += count,
            LiveWindow::Several
            | LiveWindow::Busy
            | LiveWindow::QueueFull
            | LiveWindow::RateExceeded
            | LiveWindow::Unreachable
            | LiveWindow::Unread
            | LiveWindow::Empty => self.counts.windows_skipped += count,
        }
        self.metrics.live_windows(what, count);
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.live_streams(-1);
    }
}
