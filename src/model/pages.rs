//! Memory pages: asks the C library's allocator to keep freed ones, since fresh pages cost up to half of a step, asks the kernel for large ones, and
//! counts the faults.
#![allow(unsafe_code)]

/// Makes malloc reuse large blocks; call it once, first thing in `main`, before any other thread starts. Does nothing with another C library than glibc.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const SETTINGS: [(libc::c_int, libc::c_int); 4] = [
            // No block has a mapping of its own, which would be given back when it is freed: all come from the heap, which is reused.
            (libc::M_MMAP_MAX, 0),
            (libc::M_TRIM_THRESHOLD, i32::MAX),
            (libc::M_TOP_PAD, 64 << 20),
            // Arenas of other threads end at 64 MiB and are unmapped when they are empty; the main one is not.
            (libc::M_ARENA_MAX, 1),
        ];
        for (option, value) in SETTINGS {
            // SAFETY: mallopt takes any values; it refuses those that it cannot use, and then the default stays.
            unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Asks the kernel to back a large buffer, before it is written to, with pages of 2 MiB: products stream through more pages of 4 KiB than the processor
/// has addresses of at hand. The kernel may do nothing.
pub(super) fn prefer_large<T>(buffer: &mut Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        const SMALL: usize = 4096;
        let bytes = buffer.capacity() * size_of::<T>();
        if bytes < 2 * LARGE {
            return;
        }
        let begin = (buffer.as_mut_ptr() as usize).next_multiple_of(SMALL);
        let end = (buffer.as_mut_ptr() as usize + bytes) / SMALL * SMALL;
        // SAFETY: the range lies inside the buffer's allocation, and the advice changes no value in it. An error says that the kernel has no large pages.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// What `getrusage` says of this process so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Page faults, with and without input or output.
    pub faults: u64,
    /// Largest resident size, in bytes.
    pub peak_bytes: u64,
}

/// What this process has used so far.
pub fn usage() -> Usage {
    // SAFETY: all zeros are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a live `rusage`; with RUSAGE_SELF the call has no way to fail.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
    // Linux counts kibibytes, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Usage {
        faults: count(usage.ru_minflt) + count(usage.ru_majflt),
        peak_bytes: count(usage.ru_maxrss) * unit,
    }
}
