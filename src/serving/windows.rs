//! Classification of windows that slide over a video of any length: decoded once from front to back, for all tasks and all windows.
//!
//! Invariant: what a stream holds does not depend on the video's length, and nothing is decoded ahead of a reader who does not read. A task that fails ends
//! its own results only.

mod plan;
mod ring;
mod score;
mod segments;
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
use crate::video::{self, FramesSpec, Lane};

/// Most bytes that all streams of windows hold beside the frames that wait for the device: frames, and videos that came with the call.
pub const WINDOW_BYTES: u64 = 512 << 20;
/// Most bytes of one stream's frames, and of a tenant that has more than one stream.
const STREAM_BYTES: u64 = WINDOW_BYTES / 2;

/// How windows slide over a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowOptions {
    /// Frames from one frame of a window to the next; as the task samples when absent.
    pub frame_step: Option<NonZeroU32>,
    /// Distance from a window to the next; half of the shortest window when absent.
    pub stride: Option<WindowStride>,
    /// The first window begins with the first frame at or after this time.
    pub start: Duration,
    /// Windows hold no frame at or after this time.
    pub end: Option<Duration>,
    /// Windows that begin at or before this time are left out.
    pub after: Option<Duration>,
    /// How the segments of the summary are found.
    pub segments: SegmentOptions,
}

/// Distance from the begin of a window to the begin of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowStride {
    /// So many frame steps; of tasks with different ones, the smallest.
    Steps(NonZeroU32),
    /// So much time.
    Time(Duration),
}

/// What a stream of windows tells.
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

/// What all windows of a stream showed.
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
    /// Room for a stream: a tenant's first one gets what is free, a further one only as long as the tenant's all fit into what one may have.
    fn take(&self, tenant: &TenantId, bytes: u64) -> Result<Held, Error> {
        let mut tenants = self.lock();
        let all = tenants
            .values()
            .fold(bytes, |all, own| all.saturating_add(*own));
        let own = tenants.get(tenant).copied().unwrap_or(0);
        let sum = own.saturating_add(bytes);
        if all > WINDOW_BYTES || (own > 0 && sum > STREAM_BYTES) {
            return Err(Error::TooManyWindowStreams);
        }
        tenants.insert(tenant.clone(), sum);
        Ok(Held {
            memory: self.clone(),
            tenant: tenant.clone(),
            bytes,
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
    /// Opens a video to classify windows of it with each choice. The choices keep the versions that serve now to the end of the stream. Dropping the stream
    /// ends all its work.
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
        let key = self.key(caller, choices, &video).await;
        let asked = self.versions(caller, choices, key).await;
        let mut failed = Vec::new();
        let mut ready = Vec::new();
        for (choice, asked) in asked.into_iter().enumerate() {
            match asked {
                Ok(asked) => ready.push((choice, Arc::new(asked))),
                Err(error) => failed.push((choice, error)),
            }
        }
        let plan = Plan::of(ready, options, self.parts.resident.image_size)?;
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
                let held = self.memory.take(&caller.tenant, bytes)?;
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
            Video::Stored(id) => self.parts.library.open_video(&caller.tenant, id).await?.1,
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
        let half = memory.take(&one, STREAM_BYTES / 2).unwrap();
        let rest = memory.take(&one, STREAM_BYTES / 2).unwrap();
        assert!(memory.take(&one, 1).is_err());
        // A first stream may have more than that, up to all that is free.
        let first = memory.take(&other, WINDOW_BYTES - STREAM_BYTES).unwrap();
        assert!(memory.take(&third, 1).is_err());
        drop(first);
        let most = memory.take(&third, WINDOW_BYTES - STREAM_BYTES).unwrap();
        drop((half, rest));
        assert!(memory.take(&third, 1).is_err());
        assert!(memory.take(&one, STREAM_BYTES + 1).is_err());
        drop(most);
        assert!(memory.lock().is_empty());
        assert!(memory.take(&one, WINDOW_BYTES + 1).is_err());
        assert!(memory.take(&one, WINDOW_BYTES).is_ok());
        assert!(memory.lock().is_empty());
    }
}
