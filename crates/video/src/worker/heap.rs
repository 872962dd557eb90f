//! The heap that workers inherit: prepared once in the zygote, before any is forked.

#![allow(unsafe_code)]

/// What the pictures of a large video take. Beyond it the heap grows as ever.
#[cfg(target_env = "gnu")]
const EXPECTED: usize = 128 << 20;

/// Keeps freed memory, since frame buffers are freed and asked for again all the time, and each would otherwise be mapped and faulted in afresh; and asks
/// the kernel to back it with large pages, of which a picture needs few. Nothing is written to: memory is taken when a worker uses it.
pub(super) fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator, which ignores a value that it does not like; the block is ours until it is freed, and the advice, of whole
    // pages inside of it, changes no value in it.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        let block = libc::malloc(EXPECTED);
        if !block.is_null() {
            const PAGE: usize = 64 << 10;
            let begin = block.cast::<u8>().align_offset(PAGE);
            // Kernels without large pages refuse.
            let _ = libc::madvise(block.byte_add(begin), EXPECTED - PAGE, libc::MADV_HUGEPAGE);
            libc::free(block);
        }
    }
}
