//! Limits of the engine, and the memory that they allow.

use std::time::Duration;

use super::request;
use crate::model::Backbone;

/// Limits of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most clips between admission and answer, over all tenants: bounds how long the last of them waits. A tenant that is alone may hold seven
    /// eighths, tenants that compete equal shares, of these clips and of [`Config::queue_bytes`].
    pub queue_clips: usize,
    /// Most bytes of the planes of the clips between admission and answer.
    pub queue_bytes: u64,
    /// Most clips in a batch.
    pub batch_clips: usize,
    /// Most frames in a batch, over its clips.
    pub batch_frames: usize,
    /// Most bytes of a batch's activations; a single clip always runs.
    pub batch_bytes: u64,
    /// Longest time that a batch should take while tenants share the device, which bounds how long a new request waits; a single clip always runs.
    pub batch_time: Duration,
    /// Most bytes of resident adapter sets.
    pub residency_bytes: u64,
    /// Interval at which desired versions are read from the registry, in addition to its change notices.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_clips: 256,
            queue_bytes: 1 << 30,
            batch_clips: 16,
            batch_frames: 256,
            batch_bytes: 1 << 30,
            batch_time: Duration::from_millis(100),
            residency_bytes: 1 << 30,
            poll: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Returns the most frames in a batch on this backbone, limited by their number and by the memory of their activations.
    pub(super) fn frames_of_a_batch(&self, backbone: &Backbone) -> usize {
        let frames = self.batch_bytes / backbone.bytes_of(1).max(1);
        let frames = usize::try_from(frames).unwrap_or(usize::MAX);
        self.batch_frames.min(frames).max(1)
    }

    /// Returns the most bytes of pinned sets, by the size of their files: half of [`Config::residency_bytes`].
    pub fn pinned_bytes(&self) -> u64 {
        self.residency_bytes / 2
    }

    /// Returns the most bytes of planes of clips that wait or run, those of shadow versions included.
    pub fn clip_bytes(&self) -> u64 {
        self.queue_bytes.saturating_add(self.spare().bytes)
    }

    /// Returns the most bytes that classification takes on this backbone: planes of clips that wait or run, those of shadow versions included,
    /// activations and planes of the running batch (whose planes outlive the permits of callers that left), and adapter sets.
    pub fn bytes(&self, backbone: &Backbone) -> u64 {
        let frames = self.frames_of_a_batch(backbone).max(request::FRAMES);
        let planes = frames * backbone.config().frame_len() * size_of::<f32>();
        self.clip_bytes() + backbone.bytes_of(frames) + planes as u64 + self.residency_bytes
    }
}
