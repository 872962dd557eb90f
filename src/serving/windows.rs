//! Classification of windows that slide over a video of any length: decoded once from front to back, for all tasks and all windows.
//!
//! Invariant: what a stream holds does not depend on the video's length, and nothing is decoded ahead of a reader who does not read. A task that fails ends
//! its own results only.

mod plan;
mod ring;
mod score;
mod segments;
mod sliding;
mod stream;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::plan::Plan;
pub use self::plan::WindowsInvalid;
pub use self::segments::{Segment, SegmentOptions};
pub use self::stream::Windows;
use super::{Answer, Caller, Choice, Error, SampledFrame, Serving, Video};
use crate::fair::Class;
use crate::ids::TenantId;
use crate::telemetry::trace::{Stage, stage};
use crate::video::{self, FramesSpec, Lane};

/// Most bytes that all streams of windows hold beside the frames that wait for the device: frames, and videos that came with the call.
pub const WINDOW_BYTES: u64 = 512 << 20;
/// Most bytes of one stream's frames, and of a tenant that has more than one stream.
const STREAM_BYTES: u64 = WINDOW_BYTES / 2;

/// How windows slide over a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowOptions {
    /// Frames from one frame of a window to the next; when absent, as the task samples.
    pub frame_step: Option<NonZeroU32>,
    /// Distance from a window to the next; half of the shortest window when absent.
    pub stride: Option<WindowStride>,
    /// Time at or after which the first window begins.
    pub start: Duration,
    /// Time from which on windows hold no frame.
    pub end: Option<Duration>,
    /// Time at or before which windows that begin are left out.
    pub after: Option<Duration>,
    /// How the segments of the summary are found.
    pub segments: SegmentOptions,
}

/// Distance from the beginning of a window to the beginning of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowStride {
    /// A number of frame steps; of tasks with different steps, the smallest counts.
    Steps(NonZeroU32),
    /// A span of time.
    Time(Duration),
}

/// Event of a stream of windows.
#[derive(Debug)]
pub enum WindowEvent {
    /// Answers about one window.
    Window(Window),
    /// Index of a choice that gives no more answers, and the reason.
    Failed(usize, Error),
    /// The end of the stream.
    Summary(Summary),
}

/// Answers about one window.
#[derive(Debug)]
pub struct Window {
    /// The frames of the window.
    pub frames: Vec<SampledFrame>,
    /// The indices of choices, and what each answered.
    pub answers: Vec<(usize, Answer)>,
}

/// Summary of all windows of a stream.
#[derive(Debug)]
pub struct Summary {
    /// Number of windows that were answered.
    pub windows: u64,
    /// Frames of the video.
    pub frames: u32,
    /// Time from the first frame of the video to the last.
    pub duration: Duration,
    /// The indices of choices that answered to the end, and their segments, best first.
    pub segments: Vec<(usize, TaskSegments)>,
}

/// Segments of one task's windows.
#[derive(Debug)]
pub struct TaskSegments {
    /// The version that answered.
    pub answer: Answered,
    /// The segments, best first.
    pub segments: Vec<Segment>,
}

/// A version and its labels.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The version.
    pub version: crate::ids::VersionRef,
    /// Labels of the version.
    pub labels: crate::spec::LabelSet,
}

/// Bytes that the streams of windows of each tenant hold; tenants without any are left out.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<HashMap<TenantId, u64>>>);

