//! Warm-up: forward passes on synthetic input that test a backbone or an adapter set before it serves.
//!
//! Invariant: a set or backbone does not serve when its warm-up panics, fails, or gives a value that is not finite.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Unfit;
use crate::blocking::blocking;
use crate::device::{self, Walk};
use crate::model::{AdapterSet, Backbone, Error, Inference, Pictures, Segment, Step};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Head};

/// Reason why a warm-up did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The set or backbone failed.
    Unfit(Arc<str>),
    /// The device did not run the forward pass.
    Device(device::Error),
    /// The device has no room for the forward pass now; the set is not at fault.
    OutOfMemory {
        /// Bytes that were asked for; 0 when the driver does not tell.
        bytes: u64,
    },
    /// The device refused a call; the set is not at fault.
    Refused(Arc<str>),
}

/// Whether a request waits for a set, for those who load and warm it up meanwhile; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Awaited(Arc<watch::Sender<bool>>);

impl Awaited {
    pub(super) fn new(is_awaited: bool) -> Self {
        Self(Arc::new(watch::Sender::new(is_awaited)))
    }

    /// Says that a request waits for the set.
    pub(super) fn set(&self) {
        self.0
            .send_if_modified(|is_awaited| !std::mem::replace(is_awaited, true));
    }

    pub(super) fn get(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until a request waits for the set.
    pub(super) async fn changed(&self) {
        // The sender is this one's own, so it is there.
        let _ = self.0.subscribe().wait_for(|is_awaited| *is_awaited).await;
    }
}

/// Forward pass of one clip.
struct Forward {
    backbone: Arc<Backbone>,
    set: Arc<AdapterSet>,
    frames: Frames,
    awaited: Awaited,
    /// State of the forward pass; created by the first slice, on the device thread.
    inference: Option<Inference>,
    error: Option<Error>,
}

impl Forward {
    fn step(&mut self) -> Result<Step, Error> {
        if let Some(inference) = &mut self.inference {
            return inference.advance();
        }
        let segment = Segment {
            set: self.set.clone(),
            clips: 0..1,
            num_frames: self.frames.len(),
        };
        let clip = Pictures::from(std::mem::take(&mut self.frames));
        let inference = Inference::new(self.backbone.clone(), vec![clip], vec![segment])?;
        self.inference.insert(inference).advance()
    }
}

impl Walk for Forward {
    type Output = Result<Vec<Vec<f32>>, Error>;

    fn advance(&mut self) -> Step {
        self.step().unwrap_or_else(|error| {
            self.error = Some(error);
            Step::Done
        })
    }

    fn is_ready(&self) -> bool {
        self.inference.as_ref().is_none_or(Inference::is_ready)
    }

    fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    fn finish(self) -> Self::Output {
        match (self.error, self.inference) {
            (Some(error), _) => Err(error),
            (None, Some(inference)) => inference.into_logits(),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// Frames of the clip that a set is warmed up with.
pub(super) type Frames = Vec<Arc<[f32]>>;

/// Clips that the sets of one backbone are warmed up with. A clip is the beginning of every longer one, and all of them share their frames, so that loads that
/// wait hold no frames of their own: in memory is one clip, which has 64 frames at most, as a head is for no more.
#[derive(Default)]
pub(super) struct Clips(
    /// Frames of the longest clip so far. A plain mutex, because it is held to add frames, and never across an await.
    Mutex<Frames>,
);

impl Clips {
    /// Returns the clip that a set is warmed up with. It has as many frames as the head is for, or as the kernels have taps in time, so that every tap is
    /// used. It may take some time, so it is made aside and not on the device's.
    pub(super) fn of(&self, backbone: &Backbone, set: &AdapterSet) -> Frames {
        let config = set.config();
        let taps = match (config.head, config.has_sites()) {
            (Head::Frames(frames) | Head::Attention(frames), _) => usize::from(frames.get()),
            (Head::Conv, false) => 3,
            (Head::Mean | Head::Conv, true) => config.adapter_kernel_size[0] as usize,
            (Head::Mean, false) => 1,
        };
        self.first(taps.max(1), backbone.config().frame_len())
    }

    /// Returns the first frames, which are synthetic, of so many values each, and the same at every start: normalised pixels lie within about ±2.7. Each
    /// frame is the one before, turned by one value.
    fn first(&self, frames: usize, values: usize) -> Frames {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while known.len() < frames {
            let mut next = known
                .last()
                .map_or_else(|| noise(values), |last| last.to_vec());
            next.rotate_left(usize::from(values > 1));
            known.push(next.into());
        }
        known[..frames].to_vec()
    }
}

/// Returns random values, the same at every start.
fn noise(values: usize) -> Vec<f32> {
    let mut stream = Stream::new(0, "engine warm-up");
    (0..values).map(|_| stream.range(-2.0, 2.0)).collect()
}

/// Warms up a set with a clip, and once more if the set fails or the device refuses a call: a transient failure must not take a version out of service.
/// Until a request waits for the set, other requests go first after every block.
pub(super) async fn proven(
    device: &device::Handle,
    backbone: &Arc<Backbone>,
    own: &Arc<AdapterSet>,
    clip: &Frames,
    awaited: &Awaited,
) -> Result<(), Fault> {
    match set(device, backbone, own, clip.clone(), awaited).await {
        Err(Fault::Unfit(reason) | Fault::Refused(reason)) => {
            tracing::warn!(%reason, "the warm-up of an adapter set failed; it is run once more");
            set(device, backbone, own, clip.clone(), awaited).await
        }
        proven => proven,
    }
}

/// Warms up a set that has served, like [`proven`].
pub(super) async fn proven_again(
    device: &device::Handle,
    (backbone, clips): (&Arc<Backbone>, &Arc<Clips>),
    own: &Arc<AdapterSet>,
) -> Result<(), Fault> {
    let of = (backbone.clone(), own.clone());
    let clips = clips.clone();
    let clip = blocking(move || clips.of(&of.0, &of.1)).await;
    let clip = clip.map_err(|_| Fault::Device(device::Error::Stopped))?;
    proven(device, backbone, own, &clip, &Awaited::new(true)).await
}

/// Runs a clip through a set.
async fn set(
    device: &device::Handle,
    backbone: &Arc<Backbone>,
    set: &Arc<AdapterSet>,
    frames: Frames,
    awaited: &Awaited,
) -> Result<(), Fault> {
    let forward = Forward {
        backbone: backbone.clone(),
        set: set.clone(),
        frames,
        awaited: awaited.clone(),
        inference: None,
        error: None,
    };
    let ran = match awaited.get() {
        true => device.run(forward).await,
        false => device.prepare(forward).await,
    };
    match ran {
        Ok(Ok(logits)) if logits.iter().flatten().all(|value| value.is_finite()) => Ok(()),
        Ok(Ok(_)) => Err(Fault::Unfit("its logits are not finite".into())),
        Ok(Err(Error::OutOfMemory { bytes })) => Err(Fault::OutOfMemory { bytes }),
        // The device thread ends by itself.
        Ok(Err(Error::DeviceLost(_))) => Err(Fault::Device(device::Error::Stopped)),
        Ok(Err(error @ Error::DeviceRefused(_))) => Err(Fault::Refused(error.to_string().into())),
        Ok(Err(error)) => Err(Fault::Unfit(error.to_string().into())),
        Err(device::Error::Panicked { message }) => Err(Fault::Unfit(message)),
        Err(error) => Err(Fault::Device(error)),
    }
}

/// Runs one clip of one frame through the backbone with a linear probe, twice. Returns the time of the second pass, since the first one finds cold
/// memory.
pub(super) async fn backbone(
    device: &device::Handle,
    backbone: &Arc<Backbone>,
) -> Result<Duration, Unfit> {
    let unfit = |reason: Arc<str>| Unfit { reason };
    let stream = Stream::new(0, "engine warm-up head");
    let probe = AdapterSet::fresh(backbone.config(), AdapterConfig::LINEAR_PROBE, 2, &stream)
        .map_err(|error| unfit(error.to_string().into()))?;
    let probe = Arc::new(probe);
    let frames = Clips::default().of(backbone, &probe);
    let awaited = Awaited::new(true);
    let mut began = Instant::now();
    for _ in 0..2 {
        began = Instant::now();
        match set(device, backbone, &probe, frames.clone(), &awaited).await {
            Ok(()) => {}
            Err(Fault::Unfit(reason) | Fault::Refused(reason)) => return Err(unfit(reason)),
            Err(Fault::Device(error)) => return Err(unfit(error.to_string().into())),
            Err(Fault::OutOfMemory { bytes }) => {
                let reason = format!("the device has no room for {bytes} bytes of its first clip");
                return Err(unfit(reason.into()));
            }
        }
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_of_all_lengths_share_their_frames() {
        let clips = Clips::default();
        let (short, long) = (clips.first(2, 10), clips.first(5, 10));
        assert_eq!((short.len(), long.len()), (2, 5));
        let mut both = short.iter().zip(&long);
        assert!(both.all(|(own, other)| Arc::ptr_eq(own, other)));
        assert!(Arc::ptr_eq(&long[4], &clips.first(5, 10)[4]));
        // Whatever was asked for before, the frames are the same, and no two of a clip are.
        assert_eq!(Clips::default().first(5, 10), long);
        assert!(long.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
