//! Warm-up: forward passes on synthetic input that test a backbone or an adapter set before it serves.
//!
//! Invariant: a set or backbone does not serve when its warm-up panics, fails, or gives a value that is not finite.

use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Forward pass of one clip.
struct Forward {
    backbone: Arc<Backbone>,
    set: Arc<AdapterSet>,
    frames: Vec<Arc<[f32]>>,
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

    fn finish(self) -> Self::Output {
        match (self.error, self.inference) {
            (Some(error), _) => Err(error),
            (None, Some(inference)) => inference.into_logits(),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// Returns synthetic frames of so many values each, the same at every start: normalised pixels lie within about ±2.7. Each frame is the first one, turned by
/// another number of values.
fn noise(frames: usize, values: usize) -> Vec<Arc<[f32]>> {
    let mut stream = Stream::new(0, "engine warm-up");
    let mut frame: Vec<f32> = (0..values).map(|_| stream.range(-2.0, 2.0)).collect();
    let turned = |_| {
        frame.rotate_left(usize::from(values > 1));
        Arc::from(&frame[..])
    };
    (0..frames).map(turned).collect()
}

/// Warms up a set with [`set`], and once more if the set fails or the device refuses a call: a transient failure must not take a version out of service.
pub(super) async fn proven(
    device: &device::Handle,
    backbone: &Arc<Backbone>,
    own: &Arc<AdapterSet>,
) -> Result<(), Fault> {
    match set(device, backbone, own).await {
        Err(Fault::Unfit(reason) | Fault::Refused(reason)) => {
            tracing::warn!(%reason, "the warm-up of an adapter set failed; it is run once more");
            set(device, backbone, own).await
        }
        proven => proven,
    }
}

/// Runs one clip through a set. The clip has as many frames as the head is for, or as the kernels have taps in time, so that every tap is used.
pub(super) async fn set(
    device: &device::Handle,
    backbone: &Arc<Backbone>,
    set: &Arc<AdapterSet>,
) -> Result<(), Fault> {
    let config = set.config();
    let taps = match (config.head, config.has_sites()) {
        (Head::Frames(frames) | Head::Attention(frames), _) => usize::from(frames.get()),
        (Head::Conv, false) => 3,
        (Head::Mean | Head::Conv, true) => config.adapter_kernel_size[0] as usize,
        (Head::Mean, false) => 1,
    };
    // Made aside, so that the device does not wait for it.
    let values = backbone.config().frame_len();
    let frames = blocking(move || noise(taps.max(1), values)).await;
    let forward = Forward {
        backbone: backbone.clone(),
        set: set.clone(),
        frames: frames.map_err(|_| Fault::Device(device::Error::Stopped))?,
        inference: None,
        error: None,
    };
    match device.run(forward).await {
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
    let mut began = Instant::now();
    for _ in 0..2 {
        began = Instant::now();
        match set(device, backbone, &probe).await {
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
