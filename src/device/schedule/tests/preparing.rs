//! Tests of items that prepare what serves later.

use super::*;

#[test]
fn what_is_prepared_yields_after_every_slice_and_comes_before_training() {
    let mut schedule = schedule(0, NO_LIMIT);
    schedule.push(1, Priority::Training, (0, None, Weight::ONE));
    schedule.push(20, Priority::Preparing, (0, None, Weight::ONE));
    schedule.push(21, Priority::Preparing, (0, None, Weight::ONE));
    // One slice between two batches, the rest when none waits.
    assert_eq!(
        script(&mut schedule, 3, vec![10, 11]),
        [10, 10, 10, 20, 11, 11, 11, 20, 20, 21, 21, 21, 1, 1, 1]
    );
    // A batch that comes meanwhile waits for one slice.
    schedule.push(22, Priority::Preparing, (0, None, Weight::ONE));
    assert_eq!(schedule.turn(), Turn::Run(22, Priority::Preparing));
    schedule.ran(22, SLICE);
    schedule.wake();
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(Some(12));
    assert_eq!(schedule.turn(), Turn::Run(12, Priority::Serving));
    schedule.ran(12, SLICE);
    assert_eq!(schedule.turn(), Turn::Run(12, Priority::Serving));
    schedule.gone(12, SLICE);
    assert_eq!(schedule.turn(), Turn::Run(22, Priority::Preparing));
    schedule.gone(22, SLICE);
    schedule.formed(None);
    assert_eq!(schedule.turn(), Turn::Idle);
}

#[test]
fn what_somebody_waits_for_by_now_leaves_what_is_prepared_behind() {
    let mut schedule = schedule(0, NO_LIMIT);
    for key in [20, 21, 22] {
        schedule.push(key, Priority::Preparing, (0, None, Weight::ONE));
    }
    assert_eq!(schedule.turn(), Turn::Run(20, Priority::Preparing));
    schedule.ran(20, SLICE);
    schedule.hasten(22);
    // It takes turns with batches as what was submitted to serve does, and runs back to back; the others have one slice after each.
    assert_eq!(
        script(&mut schedule, 3, vec![10, 11]),
        [10, 10, 10, 20, 22, 22, 22, 20, 11, 11, 11, 20, 21, 21, 21]
    );
    // One that has begun goes on where it was, and one that is not there is nothing.
    schedule.push(23, Priority::Preparing, (0, None, Weight::ONE));
    schedule.push(24, Priority::Preparing, (0, None, Weight::ONE));
    assert_eq!(schedule.turn(), Turn::Run(23, Priority::Preparing));
    schedule.ran(23, SLICE);
    schedule.hasten(23);
    schedule.hasten(99);
    assert_eq!(schedule.preparing(), [24]);
    assert_eq!(script(&mut schedule, 2, vec![]), [23, 23, 24, 24]);
}

#[test]
fn nothing_waits_for_the_result_of_what_is_prepared_as_long_as_there_is_something_to_do() {
    let mut schedule = schedule(0, NO_LIMIT);
    schedule.push(20, Priority::Preparing, (0, None, Weight::ONE));
    assert_eq!(schedule.turn(), Turn::Run(20, Priority::Preparing));
    schedule.pending(20, SLICE);
    assert_eq!(schedule.parked(), [20]);
    // Batches form, others prepare, and training runs meanwhile.
    schedule.push(1, Priority::Training, (0, None, Weight::ONE));
    schedule.push(21, Priority::Preparing, (0, None, Weight::ONE));
    assert_eq!(
        script(&mut schedule, 2, vec![10, 11]),
        [10, 10, 21, 11, 11, 21, 1, 1, 20, 20]
    );
    // The result is asked for when that was all. One that is there is taken between two batches.
    schedule.push(22, Priority::Preparing, (0, None, Weight::ONE));
    assert_eq!(schedule.turn(), Turn::Run(22, Priority::Preparing));
    schedule.pending(22, SLICE);
    schedule.wake();
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(Some(12));
    assert_eq!(schedule.turn(), Turn::Run(12, Priority::Serving));
    schedule.gone(12, SLICE);
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.ready(22);
    assert!(schedule.parked().is_empty());
    assert_eq!(schedule.turn(), Turn::Run(22, Priority::Preparing));
    schedule.gone(22, SLICE);
    // Once somebody waits for it, it is a serving item whose result is on its way.
    schedule.push(23, Priority::Preparing, (0, None, Weight::ONE));
    schedule.formed(None);
    assert_eq!(schedule.turn(), Turn::Run(23, Priority::Preparing));
    schedule.pending(23, SLICE);
    schedule.hasten(23);
    assert_eq!(
        (schedule.preparing(), schedule.parked()),
        (vec![], vec![23])
    );
    schedule.ready(23);
    assert_eq!(schedule.turn(), Turn::Run(23, Priority::Serving));
    schedule.gone(23, SLICE);
    schedule.formed(None);
    assert_eq!(schedule.turn(), Turn::Idle);
}
