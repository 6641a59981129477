//! What the allocator does with large blocks.

use std::hint::black_box;

/// Has glibc keep blocks of less than [`LARGEST`] bytes when they are freed. It gives each of 128 KiB and
/// more back to the system, which zeroes it page by page for whoever asks next: a download asks all the
/// time. It does so no more with what is smaller than a block that was freed once (mallopt(3),
/// `M_MMAP_THRESHOLD`). To be called early; elsewhere it does nothing.
pub fn keep_freed_blocks() {
    drop(black_box(Vec::<u8>::with_capacity(LARGEST)));
}

/// Bytes. Twice as many may stay free at the end of a heap, of which there are a few for each core.
const LARGEST: usize = 2 << 20;
