//! Batches on the device, each formed when the device asks for it: one forward pass through the backbone, whatever the tasks of its clips.
//!
//! Invariant: the clips of a failed batch run again one by one; only a clip that fails alone gets an error. Its set is then warmed up again, which
//! decides whether the set is quarantined. A batch for which the device has no room runs again in halves; neither that nor a lost device is a set's fault.

mod forward;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Bill;
use super::queue::{Clip, Part, Queue};
use super::{Account, Error};
use crate::device::{Source, Work};
use crate::model::{self, Readout, Segment, Step};
use forward::{Forward, Input, Model};

/// Source of batches for the device.
pub(super) struct Batches {
    queue: Arc<Queue>,
    model: Arc<dyn Model>,
    account: Arc<dyn Account>,
}

impl Batches {
    pub(super) fn new(queue: Arc<Queue>, model: Arc<dyn Model>, account: Arc<dyn Account>) -> Self {
        Self {
            queue,
            model,
            account,
        }
    }

    fn batch(&self, clips: Vec<Clip>, number: u64) -> Batch {
        let shares = (clips.iter()).map(|clip| (&clip.tenant, clip.weights.task(), clip.frames));
        let bill = Bill::new(Arc::clone(&self.account), shares);
        Batch {
            queue: Arc::clone(&self.queue),
            model: Arc::clone(&self.model),
            clips,
            number,
            formed: Instant::now(),
            bill,
            forward: None,
        }
    }
}

impl Source for Batches {
    fn next(&mut self) -> Option<Box<dyn Work>> {
        loop {
            let (clips, number) = self.queue.form()?;
            // The set of a clip that runs alone may have been quarantined since the clip's batch failed.
            let refused = match clips.as_slice() {
                [only] => only.weights.refused(),
                _ => None,
            };
            let Some(error) = refused else {
                let same = |a: &Clip, b: &Clip| a.weights.id() == b.weights.id();
                let sets = clips.chunk_by(same).count();
                self.queue.metrics().batch(clips.len(), sets);
                return Some(Box::new(self.batch(clips, number)));
            };
            for clip in clips {
                clip.refuse(error.clone());
            }
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // The device has stopped and will not ask for batches again.
        self.queue.close();
    }
}

/// A batch; its clips are sorted by set, then by frames.
pub(super) struct Batch {
    queue: Arc<Queue>,
    model: Arc<dyn Model>,
    clips: Vec<Clip>,
    number: u64,
    formed: Instant,
    bill: Bill,
    /// State of the forward pass; created by the first slice.
    forward: Option<Box<dyn Forward>>,
}

impl Batch {
    /// Returns the segments, which are runs of adjacent clips with the same set, number of frames and readout, and the readout of each.
    fn segments(&self) -> (Vec<Segment>, Vec<Readout>) {
        let mut begin = 0;
        let key = |clip: &Clip| (clip.weights.id(), clip.frames, clip.readout);
        let runs = self.clips.chunk_by(|a, b| key(a) == key(b));
        let runs = runs.filter_map(|run| {
            let first = run.first()?;
            let clips = begin..begin + run.len();
            begin = clips.end;
            let segment = Segment {
                set: first.weights.set().clone(),
                clips,
                num_frames: first.frames,
            };
            Some((segment, first.readout))
        });
        runs.unzip()
    }

    fn step(&mut self) -> Result<Step, model::Error> {
        let forward = match &mut self.forward {
            Some(forward) => forward,
            None => {
                let pictures = self.clips.iter().map(|clip| clip.pictures.clone());
                let (segments, readouts) = self.segments();
                let begun = self.model.begin(Input {
                    pictures: pictures.collect(),
                    segments,
                    readouts,
                });
                let begun = begun?;
                let resumed = begun.resumed_frames();
                self.queue.metrics().frames_resumed(resumed);
                self.forward.insert(begun)
            }
        };
        match forward.advance()? {
            Step::Done => {}
            step @ (Step::More | Step::Pending) => return Ok(step),
        }
        if let Some(forward) = self.forward.take() {
            let rows = forward.finish()?;
            self.answer(rows);
        }
        Ok(Step::Done)
    }

    fn answer(&mut self, rows: Vec<Vec<f32>>) {
        let device = self.formed.elapsed();
        let frames = self.clips.iter().map(|clip| clip.frames).sum();
        self.queue.ran((self.clips.len(), frames), device);
        for (clip, row) in self.clips.drain(..).zip(rows) {
            if !row.iter().all(|value| value.is_finite()) {
                refuse(clip, "what it gave is not finite".into());
                continue;
            }
            let part = Part {
                place: clip.place,
                result: Ok(row),
                batch: self.number,
                queued: self.formed.saturating_duration_since(clip.entered),
                device,
            };
            let reply = clip.reply.clone();
            // Whoever has the answer finds the set without this pin.
            drop(clip);
            // The caller may have left; then nobody wants the row.
            let _ = reply.try_send(part);
        }
    }

    /// Handles an error of the forward pass.
    fn failed(&mut self, error: &model::Error) {
        // Its buffers are freed before anything else is tried.
        self.forward = None;
        if let model::Error::OutOfMemory { bytes } = error {
            return self.halve(*bytes);
        }
        if let model::Error::DeviceLost(_) = error {
            // The device thread ends after this slice, so nothing is tried again.
            for clip in self.clips.drain(..) {
                clip.refuse(Error::Stopped);
            }
            return;
        }
        let reason = error.to_string().into();
        if let model::Error::DeviceRefused(_) = error {
            return self.take_apart(reason, |clip, reason| {
                let error = clip.weights.failed(reason);
                clip.refuse(error);
            });
        }
        self.take_apart(reason, refuse);
    }

    /// Handles a batch for which the device has no room: it runs again in halves, and a clip that was alone gets the error.
    fn halve(&mut self, bytes: u64) {
        let mut clips = std::mem::take(&mut self.clips);
        self.queue.metrics().batch_halved();
        if clips.len() > 1 {
            let second = clips.split_off(clips.len().div_ceil(2));
            return self.queue.again([clips, second]);
        }
        for clip in clips {
            clip.refuse(Error::OutOfMemory { bytes });
        }
    }

    /// Handles a failed batch: its clips run again one by one, and a clip that was alone is refused.
    fn take_apart(&mut self, reason: Arc<str>, refuse: impl FnOnce(Clip, Arc<str>)) {
        self.forward = None;
        let mut clips = std::mem::take(&mut self.clips);
        if clips.len() > 1 {
            return self.queue.suspect(clips);
        }
        if let Some(clip) = clips.pop() {
            refuse(clip, reason);
        }
    }
}

/// Ends a clip that failed alone; warming up its set again shows whether the set is at fault.
fn refuse(clip: Clip, reason: Arc<str>) {
    let error = clip.weights.suspect(reason);
    clip.refuse(error);
}

impl Work for Batch {
    fn advance(&mut self) -> Step {
        self.step().unwrap_or_else(|error| {
            self.failed(&error);
            Step::Done
        })
    }

    fn is_ready(&self) -> bool {
        self.forward
            .as_ref()
            .is_none_or(|forward| forward.is_ready())
    }

    fn is_cancelled(&self) -> bool {
        self.clips.iter().all(|clip| clip.reply.is_closed())
    }

    fn used(&mut self, time: Duration) {
        self.bill.add(time);
    }

    fn panicked(&mut self, message: &Arc<str>) {
        self.take_apart(message.clone(), refuse);
    }
}

#[cfg(test)]
mod tests;
