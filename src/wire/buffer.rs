//! Large buffers that are used again, so that the system is not asked for them each time, nor each
//! filled with zeros first; small ones while very many are out, so that clients who take what they
//! asked for and do not read it hold little.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// [`Buffer::SIZE`] bytes to read into, or [`Buffer::SMALL`].
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

/// The part of a buffer that was read.
struct Filled {
    buffer: Buffer,
    len: usize,
}

// === impl Buffer ===

impl Buffer {
    /// Bytes.
    pub const SIZE: usize = 256 << 10;
    /// Bytes, while [`LARGE`] buffers are out.
    pub const SMALL: usize = 16 << 10;

    /// One that was used before, with what was in it then, or a new one.
    pub fn take() -> Self {
        if OUT.fetch_add(1, Ordering::Relaxed) >= LARGE {
            return Self(vec![0; Self::SMALL].into());
        }
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(free.unwrap_or_else(|| vec![0; Self::SIZE].into()))
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Its first `len` bytes; when the last of them is dropped, the buffer is free again.
    pub fn filled(self, len: usize) -> Bytes {
        Bytes::from_owner(Filled { buffer: self, len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        OUT.fetch_sub(1, Ordering::Relaxed);
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() < Self::SIZE {
            return;
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

// === impl Filled ===

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.0[..self.len]
    }
}

/// Buffers that somebody has: reads into, or has not sent yet.
static OUT: AtomicUsize = AtomicUsize::new(0);
static FREE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
/// Large buffers that may be out: 256 MiB, however many clients do not read what they asked for.
const LARGE: usize = 1024;
/// Buffers that wait to be used again, at most: 8 MiB.
const KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_until_its_last_part_is_dropped() {
        let mut buffer = Buffer::take();
        buffer.bytes()[..5].copy_from_slice(b"hello");
        let mut bytes = buffer.filled(5);
        let rest = bytes.split_off(2);
        drop(bytes);
        // Others take buffers meanwhile, and none of them is this one.
        for _ in 0..100 {
            let mut other = Buffer::take();
            other.bytes().fill(b'x');
            drop(other.filled(9));
        }
        assert_eq!(rest, "llo");
    }

    #[test]
    fn while_very_many_are_out_new_ones_are_small() {
        let held: Vec<Buffer> = (0..LARGE).map(|_| Buffer::take()).collect();
        assert_eq!(Buffer::take().bytes().len(), Buffer::SMALL);
        drop(held);
        assert_eq!(Buffer::take().bytes().len(), Buffer::SIZE);
    }
}
