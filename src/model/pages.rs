//! Asks the C library's allocator to keep freed memory, since fresh pages cost up to half of a step.
#![allow(unsafe_code)]

/// Makes malloc reuse large blocks; call it once, first thing in `main`, before any other thread starts. Does nothing with another C library than glibc.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const SETTINGS: [(libc::c_int, libc::c_int); 4] = [
            // The largest threshold that glibc accepts: smaller blocks come from the heap, which is reused.
            (libc::M_MMAP_THRESHOLD, 32 << 20),
            (libc::M_TRIM_THRESHOLD, 1 << 30),
            (libc::M_TOP_PAD, 16 << 20),
            // Arenas of other threads end at 64 MiB and are unmapped when they are empty; the main one is not.
            (libc::M_ARENA_MAX, 1),
        ];
        for (option, value) in SETTINGS {
            // SAFETY: mallopt takes any values; it refuses those that it cannot use, and then the default stays.
            unsafe { libc::mallopt(option, value) };
        }
    }
}
