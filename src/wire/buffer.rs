//! Large buffers that are used again, so that the system is not asked for them each time, nor each
//! filled with zeros first.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// [`Buffer::SIZE`] bytes to read into.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

/// The part of a buffer that was read.
struct Filled {
    buffer: Option<Buffer>,
    len: usize,
}

// === impl Buffer ===

impl Buffer {
    /// Bytes.
    pub const SIZE: usize = 256 << 10;

    /// One that was used before, with what was in it then, or a new one.
    pub fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Self(vec![0; Self::SIZE].into()))
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Its first `len` bytes; when the last of them is dropped, the buffer is free again.
    pub fn filled(self, len: usize) -> Bytes {
        Bytes::from_owner(Filled {
            buffer: Some(self),
            len,
        })
    }
}

// === impl Filled ===

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        let buffer = self.buffer.as_ref();
        buffer.map_or(&[], |buffer| &buffer.0[..self.len])
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.extend(self.buffer.take());
        }
    }
}

static FREE: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());
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
}
