//! Counts what threads request from the allocator, so that tests detect a length that was trusted without a check.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

use frameshift::model::LineAligned;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// Bytes that this thread allocated and has not freed, and the maximum of that.
    static OWN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Bytes that all threads hold now; `MOST` is the maximum since it was last reset.
static HELD: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

/// The program's allocator with counters.
struct Watch;

fn hold(bytes: isize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
    // A thread that is being torn down has no counter any more, as in `note`.
    let _ = OWN.try_with(|own| {
        let (held, most) = own.get();
        own.set((held + bytes, most.max(held + bytes)));
    });
}

fn note(bytes: usize) {
    // A thread that is being torn down has no counter any more, and nobody reads it.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: every call is passed to the program's allocator with the caller's own arguments, so its guarantees hold for the caller.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hold(layout.size() as isize);
        // SAFETY: the caller's layout.
        unsafe { LineAligned.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        hold(layout.size() as isize);
        // SAFETY: the caller's layout.
        unsafe { LineAligned.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        hold(size as isize - layout.size() as isize);
        // SAFETY: the caller's pointer, layout and size.
        unsafe { LineAligned.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-(layout.size() as isize));
        // SAFETY: the caller's pointer and layout.
        unsafe { LineAligned.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// Runs `f`. Returns its result with the size of the largest allocation that this thread made meanwhile.
pub(crate) fn largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = run();
    (result, LARGEST.get())
}

/// Runs `f`. Returns its result with the most bytes that all threads held, in addition to those held before. Other tests of this process count, too.
pub(crate) fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = run();
    let most = MOST.load(Ordering::Relaxed) - before;
    (result, most.max(0) as usize)
}

/// Runs `f` on one thread. Returns its result with the most bytes that the thread held, in addition to those held before, whatever other tests do.
pub(crate) fn peak_of_one_thread<T: Send>(run: impl FnOnce() -> T + Send) -> (T, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread").install(|| {
        OWN.set((0, 0));
        let result = run();
        (result, OWN.get().1.max(0) as usize)
    })
}

#[test]
fn a_large_allocation_is_seen() {
    let ((), bytes) = largest(|| drop(std::hint::black_box(vec![1_u8; 3 << 20])));
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
    let (_, most) = peak(|| [0; 3].map(|_| std::hint::black_box(vec![1_u8; 1 << 20])));
    assert!(most >= 3 << 20, "{most}");
}
