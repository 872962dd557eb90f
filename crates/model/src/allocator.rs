//! Memory: makes the C library's allocator keep freed pages (fresh ones cost up to half of a step's time) and give back those that stay unused, aligns
//! buffers, asks the kernel for large pages, and counts page faults.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

mod slack;

pub use slack::Slack;

/// The system's allocator, with large buffers aligned to a cache line, so that a vector of 512 bits or a row of an AMX register lies in one line
/// instead of two. For programs that compute: `#[global_allocator]`.
///
/// A buffer lies in a block from the system that is one cache line longer. `posix_memalign` would also align it, but glibc does not reuse a block
/// that was freed that way for the next buffer of the same size.
#[derive(Debug, Clone, Copy, Default)]
pub struct LineAligned;

impl LineAligned {
    const LINE: usize = 64;
    /// Smallest size in bytes that is aligned; smaller blocks are never operands of products.
    const LEAST: usize = 4096;

    /// Returns the layout of the system's block around an aligned buffer; `None` for requests that are passed on unchanged.
    fn around(layout: Layout) -> Option<Layout> {
        let is_buffer = layout.size() >= Self::LEAST && layout.align() <= align_of::<usize>();
        let around =
            Layout::from_size_align(layout.size().checked_add(Self::LINE)?, align_of::<usize>());
        around.ok().filter(|_| is_buffer)
    }

    /// Returns the aligned buffer inside a block from the system, after writing the buffer's offset in front of it.
    ///
    /// # Safety
    /// `block` is null, or has the buffer's bytes and one cache line more.
    unsafe fn place(block: *mut u8) -> *mut u8 {
        if block.is_null() {
            return block;
        }
        let offset = Self::LINE - block.addr() % Self::LINE;
        // SAFETY: the block is aligned to 8 bytes, so the offset is 8 to 64, and a number fits between the start of the block and the start of the
        // buffer.
        unsafe {
            let buffer = block.add(offset);
            buffer.cast::<usize>().sub(1).write(offset);
            buffer
        }
    }

    /// Returns the system's block that a buffer lies in.
    ///
    /// # Safety
    /// `buffer` came from `place`.
    unsafe fn block(buffer: *mut u8) -> *mut u8 {
        // SAFETY: `place` wrote the offset in front of the buffer.
        unsafe { buffer.sub(buffer.cast::<usize>().sub(1).read()) }
    }
}

