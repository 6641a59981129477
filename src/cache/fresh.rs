//! The bytes of a download that came last, in memory: who follows closely does not wait for the disk.

use std::collections::VecDeque;
use std::sync::PoisonError;

use bytes::Bytes;

use super::sync::{MODEL, Mutex, MutexGuard};

/// What came last, in the blob's order and without a gap. All that is not in the file yet is here, and
/// a little more.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<Chunks>);

#[derive(Debug, Default)]
struct Chunks {
    chunks: VecDeque<Bytes>,
    /// Offset of the first byte.
    start: u64,
    /// Exclusive.
    end: u64,
}

// === impl Fresh ===

impl Fresh {
    /// Takes the bytes that came at `at`.
    pub fn push(&self, at: u64, bytes: Bytes) {
        let mut held = self.lock();
        if held.end != at {
            *held = Chunks {
                start: at,
                end: at,
                ..Chunks::default()
            };
        }
        held.end += bytes.len() as u64;
        held.chunks.push_back(bytes);
    }

    /// Lets go of what the file has had for a while, now that it has the first `written` bytes.
    pub fn written(&self, written: u64) {
        let mut held = self.lock();
        while let Some(first) = held.chunks.front() {
            let end = held.start + first.len() as u64;
            let few = held.end - end < KEPT && held.chunks.len() <= MOST;
            if end > written || few {
                break;
            }
            held.start = end;
            held.chunks.pop_front();
        }
    }

    /// Lets go of all.
    pub fn clear(&self) {
        let mut held = self.lock();
        held.start = held.end;
        held.chunks = VecDeque::new();
    }

    /// Bytes at `at`, none at or beyond `end`: as many as came at once. `None` where there are none here.
    pub fn get(&self, at: u64, end: u64) -> Option<Bytes> {
        let held = self.lock();
        if at >= end || at < held.start || at >= held.end {
            return None;
        }
        // From the back: who reads here reads what came last.
        let mut start = held.end;
        for chunk in held.chunks.iter().rev() {
            start -= chunk.len() as u64;
            if start <= at {
                let len = |until: u64| usize::try_from(until - start).ok();
                let to = len(end)?.min(chunk.len());
                return Some(chunk.slice(len(at)?..to));
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Chunks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that stay here though the file has them.
const KEPT: u64 = 512 << 10;
/// The pieces that those may be in.
const MOST: usize = if MODEL { 3 } else { 128 };

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(byte: u8, len: usize) -> Bytes {
        vec![byte; len].into()
    }

    #[test]
    fn what_came_is_found_by_its_offset_and_no_further_than_asked() {
        let fresh = Fresh::default();
        fresh.push(100, bytes(1, 10));
        fresh.push(110, bytes(2, 10));
        assert_eq!(fresh.get(99, 200), None);
        assert_eq!(fresh.get(100, 200), Some(bytes(1, 10)));
        assert_eq!(fresh.get(104, 106), Some(bytes(1, 2)));
        assert_eq!(fresh.get(115, 117), Some(bytes(2, 2)));
        assert_eq!(fresh.get(119, 200), Some(bytes(2, 1)));
        assert_eq!(fresh.get(120, 200), None);
        assert_eq!(fresh.get(104, 104), None);
    }

    #[test]
    fn what_is_not_written_stays_however_much_that_is() {
        let fresh = Fresh::default();
        let chunk = 256 << 10;
        for n in 0..16 {
            fresh.push(n * chunk, bytes(n as u8, chunk as usize));
        }
        fresh.written(chunk - 1);
        assert!(fresh.get(0, u64::MAX).is_some());
        fresh.written(16 * chunk);
        assert_eq!(fresh.get(13 * chunk, u64::MAX), None);
        assert!(fresh.get(14 * chunk, u64::MAX).is_some());
        fresh.clear();
        assert_eq!(fresh.get(15 * chunk, u64::MAX), None);
    }

    #[test]
    fn it_begins_anew_behind_a_gap() {
        let fresh = Fresh::default();
        fresh.push(0, bytes(1, 10));
        fresh.push(50, bytes(2, 10));
        assert_eq!(fresh.get(5, 60), None);
        assert_eq!(fresh.get(50, 60), Some(bytes(2, 10)));
    }
}
