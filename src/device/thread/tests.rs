//! Tests of the thread with small work items: turns, cancellation, panics, pause and drain.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex};

use super::turns::STUMBLES;
use super::*;
use crate::device::{Step, Walk};
use crate::shutdown;

/// Work item that sends its name at each of its slices.
struct Speaker {
    name: &'static str,
    left: u32,
    said: SyncSender<&'static str>,
}

impl Work for Speaker {
    fn advance(&mut self) -> Step {
        self.said.send(self.name).unwrap();
        self.left -= 1;
        if self.left == 0 {
            Step::Done
        } else {
            Step::More
        }
    }
}

struct Batches(VecDeque<Box<dyn Work>>);

impl Source for Batches {
    fn next(&mut self) -> Option<Box<dyn Work>> {
        self.0.pop_front()
    }
}

/// Computation that returns a number after some slices, and panics in slice `panic_at`.
struct Count {
    slices: u32,
    panic_at: u32,
}

impl Walk for Count {
    type Output = u32;

    fn advance(&mut self) -> Step {
        self.slices -= 1;
        assert_ne!(self.slices, self.panic_at, "told to");
        if self.slices == 0 {
            Step::Done
        } else {
            Step::More
        }
    }

    fn finish(self) -> u32 {
        7
    }
}

const NEVER: u32 = u32::MAX;

/// Longest time that a test waits for an expected event; only a failing test waits that long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn device() -> (Handle, Service) {
    start(Config::default(), Metrics::new()).unwrap()
}

/// The handle for the training of one tenant.
fn owned(handle: &Handle) -> Owned {
    handle.owned_by(&TenantId::anonymous(), &"task".parse().unwrap())
}

fn speaker(name: &'static str, left: u32, said: &SyncSender<&'static str>) -> Box<dyn Work> {
    Box::new(Speaker {
        name,
        left,
        said: said.clone(),
    })
}

fn words() -> (SyncSender<&'static str>, Receiver<&'static str>) {
    // Larger than what any test sends, so that the device never waits for the test.
    sync_channel(100)
}

#[test]
fn works_take_turns_and_serving_comes_first() {
    let (handle, _service) = device();
    let (say, said) = words();
    let paused = handle.pause();
    owned(&handle).submit(speaker("a", 2, &say)).unwrap();
    owned(&handle).submit(speaker("b", 2, &say)).unwrap();
    let batch = speaker("batch", 2, &say);
    handle.set_source(Box::new(Batches(VecDeque::from([batch]))));
    assert_eq!(handle.stats(), Stats::default());
    drop(paused);
    let order: Vec<_> = (0..6).map(|_| said.recv().unwrap()).collect();
    assert_eq!(order, ["batch", "batch", "a", "b", "a", "b"]);
    drop(handle.pause());
    let stats = handle.stats();
    assert_eq!(
        (stats.serving_slices, stats.training_slices, stats.batches),
        (2, 4, 1)
    );
}

#[tokio::test]
async fn a_panic_drops_its_work_alone() {
    let (handle, _service) = device();
    let paused = handle.pause();
    let training = owned(&handle);
    let bad = training.run(Count {
        slices: 3,
        panic_at: 1,
    });
    let good = training.run(Count {
        slices: 5,
        panic_at: NEVER,
    });
    let both = async { tokio::join!(bad, good) };
    let (bad, good) = tokio::join!(both, async { drop(paused) }).0;
    let Err(Error::Panicked { message }) = bad else {
        panic!("{bad:?}")
    };
    assert!(message.contains("told to"), "{message}");
    assert_eq!(good, Ok(7));
    let next = Count {
        slices: 1,
        panic_at: NEVER,
    };
    assert_eq!(handle.run(next).await, Ok(7));
    assert_eq!(handle.stats().panics, 1);
}

#[tokio::test]
async fn a_dropped_future_never_reaches_the_device() {
    let (handle, _service) = device();
    let paused = handle.pause();
    {
        let mut run = Box::pin(handle.run(Count {
            slices: 3,
            panic_at: NEVER,
        }));
        assert!(futures::poll!(run.as_mut()).is_pending());
    }
    drop(paused);
    let next = Count {
        slices: 1,
        panic_at: NEVER,
    };
    assert_eq!(owned(&handle).run(next).await, Ok(7));
    let stats = handle.stats();
    assert_eq!((stats.cancelled, stats.slices()), (1, 1));
}

#[test]
fn a_full_queue_is_an_error_at_once() {
    let config = Config {
        queue: 1,
        ..Config::default()
    };
    let (handle, _service) = start(config, Metrics::new()).unwrap();
    let (say, _said) = words();
    let _paused = handle.pause();
    owned(&handle).submit(speaker("a", 1, &say)).unwrap();
    let second = handle.submit(speaker("b", 1, &say));
    assert_eq!(second, Err(Error::Full { queue: 1 }));
}

#[tokio::test]
async fn a_drain_finishes_serving_and_drops_training() {
    let (handle, service) = device();
    let (drain, signal) = shutdown::channel();
    let (say, said) = words();
    let paused = handle.pause();
    let batch = speaker("batch", 3, &say);
    handle.set_source(Box::new(Batches(VecDeque::from([batch]))));
    handle.submit(speaker("warm", 2, &say)).unwrap();
    let training = owned(&handle);
    let step = training.run(Count {
        slices: 9,
        panic_at: NEVER,
    });
    let mut step = Box::pin(step);
    assert!(futures::poll!(step.as_mut()).is_pending());
    drain.start();
    service.run(signal).await.unwrap();
    drop(paused);
    assert_eq!(step.await, Err(Error::Stopped));
    drop(say);
    let order: Vec<_> = said.iter().collect();
    assert_eq!(order, ["batch", "batch", "batch", "warm", "warm"]);
    let after = handle
        .run(Count {
            slices: 1,
            panic_at: NEVER,
        })
        .await;
    assert_eq!(after, Err(Error::Stopped));
}

