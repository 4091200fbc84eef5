//! How the C library's allocator treats buffers of a chunk's length.

/// Has the allocator keep what is freed of a chunk's length, and not return each buffer to the kernel, which would clear 128 pages for the next
/// one. Larger buffers come from the kernel, already cleared, and are not written to before they are used.
///
/// Two arenas serve all threads, so that what one thread frees is used by another.
pub fn keep_chunk_buffers() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, 4 << 20), (libc::M_TRIM_THRESHOLD, 8 << 20), (libc::M_ARENA_MAX, 2)]
    {
        #[expect(unsafe_code, reason = "the C library has no safe interface to it")]
        // SAFETY: mallopt may be called at any time, and takes plain numbers.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