// SAFETY: all four functions pass the same requests to the system's allocator, since the layout alone decides which; buffers lie wholly in their
// blocks.
unsafe impl GlobalAlloc for LineAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is not empty, as the caller promises; the one around it is larger.
        unsafe {
            match Self::around(layout) {
                Some(around) => Self::place(System.alloc(around)),
                None => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see `alloc`.
        unsafe {
            match Self::around(layout) {
                Some(around) => Self::place(System.alloc_zeroed(around)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` was given for this layout.
        unsafe {
            match Self::around(layout) {
                Some(around) => System.dealloc(Self::block(memory), around),
                None => System.dealloc(memory, layout),
            }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a size that makes a valid layout; `memory` was given for the old one. Both blocks are live while one is copied
        // to the other.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            if Self::around(layout).is_none() && Self::around(new).is_none() {
                return System.realloc(memory, layout, size);
            }
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}

/// Makes malloc reuse large blocks. Call it once, at the very start of `main`, before any other thread starts. Does nothing with a C library other
/// than glibc.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const SETTINGS: [(libc::c_int, libc::c_int); 4] = [
            // No block gets a mapping of its own, which would be unmapped when it is freed: all blocks come from the heap, which is reused.
            (libc::M_MMAP_MAX, 0),
            (libc::M_TRIM_THRESHOLD, i32::MAX),
            (libc::M_TOP_PAD, 64 << 20),
            // Arenas of other threads are limited to 64 MiB and unmapped when they are empty; the main arena is not.
            (libc::M_ARENA_MAX, 1),
        ];
        for (option, value) in SETTINGS {
            // SAFETY: mallopt accepts any values; when it refuses one, the default stays.
            unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Returns the resident bytes that malloc keeps although nothing uses them; `None` where the system or the C library does not say.
pub fn unused_bytes() -> Option<u64> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the call only reads malloc's own counts, under its locks.
        let counts = unsafe { libc::mallinfo2() };
        let used = counts.uordblks as u64 + counts.hblkhd as u64;
        let mapped = std::fs::read_to_string("/proc/self/statm").ok()?;
        Some(anonymous_bytes(&mapped)?.saturating_sub(used))
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// Returns the resident bytes without those of files, from the text of `/proc/self/statm`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn anonymous_bytes(statm: &str) -> Option<u64> {
    let mut pages = statm.split(' ').skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

/// Returns all pages to the kernel that malloc keeps although nothing uses them. Other threads that allocate wait meanwhile, about 0.1 s for each GiB.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes malloc's own locks and touches free blocks only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Asks the kernel to back a large buffer with pages of 2 MiB, before it is written to: products stream through more 4 KiB pages than the processor's
/// TLB holds. The kernel may ignore the request.
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
        // SAFETY: the range lies inside the buffer's allocation, and the advice changes no value in it. An error means that the kernel has no large
        // pages, which is harmless.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// Resource usage of this process since its start, from `getrusage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Number of page faults, with and without disk access.
    pub faults: u64,
    /// Largest resident size in bytes.
    pub peak_bytes: u64,
}

/// Returns the resource usage of this process since its start.
pub fn usage() -> Usage {
    // SAFETY: all zeros are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a live `rusage`; with RUSAGE_SELF the call cannot fail.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
    // Linux counts kibibytes, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Usage {
        faults: count(usage.ru_minflt) + count(usage.ru_majflt),
        peak_bytes: count(usage.ru_maxrss) * unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_line_and_keep_what_is_in_them() {
        let allocator = LineAligned;
        for (size, align) in [
            (1, 1),
            (100, 16),
            (1500, 8),
            (5000, 4),
            (5000, 256),
            (1 << 20, 1),
        ] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let line = if size >= 4096 && align <= 8 { 64 } else { 1 };
            // SAFETY: no layout is empty, and blocks are used inside their sizes and freed once.
            unsafe {
                let block = allocator.alloc(layout);
                assert_eq!(block as usize % align.max(line), 0, "{layout:?}");
                block.write_bytes(7, size);
                let grown = allocator.realloc(block, layout, 3 * size);
                assert_eq!(grown as usize % align, 0, "{layout:?}");
                let kept = std::slice::from_raw_parts(grown, size);
                assert!(kept.iter().all(|&byte| byte == 7));
                let layout_grown = Layout::from_size_align(3 * size, align).unwrap();
                let shrunk = allocator.realloc(grown, layout_grown, size);
                assert!(
                    std::slice::from_raw_parts(shrunk, size)
                        .iter()
                        .all(|&byte| byte == 7)
                );
                allocator.dealloc(shrunk, layout);
                let zeros = allocator.alloc_zeroed(layout);
                assert_eq!(zeros as usize % align.max(line), 0, "{layout:?}");
                let all = std::slice::from_raw_parts(zeros, size);
                assert!(all.iter().all(|&byte| byte == 0));
                allocator.dealloc(zeros, layout);
            }
        }
        let layout = Layout::from_size_align(1 << 62, 8).unwrap();
        // SAFETY: there is no block, so none is used.
        assert!(unsafe { allocator.alloc(layout) }.is_null());
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_one_large_import_took_is_kept_for_reuse_and_goes_back_when_asked() {
        const BLOCKS: usize = 32;
        const BLOCK: usize = 8 << 20;
        keep_freed_pages();
        let unused = || unused_bytes().expect("Linux with glibc tells");
        // Small blocks between the large ones keep the heap from simply becoming shorter.
        let blocks: Vec<_> = (0..BLOCKS)
            .map(|i| (vec![i as u8 | 1; BLOCK], vec![i as u8 | 1; 100]))
            .collect();
        let (large, small): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        assert!(large.iter().all(|block| block[BLOCK / 2] > 0));
        drop(large);
        let all = (BLOCKS * BLOCK) as u64;
        let kept = unused();
        assert!(kept >= all / 4 * 3, "{kept} bytes are kept for reuse");
        give_back();
        let left = unused();
        assert!(left <= kept - all / 2, "of {kept} bytes {left} are kept");
        assert!(small.iter().all(|block| block[99] > 0));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn pages_of_files_are_not_anonymous() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(anonymous_bytes("900 30 10 5 0 20 0\n"), Some(20 * page));
        assert_eq!(anonymous_bytes("900 10 30 5 0 20 0\n"), Some(0));
        assert_eq!(anonymous_bytes("900"), None);
    }
}
