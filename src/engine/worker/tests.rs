//! Batches on a model that has room for few clips, gives its results late, or loses its device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::device;
use crate::engine::residency::{Pin, Residency, tests::listed};
use crate::engine::tests::{backbone, clip, residency, set, version};
use crate::engine::{Config, Free};
use crate::fair::{Class, Equal};
use crate::model::{Failure, Pictures};
use crate::telemetry::Metrics;

/// A model whose readout of a clip is the clip's first pixel.
#[derive(Default)]
struct Fake {
    /// Most clips for which there is room.
    room: usize,
    /// Slice of a forward pass in which the missing room shows.
    slice: usize,
    is_lost: bool,
    /// Whether the driver refuses every call.
    refuses: bool,
    /// Whether results that are on their way are there.
    is_there: AtomicBool,
    /// Clips of each forward pass that began.
    begun: Mutex<Vec<usize>>,
}

/// Slices of a forward pass before its result is on its way.
const SLICES: usize = 3;

struct Pass {
    model: Arc<Fake>,
    pixels: Vec<f32>,
    slices: usize,
}

impl Model for Arc<Fake> {
    fn begin(&self, input: Input) -> Result<Box<dyn Forward>, model::Error> {
        self.begun.lock().unwrap().push(input.pictures.len());
        let pixels = input.pictures.iter().map(|pictures| match pictures {
            Pictures::Clip(planes) => planes[0],
            other @ (Pictures::Frames(_) | Pictures::Keeping(..)) => panic!("{other:?}"),
        });
        Ok(Box::new(Pass {
            model: self.clone(),
            pixels: pixels.collect(),
            slices: 0,
        }))
    }
}

impl Forward for Pass {
    fn advance(&mut self) -> Result<Step, model::Error> {
        self.slices += 1;
        if self.model.is_lost {
            let (what, reason) = ("a slice", "an illegal address".into());
            return Err(model::Error::DeviceLost(Failure::Lost { what, reason }));
        }
        if self.model.refuses {
            let (what, reason) = ("cuEventCreate", "CUDA_ERROR_INVALID_HANDLE".into());
            return Err(model::Error::DeviceRefused(Failure::Refused {
                what,
                reason,
            }));
        }
        if self.slices > self.model.slice && self.pixels.len() > self.model.room {
            return Err(model::Error::OutOfMemory { bytes: 7 });
        }
        Ok(match self.slices.cmp(&SLICES) {
            std::cmp::Ordering::Less => Step::More,
            std::cmp::Ordering::Equal => Step::Pending,
            std::cmp::Ordering::Greater => Step::Done,
        })
    }

    fn resumed_frames(&self) -> usize {
        0
    }

    fn is_ready(&self) -> bool {
        self.model.is_there.load(Ordering::SeqCst)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Vec<f32>>, model::Error> {
        Ok(self.pixels.iter().map(|pixel| vec![*pixel]).collect())
    }
}

/// A queue with clips whose first pixels are their numbers, and who waits for them.
struct Bed {
    residency: Residency,
    pin: Pin,
    queue: Arc<Queue>,
    _device: device::Handle,
}

impl Bed {
    async fn new() -> Self {
        let (device, _) = device::start(device::Config::default(), Metrics::new()).unwrap();
        let residency = residency(1000, device.clone());
        let backbone = backbone(8);
        let pin = listed(&residency, &version("a"), set(&backbone), 10).await;
        let queue = Queue::new(
            &Config::default(),
            &backbone,
            Arc::new(Equal),
            Metrics::new(),
        );
        Self {
            residency,
            pin,
            queue: Arc::new(queue),
            _device: device,
        }
    }

    fn push(&self, count: u64) -> Vec<Receiver<Part>> {
        let pushed = (0..count).map(|number| {
            let (mut clip, parts) = clip(&self.pin, number);
            clip.pictures = Pictures::Clip(vec![number as f32; 3 * 8 * 8].into());
            let tenant = (&self.pin.version.tenant, Class::Interactive);
            self.queue.push(tenant, vec![clip]);
            parts
        });
        pushed.collect()
    }

    /// Whether no set is suspected or refused.
    fn is_innocent(&self) -> bool {
        let suspects = self.residency.suspects().now_or_never();
        suspects.is_none() && self.pin.refused().is_none()
    }