impl Memory {
    /// Room for a stream: a tenant's first one gets what is free, a further one only as long as the tenant's all fit into what one may have. Tokens, which a
    /// stream can do without, have room when half of all memory stays free with them, and half of what the tenant's streams may have.
    fn take(&self, tenant: &TenantId, bytes: u64, tokens: u64) -> Result<Held, Error> {
        let mut tenants = self.lock();
        let held = tenants
            .values()
            .fold(0, |all: u64, own| all.saturating_add(*own));
        let own = tenants.get(tenant).copied().unwrap_or(0);
        let with_tokens = bytes.saturating_add(tokens);
        let keeps = tokens > 0
            && held.saturating_add(with_tokens) <= WINDOW_BYTES / 2
            && own.saturating_add(with_tokens) <= STREAM_BYTES / 2;
        let bytes = if keeps { with_tokens } else { bytes };
        let (all, sum) = (held.saturating_add(bytes), own.saturating_add(bytes));
        if all > WINDOW_BYTES || (own > 0 && sum > STREAM_BYTES) {
            return Err(Error::TooManyWindowStreams);
        }
        tenants.insert(tenant.clone(), sum);
        Ok(Held {
            memory: self.clone(),
            tenant: tenant.clone(),
            bytes,
            keeps,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room of one stream; dropping it gives it back.
struct Held {
    memory: Memory,
    tenant: TenantId,
    bytes: u64,
    /// Whether there is room for tokens, too.
    keeps: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut tenants = self.memory.lock();
        if let Some(own) = tenants.get_mut(&self.tenant) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

impl Serving {
    /// Opens a video to classify windows of it with each choice. The choices keep the versions that serve now to the end of the stream, but for a version of
    /// a split that turns out to be unable to serve. Dropping the stream ends all its work.
    ///
    /// # Errors
    /// When the options make no sense for the tasks, the video is missing, or no room is left for another stream. What concerns one choice alone is an
    /// event of the stream.
    pub async fn windows(
        &self,
        caller: &Caller,
        choices: &[Choice],
        video: Video,
        options: &WindowOptions,
    ) -> Result<Windows, Error> {
        let admission = stage(Stage::Admit);
        let key = self.key(caller, choices, &video).await;
        let caller = &Caller {
            key: key.or(caller.key),
            ..caller.clone()
        };
        let asked = self.versions(caller, choices, key).await;
        let mut failed = Vec::new();
        let mut ready = Vec::new();
        for (choice, asked) in asked.into_iter().enumerate() {
            match asked {
                Ok(asked) => ready.push((choice, Arc::new(asked))),
                Err(error) => failed.push((choice, error)),
            }
        }
        let size = self.parts.resident.image_size;
        let plan = Plan::of(ready, options, (size, self.parts.engine.kept_bytes()))?;
        failed.extend(plan.failed.iter().map(|&choice| (choice, Error::Sampling)));
        let (input, held) = match plan.groups.is_empty() {
            true => (None, None),
            false => {
                // A video that came with the call stays in memory as long as the stream.
                let given = match &video {
                    Video::Given(video::Input::Bytes(bytes)) => bytes.len() as u64,
                    Video::Given(video::Input::File(_)) | Video::Stored(_) => 0,
                };
                let bytes = plan.bytes.saturating_add(given);
                let held = self.memory.take(&caller.tenant, bytes, plan.token_bytes);
                let held = held?;
                let readers = plan.groups.iter().flat_map(|group| &group.readers.asked);
                let engine = &self.parts.engine;
                engine.prefetch(readers.map(|asked| &asked.version));
                (Some(self.input(caller, video).await?), Some(held))
            }
        };
        let frames = match input {
            Some(input) => {
                let spec = FramesSpec {
                    normalization: self.parts.resident.normalization,
                    ..plan.spec.clone()
                };
                let lane = match caller.class {
                    Class::Interactive => Lane::Interactive,
                    Class::Batch => Lane::Batch,
                };
                let decoder = &self.parts.decoder;
                Some(decoder.frames(&caller.tenant, lane, input, spec)?)
            }
            None => None,
        };
        admission.end(true);
        Ok(Windows::new(
            self.clone(),
            caller.clone(),
            (plan, held),
            frames,
            failed,
        ))
    }

    /// The bytes of a video.
    pub(super) async fn input(&self, caller: &Caller, video: Video) -> Result<video::Input, Error> {
        Ok(match video {
            Video::Given(input) => input,
            Video::Stored(id) => {
                let record = self.parts.registry.video(&caller.tenant, id).await?;
                self.parts.library.open_recorded(&record).await?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_further_streams_leave_room_for_the_first_ones_of_others() {
        let memory = Memory::default();
        let tenant = |name: &str| -> TenantId { name.parse().unwrap() };
        let (one, other, third) = (tenant("one"), tenant("other"), tenant("third"));
        let half = memory.take(&one, STREAM_BYTES / 2, 0).unwrap();
        let rest = memory.take(&one, STREAM_BYTES / 2, 0).unwrap();
        assert!(memory.take(&one, 1, 0).is_err());
        // A first stream may have more than that, up to all that is free.
        let first = memory.take(&other, WINDOW_BYTES - STREAM_BYTES, 0).unwrap();
        assert!(memory.take(&third, 1, 0).is_err());
        drop(first);
        let most = memory.take(&third, WINDOW_BYTES - STREAM_BYTES, 0).unwrap();
        drop((half, rest));
        assert!(memory.take(&third, 1, 0).is_err());
        assert!(memory.take(&one, STREAM_BYTES + 1, 0).is_err());
        drop(most);
        assert!(memory.lock().is_empty());
        assert!(memory.take(&one, WINDOW_BYTES + 1, 0).is_err());
        assert!(memory.take(&one, WINDOW_BYTES, 0).is_ok());
        assert!(memory.lock().is_empty());
    }

    #[test]
    fn tokens_never_take_the_room_of_another_stream() {
        let memory = Memory::default();
        let tenant = |name: &str| -> TenantId { name.parse().unwrap() };
        let (one, other) = (tenant("one"), tenant("other"));
        let quarter = STREAM_BYTES / 4;
        let first = memory.take(&one, quarter, quarter).unwrap();
        assert!(first.keeps);
        // The tenant's further streams have the rest for what they need.
        let second = memory.take(&one, quarter, 1).unwrap();
        let third = memory.take(&one, quarter, 1).unwrap();
        assert!(!second.keeps && !third.keeps);
        assert!(memory.take(&one, 1, 0).is_err());
        assert!(!memory.take(&other, 1, 1).unwrap().keeps);
        drop(third);
        assert!(memory.take(&other, quarter - 1, 1).unwrap().keeps);
        drop((first, second));
        assert!(memory.lock().is_empty());
    }
}