#[tokio::test]
async fn the_thread_ends_with_its_last_handle() {
    let (handle, service) = device();
    let (_drain, signal) = shutdown::channel();
    drop(handle);
    service.run(signal).await.unwrap();
}

/// Ledger in which nothing can be taken down.
#[derive(Debug)]
struct Torn;

impl Ledger for Torn {
    fn computed(&self, _: &TenantId, _: Option<&TaskId>, _: Duration) {
        panic!("as planned");
    }

    fn decoded(&self, _: &TenantId, _: Duration) {}
}

#[test]
fn a_ledger_that_panics_ends_no_work() {
    let (handle, _service) = device();
    handle.account_to(Arc::new(Torn));
    let (say, said) = words();
    owned(&handle).submit(speaker("work", 2, &say)).unwrap();
    for _ in 0..2 {
        assert_eq!(said.recv_timeout(PATIENCE), Ok("work"));
    }
    let batch = speaker("batch", 1, &say);
    handle.set_source(Box::new(Batches(VecDeque::from([batch]))));
    assert_eq!(said.recv_timeout(PATIENCE), Ok("batch"));
}

/// Source that panics a number of times when it is asked for a batch, and then gives its batches.
struct Stumbles(u32, Batches);

impl Source for Stumbles {
    fn next(&mut self) -> Option<Box<dyn Work>> {
        if self.0 > 0 {
            self.0 -= 1;
            panic!("as planned");
        }
        self.1.next()
    }
}

#[test]
fn what_waits_in_a_source_that_panics_is_not_left_asleep() {
    let (handle, _service) = device();
    let (say, said) = words();
    let batches = Batches(VecDeque::from([speaker("batch", 1, &say)]));
    handle.set_source(Box::new(Stumbles(1, batches)));
    assert_eq!(said.recv_timeout(PATIENCE), Ok("batch"));
    assert_eq!(handle.stats().panics, 1);
}

#[test]
fn a_source_that_does_nothing_but_panic_is_left_alone_until_the_next_wake() {
    let (handle, _service) = device();
    let (say, said) = words();
    let batches = Batches(VecDeque::from([speaker("batch", 1, &say)]));
    handle.set_source(Box::new(Stumbles(STUMBLES, batches)));
    let work = speaker("work", 1, &say);
    owned(&handle).submit(work).unwrap();
    // Training runs only when no batch can be formed.
    assert_eq!(said.recv_timeout(PATIENCE), Ok("work"));
    handle.wake();
    assert_eq!(said.recv_timeout(PATIENCE), Ok("batch"));
    drop(handle.pause());
    assert_eq!(handle.stats().panics, u64::from(STUMBLES));
}

/// A batch whose result is ready once a switch is on, and waits for it otherwise.
struct Enqueued {
    name: &'static str,
    /// Whether everything is enqueued.
    is_enqueued: bool,
    result: Arc<(Mutex<bool>, Condvar)>,
    said: SyncSender<&'static str>,
}

impl Work for Enqueued {
    fn advance(&mut self) -> Step {
        if !std::mem::replace(&mut self.is_enqueued, true) {
            return Step::Pending;
        }
        let (is_there, arrived) = &*self.result;
        let waited = arrived.wait_while(is_there.lock().unwrap(), |is_there| !*is_there);
        drop(waited.unwrap());
        self.said.send(self.name).unwrap();
        Step::Done
    }

    fn is_ready(&self) -> bool {
        *self.result.0.lock().unwrap()
    }
}

#[test]
fn a_batch_starts_while_the_result_of_the_one_before_it_is_on_its_way() {
    let (said, heard) = words();
    let (device, _service) = device();
    let result = Arc::new((Mutex::new(false), Condvar::new()));
    let first = Enqueued {
        name: "first",
        is_enqueued: false,
        result: result.clone(),
        said: said.clone(),
    };
    let pause = device.pause();
    device.set_source(Box::new(Batches(
        [
            Box::new(first) as Box<dyn Work>,
            speaker("second", 1, &said),
        ]
        .into(),
    )));
    drop(pause);
    // The second batch ran although the first one's result was not there.
    assert_eq!(heard.recv().unwrap(), "second");
    *result.0.lock().unwrap() = true;
    result.1.notify_all();
    assert_eq!(heard.recv().unwrap(), "first");
}

/// Health of a device that is lost once a switch is on.
struct Fragile(Arc<AtomicBool>);

impl Health for Fragile {
    fn lost(&self) -> Option<Arc<str>> {
        let is_lost = self.0.load(Ordering::SeqCst);
        is_lost.then(|| "an illegal address".into())
    }
}

/// Work whose slice loses the device.
struct Breaks(Arc<AtomicBool>);

impl Walk for Breaks {
    type Output = ();

    fn advance(&mut self) -> Step {
        self.0.store(true, Ordering::SeqCst);
        Step::More
    }

    fn finish(self) {}
}

#[tokio::test]
async fn a_lost_device_drops_its_work_and_ends_with_the_reason() {
    let is_lost = Arc::new(AtomicBool::new(false));
    let health = Box::new(Fragile(is_lost.clone()));
    let (device, service) = start_on(health, Config::default(), Metrics::new()).unwrap();
    let broken = device.run(Breaks(is_lost)).await;
    assert_eq!(broken, Err(Error::Stopped));
    let (_drain, signal) = crate::shutdown::channel();
    let reason = "an illegal address".into();
    assert_eq!(service.run(signal).await, Err(Error::Lost { reason }));
    let later = device.run(Breaks(Arc::default())).await;
    assert_eq!(later, Err(Error::Stopped));
}
