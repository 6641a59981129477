//! What of a blob nobody fetches yet, and how much of it a connection takes at a time.

use std::ops::Range;

/// Parts of a blob that are free, in order.
#[derive(Debug, Default)]
pub(super) struct Shares {
    free: Vec<Range<u64>>,
    /// Bytes that a connection brings in [`TURN`] seconds.
    usual: u64,
}

// === impl Shares ===

impl Shares {
    /// Everything in `free`, for connections that bring `rate` bytes a second.
    pub fn of(free: Range<u64>, rate: u64) -> Self {
        Self {
            free: Vec::from_iter((!free.is_empty()).then_some(free)),
            usual: rate.saturating_mul(TURN).clamp(LEAST, MOST),
        }
    }

    /// Takes the first free part for one of `lanes` connections. Towards the end parts become smaller,
    /// so that all end at about the same time.
    pub fn take(&mut self, lanes: usize) -> Option<Range<u64>> {
        let at = self.free.first()?.start;
        self.take_at(at, lanes)
    }

    /// The same for the part that begins at `at`, if that is free.
    pub fn take_at(&mut self, at: u64, lanes: usize) -> Option<Range<u64>> {
        let found = self.free.iter().position(|free| free.start == at)?;
        let left: u64 = self.free.iter().map(|free| free.end - free.start).sum();
        let fair = left.div_ceil(lanes.max(1) as u64).max(LEAST / 2);
        let free = &mut self.free[found];
        let wanted = self.usual.min(fair);
        let length = free.end - free.start;
        // A rest that is not worth a request of its own comes along.
        let end = match length <= wanted + wanted / 4 {
            true => free.end,
            false => free.start + wanted,
        };
        let taken = free.start..end;
        free.start = end;
        if free.is_empty() {
            self.free.remove(found);
        }
        Some(taken)
    }

    /// Makes a part free again.
    pub fn give_back(&mut self, part: Range<u64>) {
        if part.is_empty() {
            return;
        }
        let at = self.free.partition_point(|free| free.start < part.start);
        self.free.insert(at, part);
        // Ascending and apart, as it was, but for the new one's neighbours.
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(self.free.len());
        for free in self.free.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end >= free.start => last.end = last.end.max(free.end),
                _ => merged.push(free),
            }
        }
        self.free = merged;
    }
}

/// Seconds.
const TURN: u64 = 2;
/// Bytes.
const LEAST: u64 = 4 << 20;
const MOST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn shares_cover_everything_once_in_order_and_become_smaller() {
        let mut shares = Shares::of(3..200 * MIB, 5 * MIB);
        let mut at = 3;
        let mut sizes = Vec::new();
        while let Some(share) = shares.take(4) {
            assert_eq!(share.start, at);
            at = share.end;
            sizes.push(share.end - share.start);
        }
        assert_eq!(at, 200 * MIB);
        assert_eq!(sizes[0], 10 * MIB);
        assert!(*sizes.last().unwrap() < 5 * MIB, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size >= MIB), "{sizes:?}");
    }

    #[test]
    fn what_is_given_back_is_taken_first_where_it_comes_first() {
        let mut shares = Shares::of(0..64 * MIB, 4 * MIB);
        let first = shares.take(2).unwrap();
        let second = shares.take(2).unwrap();
        shares.give_back(first.clone());
        assert_eq!(shares.take(2), Some(first.clone()));
        shares.give_back(second.clone());
        shares.give_back(first);
        assert_eq!(shares.free.len(), 1);
        assert!(shares.take_at(second.start, 2).is_none());
        assert_eq!(shares.free[0], 0..64 * MIB);
    }

    #[test]
    fn nothing_free_is_nothing_to_take() {
        let mut shares = Shares::of(5..5, MIB);
        assert_eq!(shares.take(4), None);
        assert_eq!(Shares::default().take(4), None);
    }
}
