//! How the C library's allocator behaves where address space is scarce.

use rustix::process::{Resource, getrlimit};

/// Keeps the allocator to one arena where the address space is limited (`ulimit -v`, `LimitAS=`).
///
/// glibc reserves 64 MiB of address space for an arena, and makes eight arenas for each processor, so that a limit of 500 MB is used up by
/// the eighth thread although a hundredth of it is in use. Without a limit nothing changes.
pub fn spare_address_space() {
    if getrlimit(Resource::As).current.is_some() {
        #[cfg(target_env = "gnu")]
        #[expect(unsafe_code, reason = "the C library has no safe interface to it")]
        // SAFETY: mallopt may be called at any time, and takes plain numbers.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