    /// Runs everything that waits, and returns the clips of each forward pass.
    fn run(&self, model: Fake) -> Vec<usize> {
        let model = Arc::new(model);
        let mut batches = Batches::new(self.queue.clone(), Arc::new(model.clone()), Arc::new(Free));
        while let Some(mut batch) = batches.next() {
            while batch.advance() != Step::Done {}
        }
        // Dropping the source would close the queue.
        std::mem::forget(batches);
        model.begun.lock().unwrap().clone()
    }
}

fn results(answers: Vec<Receiver<Part>>) -> Vec<Result<Vec<f32>, Error>> {
    let each = answers.into_iter().map(|mut parts| {
        let result = parts.try_recv().expect("an answer").result;
        assert!(parts.try_recv().is_err(), "a clip is answered once");
        result
    });
    each.collect()
}

#[tokio::test]
async fn a_batch_without_room_runs_in_halves_until_every_clip_is_answered() {
    for (slice, room) in (0..SLICES).flat_map(|slice| (1..9).map(move |room| (slice, room))) {
        for clips in 1..10 {
            let bed = Bed::new().await;
            let answers = bed.push(clips);
            let begun = bed.run(Fake {
                room,
                slice,
                ..Fake::default()
            });
            let all = clips as usize;
            assert_eq!(begun[0], all);
            let done: usize = begun.iter().filter(|size| **size <= room).sum();
            assert_eq!(
                done, all,
                "{begun:?}: each clip runs once where there is room"
            );
            for (number, result) in results(answers).into_iter().enumerate() {
                assert_eq!(
                    result.unwrap(),
                    [number as f32],
                    "room for {room} of {clips}"
                );
            }
            assert!(bed.is_innocent());
        }
    }
}

#[tokio::test]
async fn a_clip_for_which_there_is_no_room_alone_is_refused_and_its_set_is_not_at_fault() {
    let bed = Bed::new().await;
    let answers = bed.push(3);
    assert_eq!(bed.run(Fake::default()), [3, 2, 1, 1, 1]);
    for result in results(answers) {
        assert!(
            matches!(result, Err(Error::OutOfMemory { bytes: 7 })),
            "{result:?}"
        );
    }
    assert!(bed.is_innocent());
    // The next batch is right.
    let answers = bed.push(2);
    let room = 2;
    assert_eq!(
        bed.run(Fake {
            room,
            ..Fake::default()
        }),
        [2]
    );
    assert!(results(answers).iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_lost_device_ends_the_clips_of_its_batch_and_no_set_is_at_fault() {
    let bed = Bed::new().await;
    let answers = bed.push(3);
    let is_lost = true;
    assert_eq!(
        bed.run(Fake {
            is_lost,
            ..Fake::default()
        }),
        [3]
    );
    for result in results(answers) {
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    }
    assert!(bed.is_innocent());
}

#[tokio::test]
async fn a_refusal_of_the_driver_fails_each_clip_alone_and_no_set_is_at_fault() {
    let bed = Bed::new().await;
    let answers = bed.push(3);
    let refuses = true;
    assert_eq!(
        bed.run(Fake {
            refuses,
            ..Fake::default()
        }),
        [3, 1, 1, 1]
    );
    for result in results(answers) {
        assert!(
            matches!(&result, Err(Error::Failed { reason, .. }) if reason.contains("cuEventCreate")),
            "{result:?}"
        );
    }
    assert!(bed.is_innocent());
}

#[tokio::test]
async fn a_batch_is_ready_when_its_result_is_there() {
    let bed = Bed::new().await;
    let answers = bed.push(1);
    let room = 1;
    let model = Arc::new(Fake {
        room,
        ..Fake::default()
    });
    let mut batches = Batches::new(bed.queue.clone(), Arc::new(model.clone()), Arc::new(Free));
    let mut batch = batches.next().unwrap();
    while batch.advance() != Step::Pending {}
    assert!(!batch.is_ready());
    model.is_there.store(true, Ordering::SeqCst);
    assert!(batch.is_ready());
    assert_eq!(batch.advance(), Step::Done);
    assert!(results(answers)[0].is_ok());
}
