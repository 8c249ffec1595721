//! Zeroed memory from the operating system, in huge pages where it has them.

use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

const HUGE: usize = 2 << 20;

/// A mapping of zeroed memory. Pages cost nothing until they are touched.
///
/// Rows are found at random, so most of the time goes into cache and TLB misses; 2 MiB pages take a quarter off
/// a random load.
pub(crate) struct Region {
    mapping: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
}

// SAFETY: the region is plain memory that it owns; whoever hands out references into it keeps the rules.
unsafe impl Send for Region {}
// SAFETY: as above; `Region` itself has no method that touches the memory.
unsafe impl Sync for Region {}

impl Region {
    /// At least `bytes` of zeros, aligned to 4 KiB, or to 2 MiB when it is as large as that.
    ///
    /// # Panics
    /// When the operating system has no address space left, as any allocation would.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let huge = bytes >= HUGE;
        let mapped = bytes.max(1).next_multiple_of(4096) + if huge { HUGE } else { 0 };
        // SAFETY: a new private anonymous mapping at an address of the system's choice aliases nothing.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let mapping = mapping.unwrap_or_else(|error| panic!("cannot map {mapped} bytes of memory: {error}"));
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("a mapping has an address");
        let skip =
            if huge { mapping.as_ptr().addr().next_multiple_of(HUGE) - mapping.as_ptr().addr() } else { 0 };
        // SAFETY: `skip` is less than the 2 MiB that were mapped in excess.
        let start = unsafe { mapping.add(skip) };
        if huge {
            // A hint: where it is refused the memory works all the same.
            // SAFETY: the range lies in the mapping, and huge pages do not change its contents.
            let _ = unsafe { madvise(start.as_ptr().cast(), mapped - HUGE, Advice::LinuxHugepage) };
        }
        Self { mapping, mapped, start }
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its owner dropped all that lay in it. A refusal leaks memory only.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}
