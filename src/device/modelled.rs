//! The hand-over under a model checker, which tries every order in which threads can meet in it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use handover::{Handover, Refused};

// The same file a second time, with other locks.
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "handover.rs"]
mod handover;

/// The checker's locks.
mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

type Tested = Handover<u32, u32>;

/// Explores a scenario. More than three switches of threads against their will find no more in code with one lock, and take hours.
fn explore(scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(scenario);
}

#[test]
fn an_idle_device_misses_no_work_and_no_wake_up() {
    explore(|| {
        let tested = Arc::new(Tested::new(2));
        let device = {
            let tested = tested.clone();
            thread::spawn(move || {
                let (mut works, mut woken) = (Vec::new(), false);
                while works.is_empty() || !woken {
                    let arrived = tested.take_in(true);
                    works.extend(arrived.works);
                    woken |= arrived.woken;
                }
                works
            })
        };
        let waker = {
            let tested = tested.clone();
            thread::spawn(move || tested.wake())
        };
        tested.submit(7).unwrap();
        waker.join().unwrap();
        assert_eq!(device.join().unwrap(), [7]);
    });
}

#[test]
fn no_turn_runs_while_the_device_is_paused() {
    explore(|| {
        let tested = Arc::new(Tested::new(2));
        let in_turn = Arc::new(AtomicBool::new(false));
        let device = {
            let (tested, in_turn) = (tested.clone(), in_turn.clone());
            thread::spawn(move || {
                for idle in [true, false] {
                    let arrived = tested.take_in(idle);
                    in_turn.store(true, Ordering::SeqCst);
                    assert!(!idle || arrived.woken);
                    in_turn.store(false, Ordering::SeqCst);
                }
                tested.end();
            })
        };
        tested.wake();
        tested.pause();
        assert!(!in_turn.load(Ordering::SeqCst));
        tested.resume();
        device.join().unwrap();
        // A pause of a device that has ended waits for nobody.
        tested.pause();
    });
}

#[test]
fn two_pauses_nest() {
    explore(|| {
        let tested = Arc::new(Tested::new(1));
        let in_turn = Arc::new(AtomicBool::new(false));
        let device = {
            let (tested, in_turn) = (tested.clone(), in_turn.clone());
            thread::spawn(move || {
                tested.take_in(false);
                in_turn.store(true, Ordering::SeqCst);
                in_turn.store(false, Ordering::SeqCst);
                tested.end();
            })
        };
        let other = {
            let (tested, in_turn) = (tested.clone(), in_turn.clone());
            thread::spawn(move || {
                tested.pause();
                assert!(!in_turn.load(Ordering::SeqCst));
                tested.resume();
            })
        };
        tested.pause();
        assert!(!in_turn.load(Ordering::SeqCst));
        tested.resume();
        other.join().unwrap();
        device.join().unwrap();
    });
}

#[test]
fn work_that_was_accepted_is_taken_in_or_given_back_when_the_device_stops() {
    explore(|| {
        let tested = Arc::new(Tested::new(4));
        let device = {
            let tested = tested.clone();
            thread::spawn(move || {
                let mut works = Vec::new();
                loop {
                    let arrived = tested.take_in(true);
                    works.extend(arrived.works);
                    if arrived.stopping {
                        works.extend(tested.end().0);
                        return works;
                    }
                }
            })
        };
        let submitter = {
            let tested = tested.clone();
            thread::spawn(move || tested.submit(1))
        };
        tested.stop();
        let submitted = submitter.join().unwrap();
        let expected: &[u32] = match submitted {
            Ok(()) => &[1],
            Err(refused) => {
                assert_eq!(refused, Refused::Stopped);
                &[]
            }
        };
        assert_eq!(device.join().unwrap(), expected);
        assert_eq!(tested.submit(2), Err(Refused::Stopped));
        assert_eq!(tested.set_source(3), Some(3));
    });
}

#[test]
fn never_more_is_accepted_than_fits_until_some_of_it_has_left() {
    explore(|| {
        let tested = Arc::new(Tested::new(1));
        let other = {
            let tested = tested.clone();
            thread::spawn(move || tested.submit(1).is_ok())
        };
        let own = tested.submit(2).is_ok();
        let other = other.join().unwrap();
        assert!(own != other, "one of the two finds room");
        assert_eq!(tested.take_in(false).works.len(), 1);
        assert_eq!(
            tested.submit(3),
            Err(Refused::Full),
            "the thread has it still"
        );
        tested.release();
        assert_eq!(tested.submit(3), Ok(()));
    });
}
